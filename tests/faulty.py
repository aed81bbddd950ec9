"""A proxy that spoils requests: a remote behind a bad network, or of an unwilling owner, the same way in every run."""

import hashlib
import http.client
import http.server
import json
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

# What may become of a request for the bytes of an object, or of one that sends them.
CUT = "cut"  # the connection is reset before an answer
TRUNCATED = "truncated"  # the answer ends halfway
SLOW = "slow"  # two seconds pass, one of them in the middle of the answer
FLIPPED = "flipped"  # one bit of the object is another
STALLED = "stalled"  # no answer, for ever
STATUS = {"429": 429, "503": 503}


class FaultyProxy(http.server.ThreadingHTTPServer):
    """Stands before a server of Google Cloud Storage and spoils a share of the requests that carry objects.

    Which ones depends on the seed, the object and how often it was asked for, not on the order in which threads ask.

    upstream: the server's URL. faults: what happens, one of them each time. share: of the requests, 0 to 1.
    payer: the project that must pay for all requests, if any.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, faults: list[str], share: float, seed: int = 0, payer: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.url = urlsplit(upstream).netloc, f"http://127.0.0.1:{self.server_port}"
        self.faults, self.share, self.seed, self.payer = faults, share, seed, payer
        self.tries: Counter[str] = Counter()
        self.spoilt: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()

    def fault_of(self, request: str) -> str | None:
        """Draw what becomes of the next try of a request, None where it goes through."""
        with self.lock:
            self.tries[request] += 1
            digest = hashlib.sha256(f"{self.seed} {request} {self.tries[request]}".encode()).digest()
            if int.from_bytes(digest[:4], "big") >= self.share * 2**32:
                return None
            fault = self.faults[digest[4] % len(self.faults)]
            self.spoilt[fault] += 1
            return fault

    def handle_error(self, *_: Any) -> None:
        """Clients go away as they like."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        if self.server.payer and parse_qs(url.query).get("userProject") != [self.server.payer]:
            message = "Bucket is a requester pays bucket but no user project provided."
            self.answer(400, json.dumps({"error": {"code": 400, "message": message}}).encode())
            return
        carries_object = "alt=media" in url.query or url.path.startswith("/upload/")
        # what is asked for has its name in the path, what is sent in the body
        fault = self.server.fault_of(f"{url.path} {hashlib.sha256(sent).hexdigest()}") if carries_object else None
        if fault == CUT:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            self.close_connection = True
        elif fault == STALLED:
            time.sleep(600)
        elif fault in STATUS:
            self.answer(STATUS[fault], b"not now")
        else:
            self.forward(flipped(sent) if fault == FLIPPED and sent else sent, fault)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def forward(self, sent: bytes, fault: str | None) -> None:
        """Ask the server, and pass its answer on."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, sent, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if fault == SLOW:
            time.sleep(1)
        if fault == FLIPPED and not sent:
            body = flipped(body)
        self.answer(answer.status, body, dict(answer.headers), fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: str | None = None) -> None:
        self.send_response_only(status)
        for key, value in (headers or {}).items():
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                # an upload in parts goes on where the server says, which must lead through here too
                self.send_header(key, value.replace(f"http://{self.server.upstream}", self.server.url))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if fault == TRUNCATED:
            self.close_connection = True
            return
        if fault == SLOW:
            time.sleep(1)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_: object) -> None:
        pass


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)
