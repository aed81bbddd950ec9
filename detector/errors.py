"""What every program of this repository does when something goes wrong: one line, exit status, nothing half-written."""

import contextlib
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, what to do next."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a free path beside `path`; write a file or a folder there. It takes `path`'s place when the block
    ends, and is removed when the block raises, which leaves what was at `path` as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield new
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


def run(main: Callable[[], None]) -> None:
    """Run a program's `main` and exit: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.

    SIGTERM is raised as an exception so that `replacing` cleans up. Faults of the program itself keep their traceback.
    """

    def terminate(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            _say("stopped by SIGTERM; earlier outputs are untouched")
        raise
    except KeyboardInterrupt:
        _say("interrupted; earlier outputs are untouched")
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        _say(str(error))
        sys.exit(1)
    except Exception as error:
        line = _machine_limit(error)
        if line is None:
            raise
        _say(line)
        sys.exit(1)


def _machine_limit(error: Exception) -> str | None:
    """One line for what the machine refused (memory, disk), None for anything else."""
    text = str(error)
    # torch reports a failed allocation as a RuntimeError on the CPU and as OutOfMemoryError on a GPU, and it is
    # told by its words so that programs without torch need not import it
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return (
            "out of memory: lower batch_size in params.yaml (models.<name> or evaluate), or free memory, and try again"
        )
    no_space = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    written = "os error" in text and any(f"os error {code})" in text for code in no_space)  # safetensors
    if written or (isinstance(error, OSError) and error.errno in no_space):
        return f"the disk is full ({text}): free some space and run it again; earlier outputs are untouched"
    if isinstance(error, PermissionError):
        return f"no permission: {text}"
    return None


def _say(line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
