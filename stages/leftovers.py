"""What killed processes and DVC have left behind is put back or removed, before anything else is done.

    python -m stages.leftovers

The first stage does so, and `make demo` and the sweep before they queue.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path

from detector.errors import run
from detector.files import restore

OUTS = ("data", "models", "metrics", "plots")  # the folders of what the stages write
CHECKPOINT_DAYS = 30  # after which the state of a training that nobody resumes is removed
IN_CACHE = r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$"  # where DVC's links lead to


def tidy() -> None:
    """Put the working folder in order, and .dvc/tmp of the repository that the user works in."""
    temporary = Path(os.environ.get("DVC_ROOT", "."), ".dvc/tmp")
    remove_broken_lock(temporary / "rwlock")
    remove_old_checkpoints(temporary / "train")
    for name in OUTS:
        for leftover in sorted(Path(name).glob(".*.old")) + sorted(Path(name).glob(".*.new")):
            if found := re.fullmatch(r"\.(.+)\.\d+\.(old|new)", leftover.name):
                restore(Path(name, found[1]))
        remove_dangling_links(Path(name))


def remove_broken_lock(path: Path) -> None:
    """Remove DVC's list of who reads and writes, where DVC was killed while it wrote it: every command would fail."""
    for wait in (0.5, 0):  # a living DVC writes it anew in an instant
        with contextlib.suppress(FileNotFoundError):
            try:
                json.loads(path.read_text())
                return
            except ValueError:
                time.sleep(wait)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        print(f"{path} was broken, by a DVC that was killed: removed", flush=True)


def remove_old_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("*"):
        newest = max((file.stat().st_mtime for file in checkpoint.glob("*")), default=checkpoint.stat().st_mtime)
        if time.time() - newest < CHECKPOINT_DAYS * 86400:
            continue
        # locked: its training goes on, however slowly; refused: it is somebody else's, or the disk is read-only
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            if (lock := checkpoint / "lock").exists():
                fcntl.flock(stack.enter_context(lock.open("r+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(checkpoint)
            print(f"{checkpoint}: nobody resumed this training for {CHECKPOINT_DAYS} days: removed", flush=True)


def remove_dangling_links(folder: Path) -> None:
    """Remove links to what DVC's cache lacks. With cache.type symlink, DVC makes them of outs that it has not got, and
    fails on them before the stage that would write the out."""
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if path.is_symlink() and not path.exists() and re.search(IN_CACHE, str(path.readlink())):
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


if __name__ == "__main__":
    run(tidy)
