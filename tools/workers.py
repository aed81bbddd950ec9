"""The workers of DVC's queue: processes that run one queued experiment after the other."""

import contextlib
import json
import subprocess
from pathlib import Path

import psutil

from detector.errors import UserError
from tools.shell import DVC


def start_workers(jobs: int) -> None:
    # a worker holds on to the pipes that it inherits: reading them would take until it ends
    quiet = subprocess.DEVNULL
    if subprocess.run([DVC, "queue", "start", "--jobs", str(jobs)], stdout=quiet, stderr=quiet).returncode:
        raise UserError("`dvc queue start` failed: run it by hand to see why")


def living(workers: set[int], folder: Path) -> set[int]:
    """Return the process ids of the workers, those of `workers` and any new ones, that still live.

    `dvc queue status` asks them, and busy ones answer too late: it then starts others of the same name, whose files
    take the place of the first ones', so those must be remembered.
    """
    found = set(workers)
    for path in folder.glob("dvc-exp-worker-*.json"):
        worker = json.loads(path.read_text())
        if worker["returncode"] is None:
            found.add(worker["pid"])
        else:  # the number may belong to a later process
            found.discard(worker["pid"])
    return {pid for pid in found if is_worker(pid)}


def is_worker(pid: int) -> bool:
    """Say whether a process is a worker of DVC's queue.

    After a reboot, or on another node, a file still has the number of a worker that is gone, and another program may
    have it. What that is called tells them apart; its age beside the file's would not where a file server's clock
    differs.
    """
    with contextlib.suppress(psutil.Error):  # there is none, or it is somebody else's
        return "queue-worker" in psutil.Process(pid).cmdline()
    return False
