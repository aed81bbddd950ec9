"""Encoded pictures to pixels, in parallel, each checked on the way."""

import contextlib
import hashlib
import math
import mmap
import multiprocessing
import os
import re
import signal
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from detector.cores import thread_count
from detector.errors import UserError
from detector.images import decode
from detector.labels import CLASSES
from detector.pictures import preprocess
from stages.prepare.sources import Pictures
from stages.prepare.traits import (
    FILE_FIELDS,
    PIXEL_FIELDS,
    TRAITS,
    FileTraits,
    file_traits,
    perceptual_hashes,
    pixel_traits,
)

CHUNK = 250  # pictures that a process decodes at a time
MOST_PROCESSES = 8
BLOCK_BYTES = 2**24  # of zeros that are written at a time
MOST_NAMED = 10  # damaged pictures in an error
ABOUT_SIZE = r"\d+x\d+|times (smaller|larger)"  # notes of the detector that are no news of a training picture
T = TypeVar("T")


@dataclass(frozen=True)
class Decoded:
    """Whole pictures as pixels, of one split or of several, one after the other.

    All but `images` are in canonical order within a split, the same for every source: by pixels, label, object class.
    """

    images: list[np.ndarray]  # of each split uint8 (M, S, S, 3), as its source has them, in a file without a name
    split: np.ndarray  # int8 (N), index into `images`
    rows: np.ndarray  # int64 (N), where in `images[split]` they are
    hashes: np.ndarray  # 16 bytes (N), of the pixels
    perceptual_hashes: np.ndarray  # uint64 (N)
    traits: np.ndarray  # TRAITS (N)
    labels: np.ndarray  # int64 (N)
    sources: np.ndarray  # int32 (N), index into `source_names`
    source_names: list[str]  # in order
    groups: np.ndarray  # uint64 (N), equal for the pictures of a group; 0 is no group
    object_class: np.ndarray  # int8 (N)
    notes: Counter[str]  # pictures by what the detector would note of them, but for their size
    damaged: int  # pictures that were left out

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.images[0].shape[1:]

    def read(self, chosen: np.ndarray) -> np.ndarray:
        """Return images by their place, int64 (K) -> uint8 (K, S, S, 3)."""
        images = np.empty((len(chosen), *self.image_shape), np.uint8)
        for number, of_split in enumerate(self.images):
            here = self.split[chosen] == number
            images[here] = of_split[self.rows[chosen[here]]]
        return images

    @classmethod
    def join(cls, splits: "Sequence[Decoded]") -> "Decoded":
        """Return several splits as one, in this order, with the sources that have a picture left."""
        arrays = {
            name: np.concatenate([getattr(split, name) for split in splits])
            for name in ("rows", "hashes", "perceptual_hashes", "traits", "labels", "groups", "object_class")
        }
        names = sorted({split.source_names[number] for split in splits for number in np.unique(split.sources)})
        number_of = {name: number for number, name in enumerate(names)}
        numbers = [np.array([number_of.get(name, -1) for name in split.source_names], np.int32) for split in splits]
        return cls(
            sources=np.concatenate([number[split.sources] for number, split in zip(numbers, splits, strict=True)]),
            source_names=names,
            images=[images for split in splits for images in split.images],
            split=np.concatenate([np.full(len(split), number, np.int8) for number, split in enumerate(splits)]),
            notes=sum((split.notes for split in splits), Counter()),
            damaged=sum(split.damaged for split in splits),
            **arrays,
        )


