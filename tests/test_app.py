"""The HTTP service, asked as its users do: a real process on a loopback port."""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.batching import Batcher
from app.schemas import FilePrediction
from app.settings import Settings
from detector import Detector, Prediction
from detector.limit import LIMIT
from detector.output import COLUMNS
from detector.released import DEFAULT
from tests.conftest import ROOT
from tests.models import exported
from tests.serving import (
    BOUNDARY,
    Server,
    begin,
    body,
    environment,
    files,
    make_model,
    megabytes,
    png_by_hand,
    refused,
    rest,
    sample,
    until,
)

PICTURES = sample(12)
REFERENCE = (ROOT / "docs/reference/http.md").read_text()
PROBLEM = "content-type: application/problem+json"


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def strict(model: Path) -> Iterator[Server]:
    """A service with low limits."""
    with Server(model, max_bytes=100_000, max_files=3, max_pixels=1_000_000, max_requests=2, timeout=1.5) as running:
        yield running


def test_answers_are_those_of_python_in_the_order_of_the_request(server: Server, model: Path) -> None:
    expected = Detector.load(model).predict(PICTURES)
    response = server.ask(*PICTURES)
    assert response.status_code == 200
    said = response.json()
    assert (said["model"], said["limit"]) == ("weighing", LIMIT)
    for number, (row, answer) in enumerate(zip(said["predictions"], expected, strict=True)):
        assert row.pop("file") == f"secret{number}.jpg"
        assert row.pop("error") is None
        assert row.pop("p_fake") == pytest.approx(answer.p_fake, abs=1e-6)
        assert row == {
            "verdict": answer.verdict,
            "notes": answer.notes,
            "out_of_distribution": answer.out_of_distribution,
            "claims": [],
        }
    assert {answer.verdict for answer in expected} == {"FAKE", "REAL", "UNSURE"}


def test_notes_and_warnings_are_passed_on(server: Server) -> None:
    large, white = Image.new("RGB", (640, 320), (90, 90, 90)), Image.new("RGB", (32, 32), "white")
    pictures = []
    for image in (large, white):
        file = io.BytesIO()
        image.save(file, "PNG")
        pictures.append(file.getvalue())
    first, second = server.ask(*pictures).json()["predictions"]
    assert first["notes"][0] == "640x320 made 32x32, proportions not kept"
    assert (first["out_of_distribution"], second["out_of_distribution"]) == (False, True)
    assert second["notes"][0].startswith("out of distribution (far from the training images)")


def test_one_broken_file_does_not_take_the_others_their_answers(server: Server) -> None:
    alone = [row["p_fake"] for row in server.ask(PICTURES[0], PICTURES[1]).json()["predictions"]]
    rows = server.ask(PICTURES[0], PICTURES[2][:-40], b"", PICTURES[1]).json()["predictions"]
    assert [row["p_fake"] for row in rows] == [pytest.approx(alone[0]), None, None, pytest.approx(alone[1])]
    assert rows[1]["error"].startswith("broken picture")
    assert rows[2]["error"] == "the file is empty"
    assert rows[2]["verdict"] is None

    response = server.ask(b"no picture", b"")
    assert refused(response, 422).startswith("not a picture that can be read")
    assert [error["file"] for error in response.json()["errors"]] == ["secret0.jpg", "secret1.jpg"]


