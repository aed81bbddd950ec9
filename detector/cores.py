"""Which of the processor's cores this process may use, and how many threads compute: one rule for every program.
And what becomes of the memory that it frees."""

import contextlib
import ctypes
import math
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


def usable_cores() -> list[int]:
    """Return the numbers of the logical CPUs that this process may use: those of its affinity, and of them no more than
    the time that its cgroup has (`docker run --cpus`, Kubernetes' limits), rounded up."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota = cgroup_quota()
    return allowed if quota is None else allowed[: max(1, math.ceil(quota))]


def thread_count() -> int:
    """Return how many threads compute: OMP_NUM_THREADS where it is a number, else one for each usable core."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isdecimal() and int(given) else len(usable_cores())


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the cores' worth of time that the process's cgroup and those above it have, None without a limit.

    root: where /proc and /sys are.
    """
    quotas = []
    with contextlib.suppress(OSError):  # Linux alone has cgroups
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # version 2 has one tree for all controllers; a container sees its own cgroup as the tree's root
            mount = root / ("sys/fs/cgroup/cpu" if controllers else "sys/fs/cgroup")
            below = Path(path.strip("/"))
            quotas += [quota for part in (below, *below.parents) if (quota := read_quota(mount / part)) is not None]
    return min(quotas, default=None)


def read_quota(folder: Path) -> float | None:
    """Return the quota of one cgroup, in cores, None without one."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # versions 2 and 1
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((folder / file).read_text() for file in files).split()
            if quota != "max" and int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
    return None


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors, for trainings, and for programs that end soon.

    By default it hands every large tensor back to the kernel and gets it again in the next step, zeroed page by page:
    a step of resnet18 takes 1.2 times as long (two cores, fp32). Opening a model copies its kernels several times, each
    copy on such pages. Other C libraries are left alone.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_ARENA_MAX, 1)  # what the forward pass frees serves the backward pass, a thread of its own
