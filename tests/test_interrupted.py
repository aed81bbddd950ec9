"""A training that is interrupted: nothing half-written stays, and it resumes with the bytes of the undisturbed one."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, Project, the_error

TRAIN = (sys.executable, "-u", "-m", "stages.train")


@pytest.fixture(scope="module")
def undisturbed(pipeline: Path) -> str:
    """The weights of a finished training."""
    return Project(pipeline).weights()


def wait_for_checkpoint(project: Project, process: subprocess.Popen[str]) -> None:
    """Until the first epoch is finished."""
    deadline = time.monotonic() + 600
    while not list(project.path.glob(".dvc/tmp/train/*/checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
def test_a_killed_run_resumes_and_ends_with_the_bytes_of_the_undisturbed_one(
    project: Project, undisturbed: str
) -> None:
    process = project.start(*TRAIN)
    wait_for_checkpoint(project, process)
    process.send_signal(signal.SIGSTOP)
    refused = the_error(project.stage("train", ok=False))
    assert "this very experiment is being trained by another process" in refused
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (project.path / "models/trained").exists()

    assert not resumes_after_an_edit(project, "detector/cores.py")
    assert "resuming after epoch" in project.stage("train").stdout
    assert project.weights() == undisturbed
    assert list((project.path / ".dvc/tmp/train").iterdir()) == []  # a finished run leaves no state
    rows = (project.path / "plots/training/plots/metrics/val/loss.tsv").read_text().splitlines()
    assert len(rows) == 1 + TINY["epochs"]


def resumes_after_an_edit(project: Project, module: str) -> bool:
    """Whether a copy of the project resumes although a module that training imports has changed."""
    copy = Project(project.path.with_name("edited"))
    shutil.copytree(project.path, copy.path)
    with (copy.path / module).open("a") as file:
        file.write("# changed\n")
    process = copy.start(*TRAIN)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "parameters" in line:  # the line before the first epoch
            break
    process.kill()
    process.communicate()
    assert "parameters" in lines[-1]
    return any("resuming" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    [
        {"optimizer": "sgd", "learning_rate": 0.1},
        {
            "timm": "test_vit",
            "args": {"img_size": 32, "patch_size": 8},
            "stem": None,
            "crop_epochs": 0,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
        },
    ],
)
def test_other_networks_and_optimizers_resume_to_the_byte_too(
    project: Project, train_here: Callable[[], str], entry: dict[str, Any]
) -> None:
    project.set(models__tiny=TINY | entry)
    train_here()
    expected = project.weights()
    process = project.start(*TRAIN)
    wait_for_checkpoint(project, process)
    process.kill()
    process.communicate()
    assert "resuming after epoch" in project.stage("train").stdout
    assert project.weights() == expected


@pytest.mark.long
def test_a_queued_run_that_was_killed_resumes_when_it_is_queued_again(
    pipeline: Path, tmp_path: Path, undisturbed: str
) -> None:
    project = Project(shutil.copytree(pipeline, tmp_path / "project"))
    project.leave_out("dvc.yaml", "evaluate", "export", "external", "card")
    project.leave_out("dvc.lock", "train", "evaluate", "export", "external", "card")  # as if only `prepare` had run
    project.commit("only prepared")
    sweep = project.start(sys.executable, "-m", "tools.sweep", "-S", "seed=0")
    wait_for_checkpoint(project, sweep)
    kill_training(project)
    said, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, said + errors
    assert said.count(" failed: queued again as ") == 1, said
    again = said.split(" failed: queued again as ")[1].splitlines()[0]
    assert "resuming after epoch" in project.run("dvc", "queue", "logs", again).stdout
    project.run("dvc", "exp", "apply", again)
    assert project.weights() == undisturbed


def kill_training(project: Project) -> None:
    """SIGKILL the training that works somewhere below the project's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            below = (process / "cwd").readlink().is_relative_to(project.path)
            if below and b"-m\0stages.train" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


@pytest.mark.slow
def test_a_training_killed_ten_times_ends_with_the_bytes_of_the_undisturbed_one(project: Project) -> None:
    """At seeded instants, with all processes of its group, as a cluster does."""
    epochs = 30
    project.set(models__tiny=TINY | {"epochs": epochs})
    project.stage("train")
    expected = project.weights()
    an_epoch = json.loads((project.path / "metrics/train.json").read_text())["seconds"] / epochs
    shutil.rmtree(project.path / "models/trained")
    instants = random.Random(0)
    finished = 0  # epochs that are known to be in the checkpoint
    for _ in range(10):
        process = project.start(*TRAIN, start_new_session=True)
        before = checkpoint_time(project)
        while checkpoint_time(project) == before:  # one epoch more, at least
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(instants.uniform(0, an_epoch))
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, "the training was faster than the kill"
        assert resumed_after(said) >= finished, said
        finished = resumed_after(said) + 1
        assert not (project.path / "models/trained").exists()
    assert 10 <= resumed_after(project.stage("train").stdout) < epochs
    assert project.weights() == expected
    assert list((project.path / ".dvc/tmp/train").iterdir()) == []