def test_the_evidence_is_a_grid_or_a_drawing(server: Server) -> None:
    said = server.client.post("/v1/explain", files=files(PICTURES[0])).json()
    (alone,) = server.ask(PICTURES[0]).json()["predictions"]
    assert said["prediction"] == {**alone, "p_fake": pytest.approx(alone["p_fake"], abs=1e-6)}
    grid = said["occlusion_map"]
    assert len(grid) >= 8
    assert {len(row) for row in grid} == {len(grid)}
    assert min(map(min, grid)) < 0 < max(map(max, grid))

    response = server.client.post("/v1/explain", files=files(PICTURES[0]), headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as drawing:
        assert min(drawing.size) >= 200
    assert "one file" in refused(server.client.post("/v1/explain", files=files(*PICTURES[:2])), 413)
    assert "broken" in refused(server.client.post("/v1/explain", files=files(PICTURES[0][:-40])), 422)


def test_models_say_how_good_they_are(server: Server) -> None:
    said = server.client.get("/v1/models").json()
    (one,) = said["models"]
    assert (one["name"], one["title"]) == ("weighing", "weighing, 97.64 % right on validation")
    assert (one["abstention_band"], one["test"]["accuracy"]) == ([0.4, 0.6], 0.9768)
    assert one["limit"] == said["limit"] == server.ask(PICTURES[0]).json()["limit"]
    assert said["limits"] == {"max_bytes": 20_000_000, "max_files": 32, "max_pixels": 25_000_000}
    assert "weighing" in refused(server.ask(PICTURES[0], params={"model": "vit"}), 422)


def test_several_models_are_asked_by_name(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other")
    exported(temperature=9.0).write(other)
    with Server(f"{model}, {other}") as server:
        answers = [server.ask(PICTURES[0], params={"model": name}).json() for name in ("weighing", "other")]
        assert server.ask(PICTURES[0]).json() == answers[0]
    assert [answer["model"] for answer in answers] == ["weighing", "other"]
    assert answers[0]["predictions"][0]["p_fake"] != answers[1]["predictions"][0]["p_fake"]


def test_what_is_over_a_limit_is_refused_with_what_to_do(strict: Server) -> None:
    assert refused(strict.ask(bytes(100_001)), 413) == "file 1 is larger than 0.1 MB"
    assert refused(strict.ask(*PICTURES[:4]), 413) == "too many files: send 3 files in a request"
    assert refused(strict.ask(png(1100, 1000)), 413) == "1100x1000 is more than 1 megapixels"
    bomb = png_by_hand(30_000, 30_000, 8, b"")
    assert refused(strict.ask(bomb), 413) == "more than 179 megapixels"
    explain = partial(strict.client.post, "/v1/explain")
    assert refused(explain(files=files(bomb)), 413) == "more than 179 megapixels"
    assert refused(explain(files=files(png(1100, 1000))), 413) == "1100x1000 is more than 1 megapixels"
    assert refused(explain(files=files(bytes(100_001))), 413) == "file 1 is larger than 0.1 MB"
    rows = strict.ask(png(1100, 1000), PICTURES[0]).json()["predictions"]
    assert (rows[0]["error"], rows[1]["error"]) == ("1100x1000 is more than 1 megapixels", None)
    assert strict.ask(png(1000, 1000)).status_code == 200


def test_requests_of_another_form_are_refused_with_what_to_do(server: Server) -> None:
    post = server.client.post
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert "curl -F files=@photo.jpg" in refused(post("/v1/predict", content=PICTURES[0]), 415)
    assert "curl -F files=@photo.jpg" in refused(post("/v1/predict", json={"image": "..."}), 415)
    assert "no file" in refused(post("/v1/predict", content=body(), headers=form), 422)
    assert "boundary" in refused(post("/v1/predict", content=b"", headers={"Content-Type": "multipart/form-data"}), 422)
    assert "last boundary" in refused(post("/v1/predict", content=body(PICTURES[0])[:-9], headers=form), 422)
    assert "malformed" in refused(post("/v1/predict", content=b"nonsense", headers=form), 422)
    for malformed in ("x" * 257, "x" * 5000, '""', '"a', "a b", "é", "*=utf-8''", "; boundary=b"):
        content_type = {b"Content-Type": f"multipart/form-data; boundary={malformed}".encode("latin1")}
        refused(post("/v1/predict", content=body(PICTURES[0]), headers=content_type), 422)
    named = body(PICTURES[0]).replace(b'; filename="p.jpg"', b"")
    assert "is no file: curl wants an @" in refused(post("/v1/predict", content=named, headers=form), 422)
    for extended, name in (
        ("UTF-8''bl%C3%BCte.jpg", "blüte.jpg"),
        ("iso-8859-1'de'bl%FCte.jpg", "blüte.jpg"),
        ("no-charset''a%20b.jpg", "no-charset''a%20b.jpg"),
    ):
        named = body(PICTURES[0]).replace(b'; filename="p.jpg"', f"; filename*={extended}".encode())
        (answer,) = post("/v1/predict", content=named, headers=form).json()["predictions"]
        assert (answer["file"], answer["error"]) == (name, None)
    assert refused(server.client.get("/v1/nothing"), 404) == "there is nothing at /v1/nothing"
    assert "GET" in refused(server.client.get("/v1/predict"), 405)


def test_a_body_is_refused_while_it_streams_in_and_never_held_whole(model: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield body(b"")[: -len(BOUNDARY) - 8]
        for _ in range(4000):
            yield bytes(1_000_000)

    with Server(model, max_bytes=5_000_000) as server:
        assert server.ask(*PICTURES).status_code == 200
        before = megabytes(server.process.pid, "VmHWM")
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        larger = body(bytes(9_000_000))
        response = server.client.post(
            "/v1/predict", content=iter([larger[:4_000_000], larger[4_000_000:]]), headers=headers
        )
        assert refused(response, 413) == "file 1 is larger than 5 MB"
        with contextlib.suppress(httpx.TransportError):  # who sends on and on may lose the answer
            assert refused(server.client.post("/v1/predict", content=endless(), headers=headers), 413)
        assert megabytes(server.process.pid, "VmHWM") - before < 30

        said = rest(begin(server, b"", length=10**10))
        assert (said.split(" ")[1], PROBLEM in said) == ("413", True)
        assert server.ask(*PICTURES).status_code == 200


def test_who_is_too_slow_is_told_so(strict: Server) -> None:
    started = time.monotonic()
    connection = begin(strict, body(PICTURES[0])[:500], length=5000)
    said = rest(connection)
    assert (said.split(" ")[1], PROBLEM in said) == ("408", True)
    assert 1.4 < time.monotonic() - started < 5
    assert strict.ask(PICTURES[0]).status_code == 200


def test_an_answer_that_takes_too_long_is_a_504(model: Path) -> None:
    with Server(model, timeout=0.1, threads=1) as server:
        assert "no answer within 0.1 seconds" in refused(server.ask(png(4900, 4900)), 504)
        until(lambda: server.client.get("/readyz").status_code == 200, 20)
        until(lambda: server.ask(PICTURES[0]).status_code == 200)


def test_too_many_requests_at_once_are_sent_away(strict: Server) -> None:
    whole = body(PICTURES[0])
    held = [begin(strict, whole[:300], length=len(whole)) for _ in range(2)]
    until(lambda: strict.metrics()["detector_requests_in_flight"] == 3)  # and the one that asks
    response = strict.ask(PICTURES[1])
    assert "try again" in refused(response, 503)
    assert 1 <= int(response.headers["retry-after"]) <= 5
    for connection in held:
        connection.sendall(whole[300:])
        assert rest(connection).split(" ")[1] == "200"
    assert strict.ask(PICTURES[1]).status_code == 200


def test_requests_that_arrive_together_are_answered_together(model: Path) -> None:
    alone = [answer.p_fake for answer in Detector.load(model).predict(PICTURES)]
    with Server(model, batch_window=400, batch_size=6) as server, ThreadPoolExecutor(12) as pool:
        wholes = [body(picture) for picture in PICTURES]
        held = [begin(server, whole[:-5], length=len(whole)) for whole in wholes]
        until(lambda: server.metrics()["detector_requests_in_flight"] == 13)  # and the one that asks
        for connection, whole in zip(held, wholes, strict=True):
            connection.sendall(whole[-5:])
        said = [json.loads(rest(connection).split("\r\n\r\n")[1]) for connection in held]
        assert [answer["predictions"][0]["p_fake"] for answer in said] == pytest.approx(alone, abs=1e-6)
        assert server.metrics()['detector_batch_pictures_sum{model="weighing"}'] == 13, "one before it listens"
        assert server.metrics()['detector_batch_pictures_count{model="weighing"}'] <= 5

        def ask(picture: bytes) -> float:
            return float(server.ask(picture).json()["predictions"][0]["p_fake"])

        # whose picture is broken, or who goes away, does not disturb the others
        gone = [begin(server, body(PICTURES[0])) for _ in range(3)]
        for connection in gone:
            connection.close()
        broken = pool.submit(server.ask, PICTURES[1][:-40])
        assert list(pool.map(ask, PICTURES)) == pytest.approx(alone, abs=1e-6)
        assert broken.result().status_code == 422


def test_an_error_reaches_only_whose_picture_caused_it_and_a_cancelled_one_nobody() -> None:
    batches: list[list[int]] = []

    def halve(numbers: list[int]) -> list[float]:
        batches.append(numbers)
        if any(number % 2 for number in numbers):
            raise ValueError("odd")
        return [number / 2 for number in numbers]

    async def go() -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            batcher: Batcher[int, float] = Batcher(halve, 0.05, 4, lambda: 6, pool)
            worker = asyncio.create_task(batcher.run())
            asked = [asyncio.create_task(batcher.ask(number)) for number in (2, 3, 4, 6, 8, 10)]
            await asyncio.sleep(0)
            asked[2].cancel()
            said = await asyncio.gather(*asked, return_exceptions=True)
            worker.cancel()
            return said

    two, odd, cancelled, six, eight, ten = asyncio.run(go())
    assert (two, six, eight, ten) == (1, 3, 4, 5)
    assert isinstance(odd, ValueError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert batches == [[2, 3, 6], [2], [3], [6], [8, 10]]


def test_large_pictures_do_not_hold_up_the_service(server: Server) -> None:
    slow = threading.Thread(target=server.ask, args=(png(4900, 4900),))
    begun = time.monotonic()
    slow.start()
    times = []
    while slow.is_alive():
        started = time.monotonic()
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        times.append(time.monotonic() - started)
    slow.join()
    assert len(times) >= 3
    assert sorted(times)[len(times) // 2] < (time.monotonic() - begun) / 3


def test_answers_go_out_at_once(server: Server) -> None:
    times = []
    for picture in PICTURES:
        started = time.monotonic()
        server.ask(picture)
        times.append(time.monotonic() - started)
    assert min(times) < 0.03, "Nagle's algorithm holds bodies back for 40 ms"


def test_sigterm_lets_requests_in_flight_finish(model: Path) -> None:
    whole = body(PICTURES[0])
    with Server(model) as server:
        connection = begin(server, whole[:300], length=len(whole))
        until(lambda: server.metrics()["detector_requests_in_flight"] == 2)
        server.process.send_signal(signal.SIGTERM)

        def refuses() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refuses)
        assert server.process.poll() is None
        connection.sendall(whole[300:])
        said = rest(connection)
        assert said.split(" ")[1] == "200"
        assert "\r\nconnection: close\r\n" in said
        assert server.process.wait(10) == 0


def test_metrics_and_logs_tell_of_requests_but_nothing_of_pictures(model: Path) -> None:
    with Server(model) as server:
        assert server.client.get("/healthz").json() == {"status": "ok"}
        assert server.client.get("/readyz").json() == {"status": "ok"}
        response = server.ask(*PICTURES[:3], b"broken", headers={"X-Request-ID": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        server.client.get("/secret-path.jpg")
        metrics = server.metrics()
        assert metrics['detector_requests_total{path="/v1/predict",status="200"}'] == 1
        assert metrics['detector_requests_total{path="other",status="404"}'] == 1
        assert metrics['detector_request_seconds_count{path="/v1/predict"}'] == 1
        assert metrics['detector_pictures_total{model="weighing",verdict="unreadable"}'] == 1
        verdicts = [value for name, value in metrics.items() if name.startswith("detector_pictures_total")]
        assert sum(verdicts) == 4
        assert metrics["process_resident_memory_bytes"] > 0
    lines = server.log()
    (line,) = [line for line in lines if line.get("id") == "mine-1"]
    assert (line["method"], line["path"], line["status"], line["files"]) == ("POST", "/v1/predict", 200, 4)
    assert line["ms"] > 0
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert "secret" not in json.dumps(lines)


def test_every_answer_forbids_other_hosts(server: Server) -> None:
    for path in ("/", "/v1/models", "/v1/nothing", "/static/page.js"):
        headers = server.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_openapi_has_examples_of_the_form_of_real_answers(server: Server) -> None:
    api = server.client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/explain", "/v1/models", "/healthz", "/readyz"} <= api["paths"].keys()
    schemas = api["components"]["schemas"]
    real = server.ask(PICTURES[0], b"broken").json()
    assert schemas["PredictResponse"]["example"].keys() == real.keys()
    for example, answer in zip(schemas["PredictResponse"]["example"]["predictions"], real["predictions"], strict=True):
        assert example.keys() == answer.keys()
        assert {name: type(value) for name, value in example.items()} == {k: type(v) for k, v in answer.items()}
    explained = server.client.post("/v1/explain", files=files(PICTURES[0])).json()
    assert schemas["ExplainResponse"]["example"].keys() == explained.keys()
    assert [len(row) for row in schemas["ExplainResponse"]["example"]["occlusion_map"]] == list(
        map(len, explained["occlusion_map"])
    )
    assert schemas["Refusal"]["example"].keys() == server.client.get("/v1/nothing").json().keys()
    predict, explain = (api["paths"][path]["post"] for path in ("/v1/predict", "/v1/explain"))
    assert predict["requestBody"]["content"].keys() == {"multipart/form-data"}
    form = predict["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (form["properties"]["files"]["minItems"], form["properties"]["files"]["maxItems"]) == (1, 32)
    assert not form["additionalProperties"]
    for operation in (predict, explain):
        (parameter,) = operation["parameters"]
        assert parameter["schema"]["enum"] == ["weighing"]
        assert parameter["schema"]["default"] == "weighing"
    for path, operation in (("/v1/predict", "post"), ("/v1/explain", "post")):
        for status, response in api["paths"][path][operation]["responses"].items():
            assert ("application/problem+json" in response["content"]) == (status != "200")
            assert status == "200" or f"| {status} |" in REFERENCE
    assert all(f"{path}`" in REFERENCE for path in api["paths"])


def start(models: Path | str, **settings: Any) -> tuple[int, str]:
    env = environment(models, **settings)
    done = subprocess.run([sys.executable, "-m", "app"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def test_what_keeps_it_from_starting_is_told_in_one_line(server: Server, model: Path, tmp_path: Path) -> None:
    taken = server.port
    cases: list[tuple[Path | str, dict[str, Any], str]] = [
        (tmp_path, {}, r"no model\.onnx, model\.safetensors and model\.json in .*: in the repository, `dvc pull"),
        (model, {"port": taken}, rf"127\.0\.0\.1:{taken}: .*: choose another port, as in `make serve PORT="),
        (model, {"max_files": "many"}, r"SERVE_MAX_FILES=many: .*integer"),
        (model, {"timeout": 0}, r"SERVE_TIMEOUT=0: .*greater than 0"),
        (model, {"maxfiles": 3}, r"SERVE_MAXFILES: no such setting, there are .*SERVE_MAX_FILES"),
        (model, {"timeout": "inf"}, r"SERVE_TIMEOUT=inf: .*finite"),
        (model, {"timeout": 1e10}, r"SERVE_TIMEOUT=1.*: .*less than or equal to 86400"),
        (model, {"decode_seconds": "inf"}, r"SERVE_DECODE_SECONDS=inf: .*finite"),
        (
            model,
            {"host": ""},
            r"SERVE_HOST=: an address is missing: 0\.0\.0\.0 for other machines, 127\.0\.0\.1 for none",
        ),
        (model, {"hosts": "a.example,b.example:81"}, r"SERVE_HOSTS=.*: 'b\.example:81' is more than a name: .* port"),
        (model, {"hosts": "http://a.example"}, r"SERVE_HOSTS=.*: 'http://a\.example' is more than a name: .* port"),
        (f"{model},{model}", {}, r"SERVE_MODELS=.*two folders have the same name"),
    ]
    with ThreadPoolExecutor(2) as pool:
        started = list(pool.map(lambda case: start(case[0], **case[1]), cases))
    for (status, said), (_, _, reason) in zip(started, cases, strict=True):
        assert status == 1
        assert re.fullmatch(rf"error: {reason}.*\n", said), said


def test_of_two_services_that_start_at_once_with_one_port_one_ends_in_a_line(model: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, pipe = [sys.executable, "-m", "app"], subprocess.PIPE
    env = environment(model, port=port)
    both = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    try:
        until(lambda: any(process.poll() is not None for process in both), 30)
        (ended,) = [process for process in both if process.returncode is not None]
        (other,) = [process for process in both if process.returncode is None]
        said = ended.communicate()[1]
        assert ended.returncode == 1
        assert "Traceback" not in said
        assert re.fullmatch(rf"error: 127\.0\.0\.1:{port}: .*: choose another port, .*", said.splitlines()[-1]), said
        assert other.stdout is not None
        until(lambda: "Ctrl-C stops" in other.stdout.readline(), 30)
        other.terminate()
        assert other.wait(10) == 0
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `SERVE_(\w+)` \| `([^`]+)` \|", (ROOT / "docs/reference/http.md").read_text(), re.MULTILINE)
    defaults = {}
    for name, field in Settings.model_fields.items():
        value = field.default
        words = {"models": DEFAULT, "hosts": "none", "threads": "all cores"}
        defaults[name.upper()] = words.get(name, str(value))
    assert dict(rows) == defaults


def test_the_service_needs_no_torch() -> None:
    code = "import sys, app.api; print(sorted({'torch', 'timm', 'scipy', 'sklearn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_is_kept_or_reported(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with Server(model, home=home) as server:
        assert server.ask(*PICTURES).status_code == 200
    assert list(home.rglob("*")) == [], "onnxruntime's telemetry keeps a database and a device id there"


@pytest.mark.slow
def test_what_the_image_installs_is_enough_and_small(model: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-r",
        "requirements-api.txt",
    ]
    subprocess.run(pip, cwd=ROOT, check=True)
    size = sum(path.stat().st_size for path in (tmp_path / "venv").rglob("*") if path.is_file())
    assert size < 250e6, "with Debian, Python and a model the image would have more than 400 MB"
    with Server(model, python=str(python)) as server:
        assert server.ask(*PICTURES).status_code == 200
        assert server.client.post("/v1/explain", files=files(PICTURES[0])).status_code == 200
        assert server.client.get("/").status_code == 200
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    assert missing.returncode != 0


def test_http_and_the_shell_pass_on_every_field_of_a_prediction() -> None:
    fields = {field.name for field in dataclasses.fields(Prediction)}
    assert set(FilePrediction.model_fields) == fields | {"file", "error"}
    assert set(COLUMNS) == fields | {"file", "error", "model_sha256"}
