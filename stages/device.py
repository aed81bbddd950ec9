"""GPUs for each run, one or as many as it has processes, or, without a GPU, cores of its own.

DVC has no notion of GPUs: all workers of `dvc queue` inherit one environment, and their runs would all use the first
GPU. Runs that share cores are as bad: threads of one run wait, spinning, for threads that the other run keeps from
running. Measured on two cores: two runs of two threads each train resnet18 in bf16 at a twentieth of the speed of one,
two of one thread each at 1.2 times.
"""

import contextlib
import fcntl
import functools
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

from detector.cores import thread_count, usable_cores
from detector.errors import UserError

POLL_SECONDS = 0.5
_held: list[int] = []  # open lock files


@functools.cache  # a process that has a device keeps it
def claim(processes: int = 1) -> str | None:
    """Take one GPU for each process of a run or, without a GPU, cores for the rest of this process; wait while they are
    taken, holding none.

    It must be called before CUDA starts. Candidates are the GPUs (or MIG slices) that `CUDA_VISIBLE_DEVICES` names, or
    all that `nvidia-smi` lists. Those that are taken become the only ones in `CUDA_VISIBLE_DEVICES`. Without a GPU,
    `OMP_NUM_THREADS` says how many cores are taken, one for each process at least; without that variable, all of them.
    Each GPU and each core is a file in `$DVC_ROOT/.dvc/tmp/device/`, locked while it is taken. The kernel unlocks it
    when the process ends, however it ends. Returns the GPUs' ids with commas between them, or None without a GPU.
    Raises UserError where there are fewer GPUs than processes.
    """
    gpus = gpu_candidates()
    if not gpus:
        usable = usable_cores()
        # torch's own choice leaves out hyperthreads, but work on hyperthreads slows this run too
        wanted = min(len(usable), max(processes, thread_count()))
        message = f"other runs have the processor: waiting for {wanted} of its cores; fewer with OMP_NUM_THREADS=1"
        _take({str(core): f"core-{core}.lock" for core in usable}, wanted, message)
        return None
    if processes > len(gpus):
        raise UserError(
            f"train.processes is {processes} in params.yaml, but this run may use {len(gpus)} of the GPUs here "
            f"({', '.join(gpus)}): lower it, or name more in CUDA_VISIBLE_DEVICES"
        )
    are_taken, some = ("all GPUs are", "one") if processes == 1 else ("too many GPUs are", f"{processes} of them")
    taken = _take(gpus, processes, f"{are_taken} taken ({', '.join(gpus)}): waiting for {some}")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # count them as nvidia-smi does
    os.environ["CUDA_VISIBLE_DEVICES"] = names = ",".join(taken)
    print(f"this run has GPU {names}", flush=True)
    return names


def _take(locks: dict[str, str], number: int, message: str) -> list[str]:
    """Lock `number` of the files {name: file} until this process ends, and return their names. Where too few are free,
    print the message and wait, holding none."""
    root = os.environ.get("DVC_ROOT", ".")  # inside a queued run: the repository it was queued in
    folder = Path(root, ".dvc", "tmp", "device")
    folder.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        taken: dict[str, int] = {}
        for name, lock in locks.items():
            if len(taken) < number and (file := _lock(folder / lock)) is not None:
                taken[name] = file
        if len(taken) == number:
            _held.extend(taken.values())
            return list(taken)
        for file in taken.values():
            os.close(file)
        if not waiting:
            print(message, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)


def device_name() -> str:
    """Return the device torch computes on, as far as the bytes of a trained model depend on it.

    Such as `NVIDIA H100 80GB HBM3` or `AMD EPYC, 2 threads, AVX2`.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has the file, and needs it
        cpus = Path("/proc/cpuinfo").read_text()
        if model := re.search(r"^model name\s*: (.+)$", cpus, re.MULTILINE):
            name = model[1]
    threads = torch.get_num_threads()
    capability = "AMX" if torch.cpu._is_amx_tile_supported() else torch.backends.cpu.get_cpu_capability()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}, {capability}"


def peak_memory_mb() -> int:
    """Return the most memory that torch had on the GPU, or this process without a GPU, in MiB."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def gpu_candidates() -> dict[str, str]:
    """Return names for `CUDA_VISIBLE_DEVICES`, in its order, each with the name of its lock file."""
    listed = _listed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(listed))
    gpus = {}
    for name in map(str.strip, visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # CUDA, too, ends its list at the first entry that names nothing, such as -1
        # a number and (the beginning of) a UUID may name the same GPU and must meet at one lock
        same = [number for number, uuid in listed.items() if name == number or uuid.startswith(name)]
        if listed and not same:
            print(f"CUDA_VISIBLE_DEVICES={visible}: this machine has no GPU {name}", flush=True)
            break
        lock = same[0] if same else name
        gpus[name] = lock.replace("/", "_") + ".lock"  # some MIG slices are MIG-GPU-<uuid>/1/0
    return gpus


def _listed() -> dict[str, str]:
    """What `nvidia-smi` lists: {number: UUID} of the GPUs, {UUID: UUID} of their MIG slices."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", "-L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no GPU: {error}", flush=True)
        return {}
    listed = {}
    number = ""
    for line in answer.stdout.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            number = gpu[1]
            listed[number] = gpu[2]
        elif mig := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            listed.pop(number, None)  # a sliced GPU is used through its slices alone
            listed[mig[1]] = mig[1]
    return listed


def _lock(path: Path) -> int | None:
    """Lock `path` while the file returned is open; None if another process has it locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)  # Python closes it in programs it starts
    with contextlib.suppress(PermissionError):
        os.fchmod(file, 0o666)  # the repository may be shared by several people
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _let_go() -> None:
    """Unlock in a forked child: a child that outlives a killed run must not keep its GPU locked."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
