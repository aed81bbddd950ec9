"""benchmarks.gpu, as far as a CPU can try it: it refuses without a GPU, and its parts say what they should."""

import re
import sys

import pytest
import torch

from benchmarks import gpu, gpu_step
from benchmarks.gpu_step import Run, Task, checks, curve, determinism, profile
from detector.errors import UserError
from stages.data import MappedImages
from stages.params import load_params
from stages.train.augment import reader
from stages.train.network import compute_deterministically
from tests.conftest import ROOT, TINY


@pytest.fixture(scope="module")
def task() -> Task:
    compute_deterministically()
    device, spec = torch.device("cpu"), TINY | {"input_size": None, "batch_size": 8}
    images = torch.randint(0, 256, (48, 32, 32, 3), dtype=torch.uint8)
    targets = torch.stack([torch.randint(2, (48,)), torch.randint(-1, 10, (48,))], 1)
    read = reader(MappedImages([images.numpy()]), device)
    return Task(spec, load_params()["train"], 32, read, targets, device, "fp32")


def test_without_a_gpu_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["gpu"])
    before = (ROOT / gpu.RESULT).read_bytes()
    with pytest.raises(UserError, match=r"^there is no GPU here, and this measures one: run it where `nvidia-smi -L` "):
        gpu.main()
    assert (ROOT / gpu.RESULT).read_bytes() == before


def test_the_checks_hold_and_a_wrong_one_is_noticed(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks(task, steps=2)
    precision = found.pop("bf16 against fp32")
    assert set(found.values()) == {"the same bytes"}
    assert len(found) == 5
    loss, cosine = re.fullmatch(r"loss ([+-][\d.]+)%, cosine of the gradients ([\d.]+)", precision).groups()  # type: ignore[union-attr]
    assert abs(float(loss)) < 5
    assert 0.9 < float(cosine) < 1

    monkeypatch.setattr(Run, "restore", lambda *_: None)
    found = checks(task, steps=1)
    assert found["eager, twice"] == "the same bytes"
    assert re.fullmatch(r"\*\*\d+ of \d+ tensors differ\*\*", found["eager, resumed after an epoch"])


def test_every_part_of_a_step_has_a_time(task: Task) -> None:
    rows = profile(task, side=64, steps=1, turns=1)
    numbers = [float(value.split(",")[0]) for name, value in rows.items() if "images/s" not in name]
    assert len(numbers) == 10
    assert all(number >= 0 for number in numbers)
    assert list(curve(task, (16, 48, 64), steps=1, turns=1)) == ["16", "48"], "there are 48 images"
    rates = determinism(task, steps=1, turns=1)
    assert len(rates) == 6
    assert torch.are_deterministic_algorithms_enabled(), "as before"


def test_what_does_not_fit_into_memory_ends_the_curve(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(one: Run) -> None:
        torch.empty(2**50 if one.batch_size > 20 else 1, dtype=torch.uint8)

    monkeypatch.setattr(gpu_step.Run, "one_step", step)
    rows = curve(task, (16, 24, 32), steps=1, turns=1)
    assert list(rows) == ["16", "24"]
    assert rows["24"] == "out of memory"
