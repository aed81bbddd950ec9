"""Start the HTTP service and the page: `python -m app`."""

import argparse
import ctypes
import errno
import signal
import socket
import sys

from app.settings import Settings, from_environment
from detector.errors import UserError, run
from detector.output import one_line

M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m app",
        description="Answer over HTTP and on a web page. Settings are environment variables, as in "
        "`SERVE_PORT=8001 python -m app`: docs/reference/http.md has them all.",
    ).parse_args()
    settings = from_environment()

    from app.api import create
    from app.observability import log_as_json
    from app.server import Server
    from detector.detector import Detector
    from detector.pool import DecodingPool

    pool = DecodingPool(settings.threads, settings.max_pixels, settings.decode_seconds, settings.decode_megabytes)
    detectors = {folder.name: Detector.load(folder, settings.threads, pool) for folder in settings.models}
    listener = bind(settings)
    return_freed_memory()
    log_as_json()

    def greet() -> None:
        for folder, detector in zip(settings.models, detectors.values(), strict=True):
            print(one_line(f"{folder}: {detector.title}"))
        host, port = listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address; it answers to the loopback one
        print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)", flush=True)

    # uvicorn raises the signal that stopped it again, once all requests are answered: that is no failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        Server(create(settings, detectors, pool), settings.timeout, greet).run(sockets=[listener])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # another one, which was starting as well, listens by now
            raise unavailable(settings, error) from None
        raise


def return_freed_memory() -> None:
    """Make glibc give the memory of a file back to the system once the file is gone. By default it moves large blocks
    into its heap after a while, where any small one that was allocated later holds them. Other C libraries are left
    alone."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)


def bind(settings: Settings) -> socket.socket:
    """Return a socket with the service's address, which does not listen before the service is warm. Raises UserError
    where the port is taken or the host is none of this machine."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise unavailable(settings, error) from None
    # asyncio does so only for sockets that it opens itself; without, each answer's body waits 40 ms for its head's ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def unavailable(settings: Settings, error: OSError) -> UserError:
    where = f"{settings.host}:{settings.port}"
    return UserError(f"{where}: {error.strerror}: choose another port, as in `make serve PORT=8001`")


if __name__ == "__main__":
    run(main)