def checkpoint_time(project: Project) -> int | None:
    """When the checkpoint was written, in nanoseconds; None where there is none."""
    for checkpoint in project.path.glob(".dvc/tmp/train/*/checkpoint.safetensors"):
        return checkpoint.stat().st_mtime_ns
    return None


def resumed_after(said: str) -> int:
    """The epoch after which a training says that it resumes; 0 where it began anew."""
    found = re.search(r"^resuming after epoch (\d+) of ", said, re.MULTILINE)
    return int(found[1]) if found else 0


# Every Python loads it. A process dies before its nth rename of what `atomic_write` has written or moved aside.
KILLER = r"""
import os, re, signal, sys

left = int(os.environ.get("KILL_AT", "0"))

def before(event, arguments):
    global left
    if event == "os.rename" and re.search(r"\.\d+\.(new|old)\b", f"{arguments[0]} {arguments[1]}"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(before)
"""
EXPLAINED, EPOCHS = {"evaluate__explained": 4}, {"models__tiny__epochs": 2}


@pytest.mark.parametrize(
    ("stage", "rename", "changed"),
    [
        # of export: its metrics, the old folder of the model, the new one
        pytest.param("export", 2, None, marks=pytest.mark.long),
        pytest.param("export", 3, None, marks=pytest.mark.slow),
        # of train: two checkpoints, the old folder, the new one, the old curves, the new ones, the metrics
        *[pytest.param("train", rename, EPOCHS, marks=pytest.mark.slow) for rename in (4, 5, 6, 7)],
        # of evaluate: the old plots, the new ones, and three files
        *[pytest.param("evaluate", rename, EXPLAINED, marks=pytest.mark.slow) for rename in (2, 3, 4, 5)],
    ],
)
def test_killed_between_two_outs_of_a_stage_the_next_run_makes_them_anew(
    here: Project, tmp_path: Path, stage: str, rename: int, changed: dict[str, Any] | None
) -> None:
    """With other parameters than those of the committed outs, or, where none change, with --force."""
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer/sitecustomize.py").write_text(KILLER)
    here.env["CIFAKE_SOURCE"] = "data/sample"
    before = outs(here)
    undisturbed = Project(shutil.copytree(here.path, tmp_path / "undisturbed"))
    for project in (here, undisturbed):
        project.set(**(changed or {}))
    undisturbed.stage(stage)
    assert (outs(undisturbed) == before) == (changed is None)
    repro = ["dvc", "repro", "--single-item", "--no-run-cache", stage]
    here.env |= {"PYTHONPATH": str(tmp_path / "killer"), "KILL_AT": str(rename)}
    here.run(*repro, *([] if changed else ["--force"]), ok=False)
    assert [path for name in ("models", "metrics", "plots") for path in (here.path / name).glob(".*.*.new")]
    here.env["KILL_AT"] = "0"
    here.run("dvc", "repro", "--no-run-cache", stage)
    differs = {name for name, content in outs(undisturbed).items() if outs(here).get(name) != content}
    assert (outs(here).keys(), differs) == (outs(undisturbed).keys(), set())
    if changed:  # and back again, which the half of the outs that were new must not hinder
        here.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
        here.run("dvc", "repro", "--no-run-cache", stage)
        assert outs(here) == before


def outs(project: Project) -> dict[str, bytes]:
    """What the stages have written, hidden files too, but for the files that say how fast training was, and for the
    model card, which has to be written anew for a new export."""
    timed = {"metrics/train.json", "plots/training/metrics.json"}
    timed |= {f"plots/training/plots/metrics/{name}.tsv" for name in ("seconds", "images_per_second")}
    left_out = {*timed, "models/exported/README.md"}
    return {name: content for name, content in project.outputs().items() if name not in left_out}


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_stopping_a_run_takes_one_line_and_leaves_no_half_written_model(
    project: Project, sent: signal.Signals, status: int
) -> None:
    process = project.start(*TRAIN)
    wait_for_checkpoint(project, process)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode == status
    assert [line for line in errors.splitlines() if "error: " in line], errors
    assert "Traceback" not in errors
    written = {name for name in project.outputs() if not name.startswith("plots/data/")}
    assert written <= {"metrics/prepare.json", "metrics/.gitignore", "models/.gitignore"}
