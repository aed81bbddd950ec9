"""Good requests beside strangers' files: four clients of good requests, beside four others.

    python -m benchmarks.strangers > benchmarks/results/strangers.md

The four others send good pictures too, mutants of pictures (bytes changed, cut out, repeated), or files of up to 2 MB
that are costly to decode. Each turn has all three after one another, so that whatever else the machine does meets them
alike. The goals: the 99th percentile of good requests beside mutants is at most 1.5 times that beside good ones; and
beside costly files every good request is answered, and `/healthz` within a second.
"""

import argparse
import asyncio
import io
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from app.settings import Settings
from benchmarks.heading import heading, model_fact
from benchmarks.load import at, request, serving
from detector import Detector
from detector.errors import run
from detector.released import DEFAULT

CLIENTS = 4  # of each kind
PATIENCE = 10  # seconds beyond the service's timeout, after which a client gives up
SIZE = 2_000_000  # bytes of a costly file that is made of many parts
Answer = tuple[int, float]  # status, 0 where there was none, and seconds


@dataclass
class Turn:
    """What four clients of good requests met: their answers, and those of /healthz meanwhile."""

    good: list[Answer] = field(default_factory=list)
    health: list[Answer] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [seconds for _, seconds in self.good]

    @property
    def answered(self) -> int:
        return sum(status == 200 for status, _ in self.good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--beside", nargs="+", choices=FILES, default=list(FILES), help="default: all")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn of a kind (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--as-good", nargs=2, help=argparse.SUPPRESS)  # port, seconds
    parser.add_argument("--as-strangers", nargs=3, help=argparse.SUPPRESS)  # port, kind, seed
    options = parser.parse_args()
    if options.as_good:
        port, seconds = options.as_good
        print(json.dumps(asdict(asyncio.run(good_clients(int(port), float(seconds))))))
        return
    if options.as_strangers:
        port, kind, seed = options.as_strangers
        asyncio.run(strangers(int(port), FILES[kind](int(seed))))
        return

    detector = Detector.load(options.model)
    fact = model_fact(detector.title, detector.sha256)
    turns: dict[str, list[Turn]] = {kind: [] for kind in options.beside}
    with serving("app", options.model) as port:
        ask(port, 1)  # warm
        for number, kind in tqdm(list(itertools.product(range(options.turns), options.beside)), disable=None):
            with beside(port, kind, number):
                turns[kind].append(ask(port, options.seconds))
    print(heading("Good requests beside strangers' files", fact, versions=("onnxruntime", "pillow")))
    print(report(turns))


