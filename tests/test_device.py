"""One GPU for one run, or the cores: real processes, real locks, and a `nvidia-smi` that pretends to see GPUs."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.cores import cgroup_quota

ROOT = Path(__file__).parent.parent
TWO = "GPU 0: Pretended (UUID: GPU-aaaa-0)\nGPU 1: Pretended (UUID: GPU-bbbb-1)"
SLICED = (
    "GPU 0: Pretended (UUID: GPU-aaaa-0)\n"
    "  MIG 3g.40gb     Device  0: (UUID: MIG-cccc-0)\n"
    "  MIG 3g.40gb     Device  1: (UUID: MIG-dddd-1)\n"
    "GPU 1: Pretended (UUID: GPU-bbbb-1)"
)
RUN = (
    "import os, sys, time; from detector import errors; from stages import device;"
    "errors.run(lambda: device.claim({processes}));"
    "print('sees', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); {then}"
)


class Machine:
    """A machine with pretended GPUs, on which runs are started."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.runs: list[subprocess.Popen[str]] = []
        self.environment = dict(os.environ, DVC_ROOT=str(folder), PYTHONPATH=str(ROOT))
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)
        (folder / "bin").mkdir()

    def gpus(self, listing: str, status: int = 0) -> None:
        program = self.folder / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\nexit {status}\n")
        program.chmod(0o755)
        self.environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def start(
        self, visible: str | None = None, then: str = "time.sleep(60)", processes: int = 1
    ) -> subprocess.Popen[str]:
        environment = dict(self.environment)
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        program = [sys.executable, "-c", RUN.format(then=then, processes=processes)]
        pipe = subprocess.PIPE
        run = subprocess.Popen(program, env=environment, stdout=pipe, stderr=pipe, text=True)
        self.runs.append(run)
        return run

    def says(self, visible: str | None = None) -> str:
        """What a run prints that claims and ends at once."""
        said, _ = self.start(visible, then="").communicate(timeout=20)
        return said


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for run in machine.runs:
        run.kill()
        run.communicate()


def line(run: subprocess.Popen[str]) -> str:
    assert run.stdout is not None
    return run.stdout.readline().strip()


def test_runs_at_once_get_different_gpus_and_a_third_waits_for_one(machine: Machine) -> None:
    machine.gpus(TWO)
    first = machine.start()
    assert [line(first), line(first)] == ["this run has GPU 0", "sees 0"]
    second = machine.start()
    assert [line(second), line(second)] == ["this run has GPU 1", "sees 1"]
    third = machine.start()
    assert line(third) == "all GPUs are taken (0, 1): waiting for one"

    second.send_signal(signal.SIGKILL)
    assert [line(third), line(third)] == ["this run has GPU 1", "sees 1"]


def test_a_run_of_several_processes_gets_a_gpu_for_each_or_waits_holding_none(machine: Machine) -> None:
    machine.gpus(TWO)
    small = machine.start()
    assert [line(small), line(small)] == ["this run has GPU 0", "sees 0"]
    large = machine.start(processes=2)
    assert line(large) == "too many GPUs are taken (0, 1): waiting for 2 of them"
    assert "sees 1" in machine.says()
    small.kill()
    assert [line(large), line(large)] == ["this run has GPU 0,1", "sees 0,1"]

    refused = machine.start(processes=3)
    _, errors = refused.communicate(timeout=20)
    assert refused.returncode == 1
    (told,) = errors.splitlines()
    assert told.startswith("error: train.processes is 3 in params.yaml, but this run may use 2 of the GPUs here (0, 1)")


def test_a_child_that_outlives_a_killed_run_does_not_keep_its_gpu(machine: Machine) -> None:
    machine.gpus("GPU 0: Pretended (UUID: GPU-aaaa-0)")
    run = machine.start(then="child = os.fork(); child and print(child, flush=True); time.sleep(60)")
    assert [line(run), line(run)] == ["this run has GPU 0", "sees 0"]
    child = int(line(run))
    try:
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert "sees 0" in machine.says()
    finally:
        os.kill(child, signal.SIGKILL)


def test_only_gpus_that_cuda_visible_devices_names_are_taken(machine: Machine) -> None:
    machine.gpus(TWO)
    assert "sees 1" in machine.says(visible="1")
    assert "sees 1" in machine.says(visible="1,0")
    assert "sees GPU-bbbb-1" in machine.says(visible="GPU-bbbb-1")


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_cuda_visible_devices_may_hide_all_gpus(machine: Machine, visible: str) -> None:
    machine.gpus(TWO)
    assert machine.says(visible) == f"sees {visible}\n"


def test_a_gpu_that_is_not_there_is_named(machine: Machine) -> None:
    machine.gpus(TWO)
    assert "this machine has no GPU 7" in machine.says(visible="7")


def test_number_and_uuid_of_one_gpu_are_one_gpu(machine: Machine) -> None:
    machine.gpus(TWO)
    assert line(machine.start(visible="1")) == "this run has GPU 1"
    by_uuid = machine.start(visible="GPU-bbbb")
    assert line(by_uuid) == "all GPUs are taken (GPU-bbbb): waiting for one"


def test_a_sliced_gpu_is_claimed_by_the_slice(machine: Machine) -> None:
    machine.gpus(SLICED)
    taken = [line(machine.start()) for _ in range(3)]
    assert taken == [f"this run has GPU {name}" for name in ("MIG-cccc-0", "MIG-dddd-1", "1")]


@pytest.fixture
def two_cores() -> Iterator[list[int]]:
    """As many as there are, two at most: what is started here has no others."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not tell which cores a process may use")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield sorted(before)[:2]
    os.sched_setaffinity(0, before)


def test_without_gpus_a_run_takes_the_cores_it_computes_with(machine: Machine, two_cores: list[int]) -> None:
    machine.gpus("No devices were found")
    cores = len(two_cores)
    machine.environment.pop("OMP_NUM_THREADS", None)
    first = machine.start()
    assert line(first) == "sees None"
    second = machine.start()
    assert line(second).startswith(f"other runs have the processor: waiting for {cores} of its cores;")
    first.send_signal(signal.SIGKILL)
    assert line(second) == "sees None"
    second.kill()
    second.wait()

    machine.environment["OMP_NUM_THREADS"] = "1"
    side_by_side = [machine.start() for _ in range(cores)]
    assert [line(run) for run in side_by_side] == ["sees None"] * cores
    assert line(machine.start()).startswith("other runs have the processor: waiting for 1 of its cores;")
    several = machine.start(processes=2)
    assert line(several).startswith(f"other runs have the processor: waiting for {cores} of its cores;")


def test_without_gpus_the_reason_is_told(machine: Machine) -> None:
    machine.environment["PATH"] = str(machine.folder / "bin")  # no nvidia-smi at all
    assert machine.says() == "sees None\n"
    machine.gpus("NVIDIA-SMI has failed", status=9)
    assert "no GPU" in machine.says()


def test_the_number_of_threads_is_left_alone(machine: Machine) -> None:
    """The bytes of the trained model would change with it. OpenMP does not know of a container's quota, though."""
    machine.environment.pop("OMP_NUM_THREADS", None)
    said, _ = machine.start("", "import stages; print('OMP_NUM_THREADS' in os.environ)").communicate(timeout=60)
    assert said.splitlines()[-1] == str(cgroup_quota() is not None)


def test_the_cpu_is_described_by_what_its_results_depend_on(machine: Machine) -> None:
    said, _ = machine.start("", then="print(device.device_name())").communicate(timeout=60)
    assert re.search(r"^.+, \d+ threads?, \w+$", said, re.MULTILINE)
