"""Whoever runs out of memory, the program ends in one line that says what to lower."""

import errno
import io
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from detector import errors
from tests.conftest import TINY, Project, copy_project, the_error

SIDE, IMAGES = 128, 27_000
DATA = IMAGES * SIDE * SIDE * 3  # bytes once packed: 1.3 GB


@pytest.mark.long
def test_more_is_packed_and_trained_on_than_may_be_in_memory(tmp_path: Path) -> None:
    copy_project(tmp_path / "project")
    project = Project(tmp_path / "project")
    (project.path / "pictures").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(300):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        # one long prompt: no name may cost each picture its length
        row = {"image": {"bytes": file.getvalue(), "path": None}, "label": number % 2}
        rows += [row | {"prompt": f"prompt {number}" if number else "a ship, " * 2500}] * (IMAGES // 300)
    pq.write_table(pa.Table.from_pylist(rows), project.path / "pictures/all.parquet")
    del rows
    columns = {"image": "image", "group": "prompt"}
    entry = {"path": "pictures", "labels": {"FAKE": 0, "REAL": 1}, "image_size": SIDE, **columns}
    patches = {"timm": "test_vit", "args": {"img_size": SIDE, "patch_size": 32}, "stem": None, "optimizer": "adamw"}
    small = TINY | patches | {"epochs": 1, "crop_epochs": 0, "batch_size": 30}
    project.set(dataset="mine", datasets__mine=entry, models__tiny=small, train__augment__corruption=0)
    most = peak_anonymous_memory(project, "prepare")
    assert most < DATA / 2, f"prepare had {most / 1e6:.0f} MB of its own, beside the map's pages"
    # torch and timm have half a gigabyte, more on some processors than on others: what counts comes on top of it
    most = peak_anonymous_memory(project, "train") - memory_of_imports("torch, timm")
    assert most < DATA / 4, f"train had {most / 1e6:.0f} MB of its own, beside torch, timm and the map's pages"
    packed = sum(file.stat().st_size for file in (project.path / "data").rglob("*.safetensors"))
    assert packed > DATA


def peak_anonymous_memory(project: Project, stage: str) -> int:
    """Run a stage. Returns the most memory in bytes that is not a file's pages, of it and its processes; what these
    share counts once (Pss_Anon)."""
    command = [sys.executable, "-m", f"stages.{stage}"]
    most = 0
    with subprocess.Popen(command, cwd=project.path, env=project.env, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(map(anonymous_memory, [process.pid, *children(process.pid)])))
            time.sleep(0.05)
    assert process.returncode == 0
    return most


def memory_of_imports(modules: str) -> int:
    """The memory in bytes that is not a file's pages, of a process that has imported modules and done nothing else."""
    program = f"import pathlib, {modules}; print(pathlib.Path('/proc/self/smaps_rollup').read_text())"
    result = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return anonymous(result.stdout)


def anonymous_memory(pid: int) -> int:
    try:
        return anonymous(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def anonymous(smaps_rollup: str) -> int:
    found = re.search(r"Pss_Anon:\s+(\d+) kB", smaps_rollup)
    return 1024 * int(found[1]) if found else 0


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.mark.long
@pytest.mark.parametrize("changes", [{"timm": "resnet50", "stem": None}, {"input_size": 224}])
def test_out_of_memory_is_one_line(project: Project, changes: dict[str, Any]) -> None:
    project.set(models__tiny=TINY | {"batch_size": 2100} | changes)

    def limit_memory() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2_000_000_000, 2_000_000_000))

    result = project.stage("train", ok=False, preexec_fn=limit_memory)
    assert result.returncode == 1
    assert "for training, lower models.<name>.batch_size" in the_error(result)
    assert not (project.path / "models/trained").exists()


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**50, dtype=torch.uint8),  # no address space is so large
        lambda: np.empty(2**50, np.uint8),
        lambda: fail(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
        lambda: fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        lambda: fail(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_whoever_runs_out_of_memory_it_is_the_same_line(
    allocate: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # `run` replaces it
    with pytest.raises(SystemExit) as stop:
        errors.run(allocate)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")
    assert "models.<name>.batch_size" in line