def report(turns: dict[str, list[Turn]]) -> str:
    """turns: by what the four others sent."""
    lines = [
        f"| beside {CLIENTS} clients of | good requests | not answered | p50 | p99 | slowest | slowest /healthz |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, of_kind in turns.items():
        count = sum(len(turn.good) for turn in of_kind)
        unanswered = count - sum(turn.answered for turn in of_kind)
        quantiles = [statistics.median(at(share, turn.seconds) for turn in of_kind) for share in (0.5, 0.99)]
        slowest = max(max(turn.seconds) for turn in of_kind)
        health = max(max(seconds if status == 200 else math.inf for status, seconds in turn.health) for turn in of_kind)
        times = " | ".join(in_words(seconds) for seconds in (*quantiles, slowest, health))
        lines.append(f"| {kind} | {count:,} | {unanswered} | {times} |")
    if {"good", "mutants"} <= turns.keys():
        pairs = zip(turns["mutants"], turns["good"], strict=True)
        ratio = statistics.median(at(0.99, mutants.seconds) / at(0.99, good.seconds) for mutants, good in pairs)
        lines += ["", f"p99 beside mutants: {ratio:.2f} times that beside good ones (median of the turns)."]
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{1000 * seconds:,.0f} ms"


def ask(port: int, seconds: float) -> Turn:
    command = [sys.executable, "-m", "benchmarks.strangers", "--as-good", str(port), str(seconds)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Turn(good=[tuple(answer) for answer in said["good"]], health=[tuple(answer) for answer in said["health"]])


@contextmanager
def beside(port: int, kind: str, seed: int) -> Iterator[None]:
    """Let four clients send files of this kind while the block lasts."""
    command = [sys.executable, "-m", "benchmarks.strangers", "--as-strangers", str(port), kind, str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # its files are made, and the first ones asked about
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def good_clients(port: int, seconds: float) -> Turn:
    end = time.perf_counter() + seconds
    turn = Turn()
    requests = [request(picture) for picture in good_pictures()]

    async def client(number: int) -> None:
        async with connected(port) as send:
            for one in itertools.islice(itertools.cycle(requests), number, None):
                if time.perf_counter() > end:
                    return
                turn.good.append(await send(one))

    async def watch() -> None:
        async with connected(port) as send:
            while time.perf_counter() < end:
                turn.health.append(await send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))
                await asyncio.sleep(0.05)

    await asyncio.gather(watch(), *(client(number) for number in range(CLIENTS)))
    return turn


async def strangers(port: int, files: Iterator[bytes]) -> None:
    """Say so once each client has something to send, and go on until this process is ended."""

    async def client() -> None:
        async with connected(port) as send:
            for file in files:
                await send(request(file))

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.gather(*clients)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Callable[[bytes], Awaitable[Answer]]]:
    """Yields a function that sends a request and awaits its answer, on one connection as long as it stays open."""
    limit = Settings().timeout + PATIENCE
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(whole: bytes) -> int:
        if not streams:
            streams.append(await asyncio.open_connection("127.0.0.1", port))
        reader, writer = streams[0]
        writer.write(whole)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        if b"connection: close" in head:
            streams.pop()[1].close()
        return int(head.split()[1])

    async def send(whole: bytes) -> Answer:
        started = time.perf_counter()
        status = 0
        try:
            async with asyncio.timeout(limit):
                status = await exchange(whole)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            while streams:
                streams.pop()[1].close()
        return status, time.perf_counter() - started

    yield send
    for _, writer in streams:
        writer.close()


def good_pictures() -> list[bytes]:
    return [row["image"]["bytes"] for row in pq.read_table(Path("data/sample/test.parquet")).to_pylist()]


def mutants(seed: int) -> Iterator[bytes]:
    """Pictures of the sample, in each format, with a few bytes changed, cut out or repeated."""
    chance = random.Random(seed)
    originals = []
    for picture in good_pictures()[:10]:
        with Image.open(io.BytesIO(picture)) as image:
            originals += [picture, *(encoded(image.convert("RGB"), kind) for kind in ("PNG", "WEBP", "GIF", "TIFF"))]

    def mutant() -> bytes:
        changed = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 8)):
            start = chance.randrange(len(changed))
            part = changed[start : start + chance.randint(1, 64)]
            change = chance.randrange(3)
            if change == 0:
                changed[start : start + len(part)] = chance.randbytes(len(part))
            elif change == 1 and len(changed) > len(part):
                del changed[start : start + len(part)]
            else:
                changed[start:start] = part * chance.randint(1, 20)
        return bytes(changed)

    return (mutant() for _ in itertools.count())


def costly(seed: int) -> Iterator[bytes]:
    """Files whose decoding costs far more than their size says, one after the other, in an order of the seed's."""
    side = math.isqrt(Settings().max_pixels)
    flat = Image.new("RGB", (side, side), "teal")
    files = [
        many_scans(),
        many_segments(),
        many_chunks(),
        encoded(flat, "PNG"),
        encoded(flat, "TIFF", compression="tiff_adobe_deflate"),
        encoded(flat, "JPEG", progressive=True, quality=1),
    ]
    random.Random(seed).shuffle(files)
    return itertools.cycle(files)


def many_scans() -> bytes:
    """A progressive JPEG of 4 megapixels whose last scan is there again and again: each is a pass over the picture."""
    jpeg = encoded(Image.linear_gradient("L").resize((2000, 2000)), "JPEG", progressive=True, quality=10)
    last = jpeg.rindex(b"\xff\xda")
    scan = jpeg[last:-2]
    return jpeg[:-2] + scan * ((SIZE - len(jpeg)) // len(scan)) + b"\xff\xd9"


def many_segments() -> bytes:
    """A JPEG of 32x32 behind half a million empty segments of an application's own."""
    jpeg = encoded(Image.new("RGB", (32, 32)), "JPEG")
    return jpeg[:2] + b"\xff\xeb\x00\x02" * (SIZE // 4) + jpeg[2:]


def many_chunks() -> bytes:
    """A PNG of 32x32 behind empty chunks of a kind that nobody knows, with their checksums."""
    png = encoded(Image.new("RGB", (32, 32)), "PNG")
    pixels = png.index(b"IDAT") - 4
    chunk = b"\0\0\0\0teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
    return png[:pixels] + chunk * (SIZE // 12) + png[pixels:]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def good(seed: int) -> Iterator[bytes]:
    pictures = good_pictures()
    random.Random(seed).shuffle(pictures)
    return itertools.cycle(pictures)


FILES: dict[str, Callable[[int], Iterator[bytes]]] = {"good": good, "mutants": mutants, "costly": costly}


if __name__ == "__main__":
    run(main)
