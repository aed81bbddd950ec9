"""A training that is interrupted: nothing half-written stays, and it resumes with the bytes of the undisturbed one."""

import os
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
    project.leave_out("dvc.yaml", "evaluate", "export", "external")
    project.leave_out("dvc.lock", "train", "evaluate", "export", "external")  # as if only `prepare` had run
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
