"""The service towards connections that cost it more than they should: bodies in crumbs, answers that nobody reads."""

import contextlib
import errno
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.serving import BOUNDARY, Server, body, rest, sample, until

PICTURE = sample(2)[0]
PROBLEM = "content-type: application/problem+json"
CHUNKED = (
    "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
).encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_body_in_chunks_of_a_byte_does_not_stall_the_others(server: Server) -> None:
    """h11 takes as long for a chunk of a byte as for one of 64 KB: a read of 256 KB would hold everybody up."""

    def crumble() -> None:
        with connect(server) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(CHUNKED + chunk(body(b"")[: -len(BOUNDARY) - 8]))
            for _ in range(40):
                connection.sendall(chunk(b"a") * 40_000)

    times: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        crumbling = pool.submit(crumble)
        while not (times and crumbling.done()):
            started = time.monotonic()
            assert httpx.get(f"{server.url}/healthz", trust_env=False, timeout=20).status_code == 200
            times.append(time.monotonic() - started)
    assert max(times) < 1


def test_who_sends_small_chunks_is_told_what_to_send(server: Server) -> None:
    connection = connect(server)
    connection.sendall(CHUNKED + chunk(b"a") * 1001)
    said = rest(connection)
    assert (said.split(" ")[1], PROBLEM in said) == ("400", True)
    assert '"a body of very many small chunks: send chunks of 64 bytes or more"' in said


def test_what_is_no_http_is_told_so_and_closed(server: Server) -> None:
    for nonsense in (b"nonsense\r\n\r\n", CHUNKED + b"no chunk\r\n"):
        connection = connect(server)
        connection.sendall(nonsense)
        said = rest(connection)
        assert (said.split(" ")[1], PROBLEM in said) == ("400", True)
        assert "\r\nconnection: close\r\n" in said
    with connect(server) as connection:  # no answer may have a body
        connection.sendall(CHUNKED.replace(b"POST", b"HEAD") + b"no chunk\r\n")
        assert connection.recv(10) == b""


def test_a_body_in_pieces_of_any_reasonable_size_is_answered(server: Server) -> None:
    whole = body(*[PICTURE] * 30)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for size in (64, 1000, len(whole)):
        pieces = iter([whole[place : place + size] for place in range(0, len(whole), size)])
        assert server.client.post("/v1/predict", content=pieces, headers=headers).status_code == 200
    first = [whole[place : place + 1] for place in range(900)]  # heads that are written byte by byte
    pieces = iter([*first, whole[900:]])
    assert server.client.post("/v1/predict", content=pieces, headers=headers).status_code == 200


def test_who_never_reads_answers_is_closed_and_holds_up_no_stop(model: Path) -> None:
    def deaf() -> socket.socket:
        connection = connect(server)
        connection.sendall(b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
        until(lambda: answered() == answered(), 20)  # nothing moves any more
        return connection

    def answered() -> float:
        time.sleep(0.3)
        return server.metrics()['detector_requests_total{path="other",status="200"}']

    with Server(model, timeout=1) as server:
        with deaf() as connection:
            until(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET, 20)
            until(lambda: server.metrics()["detector_requests_in_flight"] == 1)  # the one that asks
        with deaf():
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
