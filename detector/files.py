"""Files and folders that are either whole or not there, and whose content can be checked."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from detector.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a free path beside `path`; write a file or a folder there. It takes `path`'s place when the block
    ends, and is removed when the block raises, which leaves what was at `path` as it was.

    Files get the mode that the umask allows: safetensors alone would make them private.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
        if old.exists() and not path.exists():
            old.rename(path)
        for leftover in (new, old):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


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
