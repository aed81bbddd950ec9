"""Encoded images to pixels, in parallel, each checked on the way."""

import contextlib
import hashlib
import io
import math
import mmap
import multiprocessing
import os
import re
import signal
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import TypeVar

import numpy as np
from PIL import Image, JpegImagePlugin
from tqdm import tqdm

from detector.errors import UserError
from detector.images import decode, one_line_errors
from stages.prepare.sources import EncodedSplit

SIZE = 32
CHUNK = 250  # images that a process decodes at a time
MOST_PROCESSES = 8
T = TypeVar("T")


@dataclass(frozen=True)
class DecodedSplit:
    """A split as pixels. All but `images` are in canonical order, the same for every source: by pixels, label, object
    class."""

    images: np.ndarray  # uint8 (N, 32, 32, 3), as the source has them: 300 MB are moved once, when they are packed
    rows: np.ndarray  # int64 (N), where in `images` they are
    hashes: np.ndarray  # 16 bytes (N), of the pixels
    labels: np.ndarray  # int64 (N)
    object_class: np.ndarray  # int8 (N)
    jpeg: Counter[tuple[int, str]]  # images by (label, encoder settings)


def decode_split(split: EncodedSplit, bar: tqdm) -> DecodedSplit:
    """Read, check and decode every image, in parallel. Raises UserError on the first bad one."""
    n = len(split.names)
    images = shared((n, SIZE, SIZE, 3), "u1")
    hashes = shared((n,), "S16")
    known: dict[bytes, str] = {}

    def work(start: int) -> list[str]:
        settings = []
        for i in range(start, min(start + CHUNK, n)):
            try:
                images[i], setting = decode_strictly(split.read(i), known)
            except (UserError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise UserError(f"{split.names[i]}: {error}; expected a whole {SIZE}x{SIZE} RGB JPEG") from None
            hashes[i] = hashlib.blake2b(images[i], digest_size=16).digest()
            settings.append(setting)
        return settings

    jpeg: Counter[tuple[int, str]] = Counter()
    for start, settings in zip(starts := range(0, n, CHUNK), in_parallel(work, starts), strict=True):
        jpeg.update(zip(split.labels[start : start + CHUNK].tolist(), settings, strict=True))
        bar.update(len(settings))

    object_class = object_classes(split.names)
    order = np.lexsort((object_class, split.labels, hashes))
    return DecodedSplit(images, order, hashes[order], split.labels[order], object_class[order], jpeg)


def shared(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an array that forked processes write and this one reads. Not in /dev/shm, which is small in containers."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def in_parallel(work: Callable[[int], T], starts: Sequence[int]) -> Iterator[T]:
    """Yield work(start) of each start, in order, computed by forked processes.

    Not threads: decoding one small image is so short that two of them spent their time handing Python's lock to
    each other. Forked, because then neither the source nor the pixels travel between the processes.
    """
    context = multiprocessing.get_context("fork")
    count = min(os.cpu_count() or 1, MOST_PROCESSES)
    pipes, workers = [], []

    def serve(mine: Sequence[int], pipe: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(BrokenPipeError):  # the parent was killed
            for start in mine:
                try:
                    result: T | Exception = work(start)
                except Exception as error:
                    result = error
                pipe.send(result)

    try:
        for first in range(count):
            receiving, sending = context.Pipe(duplex=False)
            worker = context.Process(target=serve, args=(starts[first::count], sending), daemon=True)
            worker.start()
            sending.close()
            pipes.append(receiving)
            workers.append(worker)
        for i in range(len(starts)):
            result = pipes[i % count].recv()
            if isinstance(result, Exception):
                raise result
            yield result
    except EOFError:
        raise UserError(
            "a decoding process was killed, perhaps for want of memory: free some and run it again"
        ) from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def decode_strictly(data: bytes, known: dict[bytes, str]) -> tuple[np.ndarray, str]:
    """Return the pixels of an image and the settings of its encoder; `known` has the settings by header.

    Raises UserError unless it is a whole 32x32 RGB JPEG.
    """
    header = data.partition(b"\xff\xda")[0]  # up to the coded pixels; the same in all of CIFAKE
    if header not in known:
        known[header] = jpeg_settings(data)
    pixels = decode(data)
    if pixels.shape != (SIZE, SIZE, 3):
        raise UserError(f"{pixels.shape[1]}x{pixels.shape[0]} image")
    return pixels, known[header]


def jpeg_settings(data: bytes) -> str:
    """Return the encoder's settings that show in the pixels, such as "quality 75, 4:2:0"."""
    with one_line_errors(data), Image.open(io.BytesIO(data)) as image:
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode != "RGB":
            raise UserError(f"{image.format} image of mode {image.mode}")
        tables = image.quantization
        chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "other chroma")
    for quality, standard in standard_tables().items():
        if tables == standard:
            return f"quality {quality}, {chroma}"
    return f"tables {hashlib.sha256(repr(tables).encode()).hexdigest()[:8]}, {chroma}"


@cache
def standard_tables() -> dict[int, dict[int, list[int]]]:
    """Return the quantisation tables of libjpeg by its quality."""
    tables = {}
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables[quality] = image.quantization
    return tables


def object_classes(names: list[str]) -> np.ndarray:
    """Return the CIFAR-10 class by the number in CIFAKE's file names: "12.jpg" 0, "12 (2).jpg" 1 ... "12 (10).jpg" 9.

    int8 (N); -1 where the name is none of CIFAKE's, and everywhere when no name has a number in brackets.
    """
    pattern = re.compile(r"[/ ]\d+(?: \(([2-9]|10)\))?\.jpg$")
    matches = [pattern.search(name) for name in names]
    classes = [-1 if match is None else int(match[1] or 1) - 1 for match in matches]
    return np.array(classes if max(classes) > 0 else [-1] * len(names), np.int8)
