"""Observability: a log line and metrics for each request, and headers on each answer.

Log and metrics hold nothing of the pictures: no content, no file name, no address.
"""

import asyncio
import contextlib
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("app")

HEADERS = {
    "Accept-Ranges": "none",
    # data: and blob: are the page's own, of the pictures that people choose
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # not no-referrer: a form's POST would say `Origin: null`, and be refused as a stranger's (app/hosts.py)
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"}
PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds: worth a line only where they fail
LINGER = 1.0  # seconds for which a body that is refused is read on, and thrown away
REQUEST_ID = re.compile(r"[\w-]{1,64}")


class Metrics:
    """Prometheus metrics, in a registry of their own."""

    MEDIA_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        at = ["path", "status"]
        self.requests = Counter("detector_requests", "Requests answered", at, registry=registry)
        self.seconds = Histogram(
            "detector_request_seconds", "From a request to its answer", ["path"], registry=registry
        )
        self.in_flight = Gauge("detector_requests_in_flight", "Requests that wait for an answer", registry=registry)
        self.pictures = Counter("detector_pictures", "Pictures by verdict", ["model", "verdict"], registry=registry)
        self.out_of_distribution = Counter(
            "detector_out_of_distribution", "Pictures called out of distribution", ["model"], registry=registry
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = Histogram(
            "detector_batch_pictures", "Pictures answered together", ["model"], buckets=sizes, registry=registry
        )

    def with_batch_sizes(
        self, model: str, predict: Callable[[list[T]], Sequence[R]]
    ) -> Callable[[list[T]], Sequence[R]]:
        """Return `predict`, with the sizes of its batches recorded."""
        sizes = self.batches.labels(model)

        def predict_and_record(pictures: list[T]) -> Sequence[R]:
            sizes.observe(len(pictures))
            return predict(pictures)

        return predict_and_record

    def count_picture(self, model: str, verdict: str | None, out_of_distribution: bool | None) -> None:
        self.pictures.labels(model, verdict or "unreadable").inc()
        if out_of_distribution:
            self.out_of_distribution.labels(model).inc()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class Observability:
    """An ASGI application around another: outside of all its error handling, so that no request escapes it.

    is_stopping: no connection is to be used for a further request.
    """

    def __init__(self, inner: ASGIApp, metrics: Metrics) -> None:
        self.inner, self.metrics = inner, metrics
        self.is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        started = time.perf_counter()
        asked = Headers(scope=scope)
        given = asked.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {}  # of this request alone
        # Files are small, and answered whole: Starlette would refuse some ranges in words of its own.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]
        status = 499  # what nginx logs where the client went away before its answer
        is_begun, is_read = False, asked.get("content-length", "0") == "0" and "transfer-encoding" not in asked

        async def receive_and_note() -> Message:
            nonlocal is_begun, is_read
            is_begun = True
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def discard() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while not is_read:
                        await receive_and_note()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                # Closing a connection with unread bytes may destroy the answer on its way (RFC 9112, 9.6). A client
                # that sent "Expect: 100-continue" has sent no body yet.
                if not is_read and (is_begun or "expect" not in asked):
                    await discard()
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, "X-Request-ID": request_id})
                headers.setdefault("Cache-Control", "no-cache")
                if not is_read or self.is_stopping:  # unread, uvicorn would read what still comes, without end
                    headers["Connection"] = "close"
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.inner(scope, receive_and_note, send_with_headers)
        except Exception:  # Starlette has sent a 500; uvicorn would close the connection, unannounced
            logger.exception("fault", extra={"fields": {"id": request_id}})
        finally:
            self.metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            path = getattr(scope.get("route"), "path", None) or "other"  # never what a client made up
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            fields = {"id": request_id, "method": method, "path": path, "status": status}
            fields |= {"ms": round(1000 * seconds, 1), **scope["state"]}
            level = logging.DEBUG if path in PROBES and status < 400 else logging.INFO
            logger.log(level, "request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object a line. What a call puts into extra={"fields": ...} becomes members of it."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{when}.{record.msecs:03.0f}Z", "level": record.levelname.lower()}
        line |= {"logger": record.name, "message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
