"""The process that decodes strangers' pictures. detector/pool.py starts it, bounds it, and says what it is told.

    python -I -S detector/worker.py MAX_PIXELS SECONDS MEGABYTES FOLDER...

FOLDER: of sys.path, as this interpreter starts without any. It reads requests from standard input and answers on
standard output until its parent is gone. A request is a length (4 bytes, big-endian), JSON of that length (size, fit,
reencode, thumbnail, and the lengths of the files), and the files' bytes; it is read as a whole. Each file is answered
as soon as it is done, by a length, JSON (error, too_large; or notes, seen_region, claims, and thumbnail: its height and
width) and, without an error, the pixels and those of the thumbnail, if one was asked for.
"""

import contextlib
import json
import os
import signal
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from detector.preprocessed import Claim, Preprocessed


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    max_pixels, seconds, megabytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    sys.path[:] = sys.argv[4:]
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print is no answer
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # no matrix is multiplied here, and each thread would take 40 MB
    try:
        import_decoders()
        limit_memory(megabytes)
        while head := requests.read(4):
            request = json.loads(requests.read(int.from_bytes(head)))
            files = [requests.read(length) for length in request.pop("lengths")]
            while files:
                answer(answers, files.pop(0), request, max_pixels, seconds)
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        pass
    except MemoryError:  # for the file itself
        write(answers, {"error": "not enough memory for a file of this size", "too_large": False})
    except Exception:  # a fault of this program: the parent shows it
        write(answers, {"fault": traceback.format_exc()})


def import_decoders() -> None:
    """Import everything that decoding needs, so that it counts as what the worker itself takes."""
    from PIL import AvifImagePlugin, Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    import detector.claims
    import detector.pictures  # noqa: F401

    Image.preinit()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread takes address space, and the pool is parallel already


def limit_memory(megabytes: int) -> None:
    """Bound the address space to what the process has now and so many MB more. Only Linux enforces that."""
    import ctypes
    import resource

    with contextlib.suppress(AttributeError):  # of glibc: blocks from 1 MB on go back to the system when they are freed
        ctypes.CDLL(None).mallopt(-3, 2**20)  # M_MMAP_THRESHOLD, which would grow

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(FileNotFoundError), open("/proc/self/statm") as file:  # noqa: PTH123
        most = int(file.read().split()[0]) * resource.getpagesize() + megabytes * 10**6
        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        if allowed != resource.RLIM_INFINITY:
            most = min(most, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def answer(answers: BinaryIO, data: bytes, request: dict[str, Any], max_pixels: int, seconds: float) -> None:
    """Preprocess one file, in so many seconds of processor time: then SIGPROF, for which there is no handler, ends the
    process."""
    from detector.claims import read_claims
    from detector.errors import UserError
    from detector.pictures import preprocess
    from detector.preprocessed import TooManyPixelsError

    signal.setitimer(signal.ITIMER_PROF, seconds)
    claims: list[Claim] = []
    try:
        one: Preprocessed | None = preprocess(data, **request, max_pixels=max_pixels)
        claims = read_claims(data)
    except UserError as error:
        one, said = None, {"error": str(error), "too_large": isinstance(error, TooManyPixelsError)}
    signal.setitimer(signal.ITIMER_PROF, 0)
    if one is not None:
        said = {"notes": one.notes, "seen_region": one.seen_region, "claims": [vars(claim) for claim in claims]}
    images = [] if one is None else [one.pixels] if one.thumbnail is None else [one.pixels, one.thumbnail]
    said["thumbnail"] = images[1].shape[:2] if len(images) > 1 else None
    write(answers, said, b"".join(image.tobytes() for image in images))


def write(answers: BinaryIO, said: dict[str, Any], pixels: bytes = b"") -> None:
    head = json.dumps(said).encode()
    answers.write(struct.pack(">I", len(head)) + head + pixels)
    answers.flush()


if __name__ == "__main__":
    main()
