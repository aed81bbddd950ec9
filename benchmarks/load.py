"""Many clients at once: the service beside FastAPI and torch as people would write it, with the same model.

    python -m benchmarks.load > benchmarks/results/load.md

Each client sends one 32x32 JPEG of the sample after the other, over a connection that stays open. The clients are a
process of their own, on the same machine. Both services run throughout and take turns in being asked, so that whatever
else the machine does meets both alike; medians over the turns.
"""

import argparse
import asyncio
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks import plain_environment  # noqa: F401
from benchmarks.heading import heading, model_fact
from detector import Detector
from detector.errors import UserError, run
from detector.released import DEFAULT

SERVICES = {
    "app": [sys.executable, "-m", "app"],
    "plain": [sys.executable, "-m", "benchmarks.plain_service"],
}
BOUNDARY = "boundary-of-the-benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    parser.add_argument("--seconds", type=float, default=5, help="of each turn of a service (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each service (default: %(default)s)")
    parser.add_argument("--as-clients", nargs=3, help=argparse.SUPPRESS)  # port, clients, seconds
    options = parser.parse_args()
    if options.as_clients:
        port, number, duration = options.as_clients
        print(json.dumps(asyncio.run(send_requests(int(port), int(number), float(duration)))))
        return

    detector = Detector.load(options.model)
    times: dict[tuple[str, int], list[list[float]]] = {}
    with serving("app", options.model) as app, serving("plain", options.model) as plain:
        ports = {"app": app, "plain": plain}
        for warm in ports.values():
            ask(warm, 4, 1)
        turns = list(itertools.product(range(options.turns), options.clients, SERVICES))
        for _, clients, service in tqdm(turns, disable=None):
            repeat = ask(ports[service], clients, options.seconds)
            times.setdefault((service, clients), []).append(repeat)

    fact = model_fact(detector.title, detector.sha256)
    print(heading("The service under load", fact, "the clients share the cores", versions=("onnxruntime", "torch")))
    print(table(times, options.clients, options.seconds))


def table(times: dict[tuple[str, int], list[list[float]]], clients: list[int], seconds: float) -> str:
    """times: by service and number of clients, for each turn how long each of its requests took."""
    lines = [
        "| clients | requests/s | FastAPI + torch | | p50 | FastAPI + torch | p99 | FastAPI + torch |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number in clients:
        ours, theirs = times["app", number], times["plain", number]
        rates = [statistics.median(len(repeat) / seconds for repeat in turns) for turns in (ours, theirs)]
        cells = [str(number), f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[0] / rates[1]:.1f} times as many"]
        for share in (0.5, 0.99):
            cells += [
                f"{1000 * statistics.median(at(share, repeat) for repeat in turns):,.1f} ms" for turns in (ours, theirs)
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def at(share: float, times: list[float]) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


@contextmanager
def serving(name: str, model: str) -> Iterator[int]:
    """Run a service while the block lasts. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"SERVE_MODELS": model, "SERVE_PORT": str(port)}
    command = SERVICES[name] + ([] if name == "app" else [model, str(port)])
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            time.sleep(0.1)
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                continue
            yield port
            return
        raise UserError(f"{' '.join(command)} did not start: see what it says")
    finally:
        process.terminate()
        process.wait()


def ask(port: int, clients: int, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.load", "--as-clients", str(port), str(clients), str(seconds)]
    times: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return times


async def send_requests(port: int, clients: int, seconds: float) -> list[float]:
    """How long each request took, in seconds, of all clients."""
    rows = pq.read_table(Path("data/sample/test.parquet")).to_pylist()
    requests = [request(row["image"]["bytes"]) for row in rows]
    end = time.perf_counter() + seconds
    times: list[float] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for one in itertools.islice(itertools.cycle(requests), number, None):
            started = time.perf_counter()
            writer.write(one)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            now = time.perf_counter()
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(head.decode())
            if now > end:
                writer.close()
                return
            times.append(now - started)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times


def request(jpeg: bytes) -> bytes:
    disposition = 'Content-Disposition: form-data; name="files"; filename="picture.jpg"'
    body = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode() + jpeg
    body += f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode() + body


if __name__ == "__main__":
    run(main)
