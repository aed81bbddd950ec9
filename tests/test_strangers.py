"""The service towards clients that it cannot trust: other sites' pages, slow ones, and a stop beside stuck work."""

import contextlib
import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detector.record import ExportedRecord
from tests.serving import Server, begin, body, files, make_model, megabytes, refused, rest, sample, until

PICTURE = sample(2)[0]
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux alone shows what a process has")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model, hosts="Detector.example, 192.0.2.7", max_requests=1) as running:
        yield running


def test_it_has_answered_once_before_it_listens(model: Path) -> None:
    with Server(model) as server:
        assert server.metrics()['detector_batch_pictures_count{model="weighing"}'] == 1


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("detector.example", True),
        ("detector.example:443", True),
        ("192.0.2.7", True),
        ("stranger.example", False),
        ("localhost.stranger.example", False),
        ("127.0.0.1.nip.io:8000", False),
        ("192.0.2.8", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_it_answers_to_its_own_names_alone(server: Server, host: str, is_known: bool) -> None:
    for path in ("/", "/v1/models", "/openapi.json", "/static/page.js"):
        response = server.client.get(path, headers={"Host": host})
        assert response.status_code == (200 if is_known else 421), path
    assert "SERVE_HOSTS" in refused(server.client.get("/v1/models", headers={"Host": "stranger.example"}), 421)
    for probe in ("/healthz", "/readyz", "/metrics"):
        assert server.client.get(probe, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),  # no browser
        ({"Origin": "http://127.0.0.1:8000"}, False),
        ({"Origin": "https://detector.example"}, False),
        ({"Origin": "https://behind-a-proxy.example", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://stranger.example"}, True),
        ({"Origin": "https://stranger.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://detector.example.stranger.example"}, True),
        ({"Origin": "null"}, True),  # a page in a sandbox, or a file
        ({"Origin": ""}, True),
    ],
)
def test_pages_of_other_sites_cannot_post(server: Server, headers: dict[str, str], is_foreign: bool) -> None:
    for path in ("/v1/predict", "/v1/explain"):
        response = server.client.post(path, files=files(PICTURE), headers=headers)
        if is_foreign:
            assert "SERVE_HOSTS" in refused(response, 403)
        else:
            assert response.status_code == 200
    assert server.client.get("/v1/models", headers=headers).status_code == 200, "a link to the page is no harm"


@contextlib.contextmanager
def nothing_decodes(server: Server) -> Iterator[None]:
    """Stop the processes that decode, as a picture does that takes them long."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()  # whichever thread started them
    decoders = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    assert decoders
    try:
        for decoder in decoders:
            os.kill(decoder, signal.SIGSTOP)
        yield
    finally:
        for decoder in decoders:
            os.kill(decoder, signal.SIGCONT)


@linux
def test_it_is_not_ready_while_nothing_decodes(server: Server) -> None:
    with nothing_decodes(server):
        assert "no answer within 1 second" in refused(server.client.get("/readyz"), 503)
        assert server.client.get("/healthz").status_code == 200
    until(lambda: server.client.get("/readyz").status_code == 200)
    assert server.ask(PICTURE).status_code == 200


@linux
def test_files_of_who_goes_away_do_not_stay_in_memory(model: Path) -> None:
    with Server(model, threads=1, max_requests=20) as server:
        pid = server.process.pid
        before = megabytes(pid, "VmRSS")
        with nothing_decodes(server):
            waiting = begin(server, body(PICTURE))
            begun = body(bytes(10_000_000), PICTURE)[:-500]  # a whole file, and some of another
            gone = [begin(server, begun, len(begun) + 500) for _ in range(10)]
            until(lambda: megabytes(pid, "VmRSS") - before > 95, 20)
            for connection in gone:
                connection.close()
            until(lambda: server.metrics()["detector_requests_in_flight"] == 2, 20)  # what waits, and the one that asks
            until(lambda: megabytes(pid, "VmRSS") - before < 20)
        assert rest(waiting).split(" ")[1] == "200"


@linux
def test_bodies_that_break_off_do_not_stay_in_memory(model: Path) -> None:
    with Server(model, threads=1) as server:
        assert server.ask(PICTURE).status_code == 200
        before = megabytes(server.process.pid, "VmRSS")
        begun = body(bytes(19_000_000))[:-500]
        for _ in range(2):
            gone = [begin(server, begun, len(begun) + 500) for _ in range(6)]
            until(lambda: server.metrics()["detector_requests_in_flight"] == 7, 20)
            for connection in gone:
                connection.close()
            until(lambda: server.metrics()["detector_requests_in_flight"] == 1, 20)
        until(lambda: megabytes(server.process.pid, "VmRSS") - before < 20)


@linux
def test_all_bodies_together_hold_no_more_than_so_much_memory(model: Path) -> None:
    with Server(model, threads=1, max_bytes=5_000_000) as server:
        assert server.ask(PICTURE).status_code == 200
        before = megabytes(server.process.pid, "VmRSS")
        begun = body(bytes(4_900_000))[:-500]
        held = [begin(server, begun, len(begun) + 500) for _ in range(17)]  # 83 MB, of 85
        until(lambda: megabytes(server.process.pid, "VmRSS") - before > 80, 20)
        assert "too many large pictures" in refused(server.ask(bytes(4_900_000)), 503)
        assert server.ask(PICTURE).status_code == 200, "a small one has room"
        for connection in held:
            connection.close()
        until(lambda: server.metrics()["detector_requests_in_flight"] == 1, 20)
        pictures = [PICTURE + bytes(4_900_000)] * 10
        for _ in range(3):  # nothing of them is held afterwards
            assert server.ask(*pictures).status_code == 200
            assert server.client.post("/v1/explain", files=files(pictures[0])).status_code == 200


@linux
def test_with_no_connection_left_the_log_stays_short(model: Path) -> None:
    import resource

    with Server(model) as server:
        assert server.ask(PICTURE).status_code == 200
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (400, hard))
        connections = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(450)]
        time.sleep(1)
        assert len(server.log()) < 20
        for connection in connections:
            connection.close()
        until(lambda: server.client.get("/healthz").status_code == 200)
        assert server.ask(PICTURE).status_code == 200


def test_the_log_has_no_word_that_a_client_made_up(model: Path) -> None:
    with Server(model) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(b"SECRETS /secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 4")
        until(lambda: server.metrics()['detector_requests_total{path="other",status="404"}'] == 1)
    (line,) = (line for line in server.log() if line.get("path") == "other")
    assert line["method"] == "other"


def test_head_is_get_without_the_body(server: Server) -> None:
    paths = ("/", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/static/page.js", "/v1/nothing")
    for path in paths:
        head, get = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
    for path in ("/healthz", "/v1/models"):
        response = server.client.post(path)
        assert (response.status_code, set(response.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert server.client.head("/v1/predict").status_code == 405


def test_every_answer_says_by_digest_which_model_gave_it(server: Server, model: Path) -> None:
    digest = hashlib.sha256((model / "model.json").read_bytes()).hexdigest()
    assert server.ask(PICTURE).json()["model_sha256"] == digest
    post = server.client.post
    assert post("/v1/explain", files=files(PICTURE)).json()["model_sha256"] == digest
    drawing = post("/v1/explain", files=files(PICTURE), headers={"Accept": "image/png"})
    assert drawing.headers["x-model-sha256"] == digest
    (described,) = server.client.get("/v1/models").json()["models"]
    assert described["model_sha256"] == digest


def test_a_place_is_taken_by_a_body_and_not_by_a_head(server: Server) -> None:
    whole = body(PICTURE)
    heads = [begin(server, b"", length=len(whole)) for _ in range(3)]
    until(lambda: server.metrics()["detector_requests_in_flight"] == 4)  # and the one that asks
    assert server.ask(PICTURE).status_code == 200
    assert server.client.get("/readyz").status_code == 200

    heads[0].sendall(whole[:200])
    time.sleep(0.5)  # who asks earlier may take the place
    refusals = [server.ask(PICTURE) for _ in range(20)]
    assert {response.status_code for response in refusals} == {503}
    waits = {int(response.headers["retry-after"]) for response in refusals}
    assert waits <= set(range(1, 6))
    assert len(waits) > 1, "those who were refused together would come back together"
    refused(server.client.get("/readyz"), 503)

    heads[0].sendall(whole[200:])
    assert rest(heads[0]).split(" ")[1] == "200"
    until(lambda: server.client.get("/readyz").status_code == 200)
    for connection in heads[1:]:
        connection.close()


@pytest.mark.long  # 13 seconds
def test_a_place_is_given_up_where_a_body_stops_arriving(server: Server) -> None:
    whole = body(PICTURE)
    started = time.monotonic()
    connection = begin(server, whole[:200], length=len(whole))
    until(lambda: server.metrics()["detector_requests_in_flight"] == 2)  # and the one that asks
    refused(server.client.get("/readyz"), 503)
    said = rest(connection)
    assert (said.split(" ")[1], "\r\nconnection: close\r\n" in said) == ("408", True)
    assert 5 < time.monotonic() - started < 9
    assert server.ask(PICTURE).status_code == 200

    # one that goes on is waited for, also for longer than that
    connection = begin(server, b"", length=len(whole))
    for chunk in (whole[:200], whole[200:300], whole[300:]):
        time.sleep(2)
        connection.sendall(chunk)
    assert rest(connection).split(" ")[1] == "200"


@pytest.mark.long  # 10 seconds
def test_connections_whose_head_does_not_arrive_are_closed(server: Server) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), timeout=20)

    def seconds_until_closed(connection: socket.socket) -> float:
        started = time.monotonic()
        with connection:
            assert connection.recv(100) == b""
        return time.monotonic() - started

    def trickle(connection: socket.socket) -> float:
        started = time.monotonic()
        connection.settimeout(0.5)
        with connection, contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 20:
                connection.sendall(b"x-more: 1\r\n")
                with contextlib.suppress(TimeoutError):
                    assert connection.recv(100) == b""
                    break
        return time.monotonic() - started

    silent, half, trickling, second = (connect() for _ in range(4))
    half.sendall(head)
    trickling.sendall(head)
    second.sendall(head + b"\r\n")
    assert rest_is_open(second)
    second.sendall(head)  # of a further request
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(seconds_until_closed, one) for one in (silent, half, second)]
        waits.append(pool.submit(trickle, trickling))
    for wait in waits:
        assert 8 < wait.result() < 15


def rest_is_open(connection: socket.socket) -> bool:
    """Read one answer of /healthz, on a connection that stays open."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(1000)
    return b" 200 OK" in received and b"connection: close" not in received


def endless_model(folder: Path) -> Path:
    """A model that answers at once for a black picture, and never for another one."""
    make_model(folder)
    constants = {"axis": np.array([1]), "many": np.array(10**12), "one": np.float32(1), "none": np.float32(0)}
    step = helper.make_graph(
        [helper.make_node("Identity", ["goes_on"], ["go_on"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "step",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["rows"]),
        helper.make_node("ReduceMax", ["rows", "axis"], ["ood_score"], keepdims=0),
        helper.make_node("ReduceMax", ["rows"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["levels"], to=TensorProto.INT64),
        helper.make_node("Mul", ["levels", "many"], ["steps"]),
        helper.make_node("Loop", ["steps", "", "none"], ["sum"], body=step),
        helper.make_node("Mul", ["ood_score", "sum"], ["logit"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("logit", "ood_score")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    ExportedRecord.read(folder).write(folder)  # with the digest of this graph
    return folder


@pytest.mark.long  # 10 seconds
def test_a_stop_ends_the_process_whatever_still_runs(tmp_path: Path) -> None:
    with Server(endless_model(tmp_path / "endless"), timeout=1) as server:
        assert server.client.get("/readyz").status_code == 200
        refused(server.ask(PICTURE), 504)
        response = server.client.get("/readyz")
        assert refused(response, 503) == "no answer within 1 second"
        assert 1 <= int(response.headers["retry-after"]) <= 5
        assert server.client.get("/healthz").status_code == 200
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx.TransportError):
            server.client.get("/healthz")
        server.process.send_signal(signal.SIGTERM)  # a second one puts nothing off
        assert server.process.wait(15) == 1
        assert time.monotonic() - started < 1 + 5 + 2
        server.reader.join(5)
        said = "".join(server.lines.get() for _ in range(server.lines.qsize()))
        assert "Timeout (0:00:06)!" in said
