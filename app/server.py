"""uvicorn, with what it lacks: an end for heads that do not arrive, and for a stop that does not end."""

import asyncio
import faulthandler
import math
import socket
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.observability import Observability

HEAD_TIMEOUT = 10.0  # seconds from a request's first byte, or a connection, to the end of its head
STOP_MARGIN = 5.0  # seconds beyond the timeout of requests, after which a stop ends the process by force


class Protocol(H11Protocol):
    """A connection. One whose next request's head is not whole in time is closed.

    uvicorn's own limit, of 5 seconds, holds between requests alone: the first byte of the next one ends it.
    """

    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _time_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # the head is whole
            self._stop_timer()
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_TIMEOUT, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


class Server(uvicorn.Server):
    """Runs `application`, calls `on_listening` once it listens, and stops within `timeout` and STOP_MARGIN seconds of
    the first signal.

    What still runs then, such as a thread in a library's code, which Python would wait for, is ended with the
    process: exit status 1, with a traceback of each thread on stderr.
    """

    def __init__(self, application: Observability, timeout: float, on_listening: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=Protocol,
                ws="none",
                log_config=None,
                access_log=False,  # app/observability.py logs requests, without their paths
                server_header=False,
                timeout_graceful_shutdown=math.ceil(timeout),
            )
        )
        self.application, self.timeout, self.on_listening = application, timeout, on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)  # warms up (Service.running), then listens
        self.on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.application.is_stopping = True
            # a thread in C, which needs nothing of Python's
            faulthandler.dump_traceback_later(self.timeout + STOP_MARGIN, exit=True)
        super().handle_exit(sig, frame)
