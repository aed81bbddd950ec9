"""What every program of this repository does when something goes wrong: one line and an exit status."""

import errno
import signal
import sys
from collections.abc import Callable
from types import TracebackType


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, what to do next."""


def run(main: Callable[[], None]) -> None:
    """Run a program's `main` and exit: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.

    SIGTERM is raised as an exception so that `atomic_write` cleans up. Faults of the program itself keep their
    traceback.
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
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        _say(line)
        if is_out_of_memory(error):
            # What Python runs at an exit needs memory too, and would print a traceback below the line.
            sys.unraisablehook = lambda _: None
        sys.exit(1)


# How torch, CUDA, cuBLAS, oneDNN and onnxruntime say it; by the message, so that torch need not be imported.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "_ALLOC_FAILED", "failed to map segment"),
    *("could not create a primitive", "could not create a memory", "std::bad_alloc"),
)


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def one_line(error: Exception) -> str | None:
    """Return the line for a UserError, and for what the machine refused (memory, disk); None for anything else."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if is_out_of_memory(error):
        return "out of memory: free some and try again; for training, lower models.<name>.batch_size in params.yaml"
    no_space = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    written = "os error" in text and any(f"os error {code})" in text for code in no_space)  # safetensors
    if written or (isinstance(error, OSError) and error.errno in no_space):
        return f"the disk is full ({text}): free some space and run it again; earlier outputs are untouched"
    if isinstance(error, PermissionError):
        return f"no permission: {text}"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"the file system is read-only ({text}): run it where it may write"
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return f"the disk does not answer ({text}): look after it, and run it again; earlier outputs are untouched"
    if isinstance(error, OSError) and error.errno == errno.EBUSY:  # a folder that is replaced must not be a mount
        return f"in use by the system, as a mount is ({text}): mount the folder above it, or none"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files ({text}): `ulimit -n` says how many may be"
    return None


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: what `run` says of the machine's limits, while a program's modules are still imported."""
    line = one_line(error) if isinstance(error, Exception) else None
    if line is None:
        sys.__excepthook__(kind, error, trace)
    else:
        _say(line)


def _say(line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
