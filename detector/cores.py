"""Which of the processor's cores this process may use, and how many threads compute."""

import os


def usable_cores() -> list[int]:
    """Return the numbers of the logical CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def thread_count() -> int:
    """Return how many threads compute: OMP_NUM_THREADS where it is a number, else one for each usable core."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isdecimal() and int(given) else len(usable_cores())
