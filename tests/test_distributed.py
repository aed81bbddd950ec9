"""One training in several processes: two of them on the CPU, which PyTorch's gloo connects."""

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.errors import UserError
from stages.data import MappedImages, load_split
from stages.model import load_model
from stages.train import __main__ as train
from stages.train.augment import batches, reader
from stages.train.processes import run_in_processes
from tests.conftest import TINY, Project, the_error
from tests.test_interrupted import TRAIN, wait_for_checkpoint
from tests.test_train import write_split

VIT = {"timm": "test_vit", "args": {"img_size": 32, "patch_size": 8, "dynamic_img_size": True}, "stem": None}
CPU = torch.device("cpu")

# Several trainings in the same processes: to start them takes longer than these trainings. It lies outside of the
# repository, so that it is no part of the code that a training resumes with.
IN_EACH = """
import os
from stages.train.__main__ import train_together

def train_in_each(group):
    for folder in os.environ["FOLDERS"].split():
        os.chdir(folder)
        train_together(group)
"""


@pytest.fixture
def few(project: Project) -> Project:
    """The project with 360 images to train on, so that starting processes takes longer than training."""
    split = load_split(project.path / "data/train")
    write_split(project, "train", split.images[:360], split.labels[:360], np.arange(360) % 10)
    project.set(models__tiny__epochs=3, train__precision="fp32", train__processes=2)
    return project


def curve(project: Project, name: str) -> list[float]:
    rows = (project.path / f"plots/training/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
    return [float(row.split()[-1]) for row in rows]


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_train_as_one_does_and_resume_after_one_was_killed(
    few: Project, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few.set(train__processes=size)
    undisturbed, vit, alone = (Project(shutil.copytree(few.path, few.path.with_name(name))) for name in "abc")

    process = few.start(*TRAIN)  # a network with batch norms
    wait_for_checkpoint(few, process)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 1, said
    (line,) = errors.splitlines()
    assert line.startswith(
        f"error: process 1 of {size} was ended by SIGKILL, and the others with it; earlier outputs are"
    )
    assert not (few.path / "models/trained").exists()

    vit.set(models__tiny=TINY | VIT | {"epochs": 3, "ema_decay": 0})
    monkeypatch.setenv("FOLDERS", " ".join(str(project.path) for project in (few, undisturbed, vit)))
    (tmp_path / "in_each.py").write_text(IN_EACH)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("DVC_ROOT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(few.path)
    run_in_processes(importlib.import_module("in_each").train_in_each, size)
    said = capfd.readouterr().out
    assert said.count("resuming after epoch") == 1, said
    assert few.weights() == undisturbed.weights()
    assert not list(few.path.glob(".dvc/tmp/train/*"))
    assert min(curve(few, "train/loss")) < curve(few, "train/loss")[0]
    load_model(few.path / "models/trained")

    # without batch norms it does not matter how many processes share a batch
    alone.set(models__tiny=TINY | VIT | {"epochs": 3, "ema_decay": 0}, train__processes=1)
    monkeypatch.chdir(alone.path)
    train.main()
    for name in ("train/loss", "val/loss"):
        assert curve(vit, name) == pytest.approx(curve(alone, name), rel=1e-3), name
    assert vit.weights() != alone.weights(), "the curve was not that of several processes"


def workers(pid: int) -> list[int]:
    """The processes that a training has started, in the order of their numbers."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return sorted(child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


@pytest.mark.parametrize("size", [2, 3, 12])
def test_the_shares_of_a_batch_are_the_batch_of_one_process(prepared: Path, size: int) -> None:
    images = load_split(prepared / "data/test").images[:48]
    options = {"flip": True, "translate": 2, "corruption": 0.7}

    def epoch(process: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(1)
        generator, read = torch.Generator().manual_seed(0), reader(MappedImages([images]), CPU)
        return list(batches(read, torch.arange(48), 32, 24, options, generator, 24, process))

    shares = [epoch((rank, size)) for rank in range(size)]
    for number, (x, y) in enumerate(epoch((0, 1))):
        for rank, share in enumerate(shares):
            assert torch.equal(share[number][1], y[rank::size])
            difference = (share[number][0].int() - x[rank::size].int()).abs()
            assert difference.max() <= 1, "more than a rounding that went the other way"
            assert (difference > 0).float().mean() < 1e-3


def test_torchrun_with_another_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        UserError, match=r"^torchrun has started 4 processes, but train\.processes is 2 in params\.yaml"
    ):
        run_in_processes(train.train_together, 2)


@pytest.mark.slow
def test_torchrun_starts_the_processes_too(few: Project) -> None:
    few.set(models__tiny__epochs=1)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    said = few.run(*torchrun, "-m", "stages.train").stdout
    assert said.count("epoch 1/1: loss") == 1, said
    by_torchrun = few.weights()
    few.stage("train")
    assert few.weights() == by_torchrun


@pytest.mark.slow
def test_a_mistake_in_several_processes_is_one_line_too(few: Project) -> None:
    shutil.rmtree(few.path / "data/val")
    assert "dvc pull data/val" in the_error(few.stage("train", ok=False))
