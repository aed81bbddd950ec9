"""Files and folders that are either whole or not there, and whose content can be checked."""

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from detector.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a free path beside `path`; write a file or a folder there. It takes `path`'s place when the block
    ends, and is removed when the block raises, which leaves what was at `path` as it was.

    A process that is killed in between leaves hidden files, which the next one puts back or removes (`restore`).

    Files get the mode that the umask allows: safetensors alone would make them private.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield new
        mode = 0o666 & ~umask()
        for file in [new] if new.is_file() else new.rglob("*"):
            if file.is_file():
                with contextlib.suppress(PermissionError):  # some file systems have no modes
                    file.chmod(mode)
        if path.is_dir():  # a folder cannot be renamed over a folder that is not empty
            path.rename(old)
        new.rename(path)
    finally:
        # what the system refuses here, the next one does; the error that led here must be the one that is seen
        with contextlib.suppress(OSError):
            if old.exists() and not path.exists():
                old.rename(path)
            for leftover in (new, old):
                remove(leftover)


def restore(path: Path) -> None:
    """Put back what processes that were killed in `atomic_write` have moved away from `path`, and remove the rest of
    what they left. What a living process is writing stays."""
    for kind in ("old", "new"):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.{kind}"):
            pid = leftover.name.removeprefix(f".{path.name}.").removesuffix(f".{kind}")
            if not pid.isdecimal() or (int(pid) != os.getpid() and is_alive(int(pid))):
                continue
            if kind == "old" and not path.exists():
                leftover.rename(path)
            else:
                remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def walk_once(root: str | Path, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder from a root down, in order, and the names of its files, sorted.

    Links to folders are followed, but into no folder twice; those whose name begins with a dot are passed over.
    onerror: called for a folder that may not be read.
    """
    visited: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, onerror=onerror, followlinks=True):
        place = Path(folder).stat()
        if (place.st_dev, place.st_ino) in visited:
            below.clear()
            continue
        visited.add((place.st_dev, place.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield folder, sorted(names)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError where the disk of a folder has fewer bytes free than `what` will write: `needed`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} will write {needed / 1e6:,.0f} MB, and the disk of {folder.resolve()} has {free / 1e6:,.0f} MB "
            "free: free some space and run it again"
        )


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
