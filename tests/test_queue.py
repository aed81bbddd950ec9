"""`dvc queue` and `make sweep` in a real repository, with two pretended GPUs and runs of a second."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from detector.cores import usable_cores
from tools.workers import living

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# A stage as short as can be: it claims a GPU as train does, and notes when it had which.
STAGE = """
import json, os, signal, sys, time
from pathlib import Path
from stages import device
from stages.params import load_params

params = load_params()
gpu = device.claim()
notes = Path(os.environ["DVC_ROOT"]) / "notes"
note = {"gpu": gpu, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}
(notes / f"{os.getpid()}.start").write_text(json.dumps(note | {"start": time.time()}))
fault = notes / f"fault-{params['seed']}"
if fault.exists() and fault.read_text() == "killed once":
    fault.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
elif fault.exists():
    sys.exit("error: pretended fault")
time.sleep(params["seconds"])
Path("metric.json").write_text(json.dumps({"accuracy": params["seed"] / 10}))
(notes / f"{os.getpid()}.end").write_text(json.dumps(note | {"end": time.time()}))
"""
PIPELINE = """
stages:
  train:
    cmd: python stage.py
    params: [seed, seconds]
    metrics:
      - metric.json:
          cache: false
"""


class Repository:
    def __init__(self, path: Path):
        self.path = path
        self.notes = path / "notes"
        self.notes.mkdir(parents=True)
        bin_folder = path.parent / "bin"
        bin_folder.mkdir()
        self.nvidia_smi = bin_folder / "nvidia-smi"
        listing = "GPU 0: Pretended (UUID: GPU-aaaa-0)\nGPU 1: Pretended (UUID: GPU-bbbb-1)"
        self.nvidia_smi.write_text(f"#!/bin/sh\necho '{listing}'\n")
        self.nvidia_smi.chmod(0o755)
        folders = [str(bin_folder), str(BIN), os.environ["PATH"]]
        who = {"NAME": "tests", "EMAIL": "tests@example.com"}
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join(folders),
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
            **{f"GIT_{role}_{key}": who[key] for role in ("AUTHOR", "COMMITTER") for key in who},
        }
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)
        (path / "stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(PIPELINE)
        (path / "params.yaml").write_text("seed: 0\nseconds: 1.0\n")
        (path / ".gitignore").write_text("/notes\n__pycache__/\n")
        self.do("git", "init", "--quiet")
        self.do("dvc", "init", "--quiet")
        self.do("git", "add", ".")
        self.do("git", "commit", "--quiet", "--message", "first")

    def do(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(words, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sweep(self, *words: str, status: int = 0) -> str:
        return self.do(sys.executable, "-m", "tools.sweep", *words, status=status)

    def accuracies(self) -> list[float]:
        """Of the experiments that `dvc exp show` shows with a result, in order."""
        baseline = json.loads(self.do("dvc", "exp", "show", "--json", "--hide-workspace"))
        runs = [run["revs"][0]["data"] for row in baseline for run in row["experiments"] or []]
        metrics = [run["metrics"].get("metric.json", {}) for run in runs if run]
        return sorted(metric["data"]["accuracy"] for metric in metrics if metric.get("data"))

    def noted(self, moment: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self.notes.glob(f"*.{moment}")]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "repository")
    yield repository
    subprocess.run(  # its workers would live on for ten seconds
        ["dvc", "queue", "stop", "--kill"],
        cwd=repository.path,
        env=repository.environment,
        capture_output=True,
    )


def wait_for(condition: Callable[[], Any], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


@pytest.mark.long
def test_six_queued_runs_share_two_gpus_never_two_on_one(repository: Repository) -> None:
    """Three at once, so that one must wait, and one is killed while it has its GPU."""
    (repository.notes / "fault-1").write_text("killed once")
    said = repository.sweep("--jobs", "3", "-S", "seed=0,1,2,3,4,5")
    assert said.count("failed: queued again as") == 1
    assert repository.accuracies() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]

    ends = {note["pid"]: note["end"] for note in repository.noted("end")}
    starts = repository.noted("start")
    assert len(starts) == 7
    for gpu in ("0", "1"):
        runs = sorted((run for run in starts if run["gpu"] == gpu), key=lambda run: run["start"])
        assert len(runs) > 1
        for earlier, later in pairwise(runs):
            assert ends.get(earlier["pid"], earlier["start"]) <= later["start"]


@pytest.mark.long
def test_without_gpus_two_runs_at_a_time_share_out_the_cores(repository: Repository) -> None:
    repository.nvidia_smi.write_text("#!/bin/sh\necho No devices were found\n")
    repository.environment.pop("OMP_NUM_THREADS", None)
    repository.sweep("--jobs", "2", "-S", "seed=1,2")
    assert repository.accuracies() == [0.1, 0.2]
    share = max(1, len(usable_cores()) // 2)
    assert [note["threads"] for note in repository.noted("start")] == [str(share)] * 2


@pytest.mark.slow
def test_sweep_names_what_keeps_failing(repository: Repository) -> None:
    (repository.notes / "fault-2").write_text("always")
    (repository.path / "forgotten.py").write_text("")
    said = repository.sweep("-S", "seed=2", status=1)
    assert "warning: queued runs will not see forgotten.py" in said
    assert said.count("failed: queued again as") == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 1 experiments failed 3 times. See: dvc queue logs ")
    assert "pretended fault" in repository.do(*last.split("See: ")[1].split())


@pytest.mark.slow
def test_sweep_starts_a_new_worker_when_one_dies(repository: Repository) -> None:
    words = [sys.executable, "-m", "tools.sweep", "--jobs", "1", "-S", "seed=1,2"]
    sweep = subprocess.Popen(
        words,
        cwd=repository.path,
        env=repository.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: repository.noted("start"))
    workers = repository.path / ".dvc" / "tmp" / "exps" / "celery"
    worker = json.loads((workers / "dvc-exp-worker-1.json").read_text())
    os.kill(worker["pid"], signal.SIGKILL)
    said, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said
    assert "has lost its worker" in said
    assert repository.accuracies() == [0.1, 0.2]


def note_worker(folder: Path, number: int, pid: int) -> None:
    """Write what DVC writes of a worker that it has started."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = {"pid": pid, "stdin": None, "stdout": None, "stderr": None, "returncode": None}
    (folder / f"dvc-exp-worker-{number}.json").write_text(json.dumps(noted))


