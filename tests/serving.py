"""A model that is made in milliseconds, and the service as its users start it: a process of its own on a free port."""

import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import ROOT
from tests.models import exported

BOUNDARY = "----of-the-test"


def make_model(folder: Path, **changes: Any) -> Path:
    """A model in which every pixel has a weight of its own, so that no two pictures have the same answer; its features
    are random projections. changes: of its record."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(0, 4e-4, 3 * 32 * 32).astype(np.float32)
    weights -= weights.mean()
    projections = np.random.default_rng(1).normal(0, 2e-4, (3 * 32 * 32, 16)).astype(np.float32)
    constants = {"weights": weights, "axis": np.array([1]), "projections": projections}
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logit"]),
        helper.make_node("ReduceMax", ["rows", "axis"], ["ood_score"], keepdims=0),
        helper.make_node("MatMul", ["rows", "projections"], ["features"]),
    ]
    alone: list[str | int] = ["N"]
    graph = helper.make_graph(
        nodes,
        "weighing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*alone, 32, 32, 3])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
            for output, shape in (("logit", alone), ("ood_score", alone), ("features", [*alone, 16]))
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    (folder / "model.safetensors").write_bytes(b"")  # the weights are in the graph
    # white is out of distribution
    exported(model="weighing", out_of_distribution={"threshold": 254.5, "validation_share": 0.99}, **changes).write(
        folder
    )
    return folder


def sample(count: int) -> list[bytes]:
    """JPEGs of 32x32, half of them FAKE."""
    rows = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()
    return [row["image"]["bytes"] for row in rows[: count // 2] + rows[count // 2 - count :]]


def png_by_hand(width: int, height: int, depth: int, rows: bytes, kind_of_colour: int = 2) -> bytes:
    """A PNG by hand, RGB (2), grey with alpha (4) or RGBA (6): its header may claim what is not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind_of_colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def environment(models: Path | str, **settings: Any) -> dict[str, str]:
    chosen = {"models": models, "port": 0, **settings}
    return {**os.environ, **{f"SERVE_{name.upper()}": str(value) for name, value in chosen.items()}}


class Server:
    """`python -m app`, as a context; settings by their names in app/settings.py."""

    def __init__(
        self, models: Path | str, python: str = sys.executable, home: Path | None = None, **settings: Any
    ) -> None:
        env = environment(models, **settings)
        if home is not None:
            env["HOME"] = str(home)
            for name in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
                env.pop(name, None)
        self.process = subprocess.Popen(
            [python, "-m", "app"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.match(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError("".join(said) + self.process.communicate()[1])
        self.said = said
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
        self.reader.join(5)

    def log(self) -> list[dict[str, Any]]:
        """The log lines so far; after the context all of them."""
        return [json.loads(self.lines.get()) for _ in range(self.lines.qsize())]

    def ask(self, *pictures: bytes, **options: Any) -> httpx.Response:
        return self.client.post("/v1/predict", files=files(*pictures), **options)

    def metrics(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.client.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", (f"secret{n}.jpg", data, "image/jpeg")) for n, data in enumerate(pictures)]


def refused(response: httpx.Response, status: int) -> str:
    """What a refusal says; it must be a problem of RFC 9457."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    return str(problem["detail"])


def body(*pictures: bytes) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="p.jpg"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for data in pictures
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def begin(server: Server, content: bytes, length: int | None = None) -> socket.socket:
    """A connection on which a request has begun: its head, and so much of its body."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    connection.sendall(f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content)
    return connection


def rest(connection: socket.socket) -> str:
    """The answer: head and body."""
    with connection:
        received = b""
        while not (found := re.search(rb"content-length: (\d+)\r\n.*?\r\n\r\n", received, re.DOTALL)) or (
            len(received) < found.end() + int(found[1])
        ):
            more = connection.recv(65536)
            assert more, received
            received += more
        return received.decode()


def megabytes(process: int, which: str) -> float:
    """The memory of a process; which: VmRSS, now, or VmHWM, at most so far."""
    return int(re.findall(rf"{which}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) / 1000


def until(condition: Any, seconds: float = 5, sleep: Callable[[float], None] = time.sleep) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        sleep(0.02)
