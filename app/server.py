"""uvicorn, with what it lacks: an end for heads that do not arrive, bodies in crumbs, answers that nobody reads, and a
stop that does not end."""

import asyncio
import contextlib
import faulthandler
import math
import resource
import socket
import struct
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import CLOSE_HEADER, H11Protocol

from app.observability import Observability
from app.problems import Problem

HEAD_TIMEOUT = 10.0  # seconds from a request's first byte, or a connection, to the end of its head
STOP_MARGIN = 5.0  # seconds beyond the timeout of requests, after which a stop ends the process by force
# Bytes of a connection that are worked on before it is the others' turn. With asyncio's own, 256 KB, small chunks that
# are within the limits below hold everybody up for 0.2 seconds, and 30 such connections for 6. A file of 20 MB takes
# 25 ms longer so.
READ = 16_384
CHUNKS, CHUNK = 1000, 64  # beyond so many chunks of a body, they must have so many bytes on average


class Chunks(h11.Connection):
    """h11's parser, which ends a body in very many small chunks: the event loop is as long over a chunk of one byte as
    over one of 64 KB. What the bytes are does not matter, nor how they arrive."""

    chunks = size = 0
    refusal: str | None = None

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = self.size = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self.chunks += 1
        if isinstance(event, h11.Data):
            self.size += len(event.data)
            if self.chunks > CHUNKS and self.size < self.chunks * CHUNK:
                self.refusal = f"a body of very many small chunks: send chunks of {CHUNK} bytes or more"
                raise h11.RemoteProtocolError(self.refusal)
        return event


class Protocol(H11Protocol):
    """A connection. One whose next request's head is not whole in time is closed, and so is one whose client does not
    read what it is sent within the timeout of requests.

    uvicorn's own limit, of 5 seconds, holds between requests alone: the first byte of the next one ends it.
    """

    conn: Chunks
    head_timer: asyncio.TimerHandle | None = None
    unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
            transport.abort()  # with no file left to open, asyncio would log each that waits, again and again
            return
        transport.max_size = READ  # type: ignore[attr-defined]  # of asyncio's transports, beside their documentation
        transport.set_write_buffer_limits(0)  # writing is paused while anything is unread
        self.conn = Chunks(h11.SERVER)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's word for all of them)
        problem = Problem(400, self.conn.refusal or "this is no valid HTTP request").response({"path": ""})
        head = h11.Response(status_code=400, headers=[*problem.raw_headers, CLOSE_HEADER])
        with contextlib.suppress(h11.LocalProtocolError):  # where an answer has begun, or none can have a body (HEAD)
            events = (head, h11.Data(data=bytes(problem.body)), h11.EndOfMessage())
            self.transport.write(b"".join(filter(None, map(self.conn.send, events))))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self.config.timeout_graceful_shutdown is not None  # the timeout of requests: see Server
        self.unread_timer = self.loop.call_later(self.config.timeout_graceful_shutdown, self._give_up)

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _give_up(self) -> None:
        # the system would keep what is unread, and ask the client again and again, after a close as after an abort
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def _time_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # the head is whole
            self._stop_head_timer()
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_TIMEOUT, self.timeout_keep_alive_handler)

    def _stop_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _stop_unread_timer(self) -> None:
        if self.unread_timer is not None:
            self.unread_timer.cancel()
            self.unread_timer = None


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
                loop="asyncio",  # not uvloop where that is installed: READ is asyncio's
                backlog=128,  # so many are taken at once, before any is closed as one too many
                ws="none",
                log_config=None,
                access_log=False,  # app/observability.py logs requests, without their paths
                server_header=False,
                timeout_graceful_shutdown=math.ceil(timeout),
            )
        )
        self.application, self.timeout, self.on_listening = application, timeout, on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)  # warms up (Service.running), then listens
        except OSError:
            await self.lifespan.shutdown()  # which would be cancelled, with a traceback in the log
            raise
        self.on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.application.is_stopping = True
            # a thread in C, which needs nothing of Python's
            faulthandler.dump_traceback_later(self.timeout + STOP_MARGIN, exit=True)
        super().handle_exit(sig, frame)