@pytest.mark.long
def test_a_sweep_goes_on_after_a_reboot(repository: Repository) -> None:
    """The machine went down with its worker, whose number another program has now: this one."""
    note_worker(repository.path / ".dvc/tmp/exps/celery", 1, os.getpid())
    repository.sweep("--jobs", "1", "-S", "seed=1")
    assert repository.accuracies() == [0.1]


def test_programs_that_are_no_workers_are_not_taken_for_them(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    words = [sys.executable, "-c", "input()", "exp", "queue-worker", "dvc-exp-1a2b3c-4@localhost"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as worker:
        for number, pid in enumerate((1, os.getpid(), ended.pid, worker.pid), start=1):  # 1: of another user, often
            note_worker(tmp_path, number, pid)
        assert living({os.getpid()}, tmp_path) == {worker.pid}


@pytest.mark.slow
def test_a_sweep_runs_nothing_twice(repository: Repository) -> None:
    repository.do("dvc", "exp", "run", "--queue", "--name", "waits", "-S", "seed=1")
    assert "seed=1: it waits in the queue already, waits" in repository.sweep("-S", "seed=1,2")
    assert repository.accuracies() == [0.1, 0.2]
    said = repository.sweep("-S", "seed=1,2,3")
    assert said.count("it has its result") == 2
    assert "queued 1 experiments" in said
    assert repository.accuracies() == [0.1, 0.2, 0.3]
    assert len(repository.noted("start")) == 3


def test_sweep_refuses_a_misspelt_parameter_in_one_line(repository: Repository) -> None:
    said = repository.sweep("-S", "sede=1,2", status=1)
    assert said.startswith("error: ")
    assert "sede" in said
    assert len(said.splitlines()) == 1
