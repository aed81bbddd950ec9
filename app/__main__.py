"""Start the HTTP service and the page: `python -m app`."""

import argparse
import math
import signal
import socket
import sys

from app.settings import Settings, from_environment
from detector.errors import UserError, run


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m app",
        description="Answer over HTTP and on a web page. Settings are environment variables, as in "
        "`SERVE_PORT=8001 python -m app`: docs/reference/http.md has them all.",
    ).parse_args()
    settings = from_environment()

    import uvicorn

    from app.observability import log_as_json
    from app.service import create
    from detector.detector import Detector
    from detector.pool import DecodingPool

    pool = DecodingPool(settings.threads, settings.max_pixels, settings.decode_seconds, settings.decode_megabytes)
    detectors = {folder.name: Detector.load(folder, settings.threads, pool) for folder in settings.models}
    listener = listen(settings)
    log_as_json()
    config = uvicorn.Config(
        create(settings, detectors, pool),
        log_config=None,
        access_log=False,  # app/observability.py logs requests, without their paths
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.timeout),
    )
    for folder, detector in zip(settings.models, detectors.values(), strict=True):
        print(f"{folder}: {detector.title}")
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)", flush=True)
    # uvicorn raises the signal that stopped it again, once all requests are answered: that is no failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


def listen(settings: Settings) -> socket.socket:
    """Open the socket. Raises UserError where the port is taken or the host is none of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise UserError(f"{where}: {error.strerror}: choose another port, as in `make serve PORT=8001`") from None
    # asyncio does so only for sockets that it opens itself; without, each answer's body waits 40 ms for its head's ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    run(main)