def decode_split(pictures: Pictures, entry: dict[str, Any], skip_damaged: bool, spool: Path, bar: tqdm) -> Decoded:
    """Read, check and decode every picture, in parallel. entry: of `datasets`. spool: the folder for the pixels' file.

    Raises UserError with the first damaged ones, unless they are to be left out.
    """
    n, size = len(pictures), entry["image_size"]
    images = on_disk((n, size, size, 3), spool)
    hashes, perceptual, traits = shared((n,), "S16"), shared((n,), "u8"), shared((n,), TRAITS)
    known: dict[bytes, FileTraits] = {}

    def work(start: int) -> tuple[int, list[tuple[int, str]], Counter[str]]:
        stop = min(start + CHUNK, n)
        damaged, notes = [], Counter[str]()
        of_files = [FileTraits(0, 0, 0, "", "", "", "")] * (stop - start)
        for i in range(start, stop):
            try:
                data = pictures.read(i)
                of_files[i - start] = found = file_traits(data, known)
                if entry["strict"]:
                    images[i] = decode_strictly(data, size, found)
                else:
                    one = preprocess(data, size, entry["fit"], entry["reencode"])
                    images[i] = one.pixels
                    notes.update(note for note in one.notes if not re.search(ABOUT_SIZE, note))
            except (UserError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                damaged.append((i, error.strerror if isinstance(error, OSError) and error.strerror else str(error)))
            hashes[i] = hashlib.blake2b(images[i], digest_size=16).digest()
        traits[FILE_FIELDS][start:stop] = of_files
        traits[PIXEL_FIELDS][start:stop] = pixel_traits(images[start:stop])
        perceptual[start:stop] = perceptual_hashes(images[start:stop])
        return stop - start, damaged, notes

    notes: Counter[str] = Counter()
    whole = np.ones(n, bool)
    bad: list[str] = []
    for done, damaged, noted in in_parallel(work, range(0, n, CHUNK)):
        for i, reason in damaged:
            whole[i] = False
            bad.append(f"{pictures.name(i)}: {reason}")
        if not skip_damaged and len(bad) >= MOST_NAMED:
            break
        notes += noted
        bar.update(done)
    lost = [c for label, c in enumerate(CLASSES) if not whole[pictures.labels == label].any()]
    if bad and (lost or not skip_damaged):
        raise UserError(("all " + " and all ".join(lost) + " are damaged: " if lost else "") + damaged_ones(bad, entry))

    object_class = np.full(n, -1, np.int8) if pictures.object_class is None else pictures.object_class
    order = np.lexsort((pictures.groups, pictures.sources, object_class, pictures.labels, hashes))
    order = order[whole[order]]
    return Decoded(
        images=[images],
        split=np.zeros(len(order), np.int8),
        rows=order,
        hashes=hashes[order],
        perceptual_hashes=perceptual[order],
        traits=traits[order],
        labels=pictures.labels[order],
        sources=pictures.sources[order],
        source_names=pictures.source_names,
        groups=pictures.groups[order],
        object_class=object_class[order],
        notes=notes,
        damaged=len(bad),
    )


def damaged_ones(bad: list[str], entry: dict[str, Any]) -> str:
    """Return one line that names damaged pictures and says what to do."""
    named = "; ".join(bad[:MOST_NAMED]) + (" and perhaps others" if len(bad) >= MOST_NAMED else "")
    if entry["strict"]:
        return f"{named}; expected a whole {entry['image_size']}x{entry['image_size']} RGB JPEG"
    return f"{named}: mend or remove them, or leave them out with -S prepare.skip_damaged=true"


def on_disk(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """Return an array in a file without a name: processes share it, and its pages need not stay in memory.

    Raises OSError where the disk has no place for it; without that, a full disk would kill whoever writes.
    """
    size = max(1, math.prod(shape))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS: written zeros have their place as well
            for start in range(0, size, BLOCK_BYTES):
                file.write(bytes(min(BLOCK_BYTES, size - start)))
            file.flush()
        return np.frombuffer(mmap.mmap(file.fileno(), size), "u1", math.prod(shape)).reshape(shape)


def shared(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array that forked processes write and this one reads. Not in /dev/shm, which is small in containers."""
    return np.frombuffer(
        mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize)), dtype, math.prod(shape)
    ).reshape(shape)


def in_parallel(work: Callable[[int], T], starts: Sequence[int]) -> Iterator[T]:
    """Yield work(start) of each start, in order, computed by forked processes.

    Not threads: decoding one small image is so short that two of them spent their time handing Python's lock to
    each other. Forked, because then neither the source nor the pixels travel between the processes.
    """
    context = multiprocessing.get_context("fork")
    count = min(thread_count(), MOST_PROCESSES)
    pipes, workers = [], []

    def serve(mine: Sequence[int], pipe: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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
            # until it has its own way of ending, a worker would end the parent's way
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                worker.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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


def decode_strictly(data: bytes, size: int, traits: FileTraits) -> np.ndarray:
    """Return the pixels of an image. Raises UserError unless it is a whole RGB JPEG of size x size."""
    if traits.format != "JPEG" or traits.chroma not in ("4:4:4", "4:2:2", "4:2:0", "other"):
        raise UserError(f"{traits.format} image" + (f", {traits.chroma}" if traits.format == "JPEG" else ""))
    if "icc" in traits.metadata:
        raise UserError("an image with a colour profile")
    notes: list[str] = []
    pixels = decode(data, notes)
    if notes:
        raise UserError(notes[0])
    if pixels.shape != (size, size, 3):
        raise UserError(f"{pixels.shape[1]}x{pixels.shape[0]} image")
    return pixels
