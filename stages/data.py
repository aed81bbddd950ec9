"""Packed splits: a folder of safetensors shards each, read through a memory map, whatever their size."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from detector.errors import UserError
from detector.files import file_sha256
from detector.labels import CLASSES

OBJECT_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
INDEX = "index.safetensors"  # everything about the images but their pixels
SHARD_BYTES = 2**26  # of pixels in a shard; larger ones where there would be more than MOST_SHARDS, each an open file
MOST_SHARDS = 512
BLOCK_BYTES = 2**22  # of pixels that are in memory at a time


class MappedImages:
    """The images of a split, uint8 (N, S, S, 3), RGB, read from the shards when they are asked for.

    Index it like an array, along the first axis alone: a number, a slice or an array of numbers. What comes back is in
    memory, a copy. `images[:]` is all of them.
    """

    def __init__(self, shards: list[np.ndarray]) -> None:
        """shards: uint8 (n, S, S, 3) each, of equal n but for the last."""
        self._shards = shards
        self._rows = max(1, len(shards[0]))  # of a shard
        self.shape = (sum(map(len, shards)), *shards[0].shape[1:])
        self.nbytes = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(key, slice):
            return self._gather(np.arange(*key.indices(len(self))))
        rows = np.asarray(key)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if rows.ndim == 0:
            return self._gather(rows[None])[0]
        return self._gather(rows)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"no image {rows.min()} or {rows.max()} among {len(self)}")
        rows = rows % max(1, len(self))
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        numbers = rows // self._rows
        for number in np.unique(numbers):
            here = numbers == number
            images[here] = self._shards[number][rows[here] - number * self._rows]
        return images

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all of them in order, BLOCK_BYTES at a time."""
        for start, stop in block_bounds(*self.shape):
            yield self[start:stop]


@dataclass(frozen=True)
class Split:
    """One split of the data.

    images: uint8 (N, S, S, 3), RGB, in memory only where they are asked for. labels: int64 (N), 0 FAKE, 1 REAL.
    object_class: int8 (N), an index into OBJECT_CLASSES, -1 where unknown. source: int16 (N), an index into
    info["sources"]. leaked: bool (N), the train or the validation split has an identical image (false for every image
    of these two). info: what `prepare` recorded (dataset, name, classes, digest).
    """

    images: MappedImages
    labels: np.ndarray
    object_class: np.ndarray
    source: np.ndarray
    leaked: np.ndarray
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


def load_split(folder: str | Path) -> Split:
    """Open a split that `prepare` packed, and compare its files with the digests in it: one byte that was changed on
    the way here would train a detector, and nobody would know.

    Raises UserError when it is missing, broken or has other classes.
    """
    folder = Path(folder)
    try:
        with safe_open(folder / INDEX, framework="numpy") as file:
            info = json.loads((file.metadata() or {}).get("split", "{}"))
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        files = {path.name: path for path in sorted(folder.glob("[0-9]*.safetensors"))}
        digests = info.pop("sha256", {})
        if files.keys() != digests.keys() - {INDEX}:
            raise ValueError("a shard is missing" if digests else "an older program packed it, without digests")
        if columns_digest(columns, info) != digests[INDEX]:
            raise ValueError(f"{INDEX} is not what was written")
        for name, path in files.items():
            if file_sha256(path) != digests[name]:
                raise ValueError(f"{name} is not what was written")
        shards = [map_shard(path) for path in files.values()]
    except FileNotFoundError:
        raise UserError(f"{folder} is missing: `dvc repro prepare` makes it, `dvc pull {folder}` fetches it") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is broken ({error}): `dvc repro -f prepare` makes it again") from None
    if info.get("classes") != list(CLASSES):
        raise UserError(f"{folder} has the classes {info.get('classes')}, expected {list(CLASSES)}")
    labels = columns["labels"]
    leaked = columns.get("leaked", np.zeros(len(labels), np.uint8)).astype(bool)
    source = columns.get("source", np.zeros(len(labels), np.int16))
    return Split(MappedImages(shards), labels, columns["object_class"], source, leaked, info)


def map_shard(path: Path) -> np.ndarray:
    """Return the images of a shard, uint8 (n, S, S, 3), as a memory map. Raises ValueError where it is broken.

    The safetensors library copies a tensor into memory where NumPy asks for it; the format is a length (8 bytes, little
    endian), so many bytes of JSON, and the tensors.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 2**16:
            raise ValueError(f"{path.name} is no shard")
        tensor = json.loads(file.read(length))["images"]
    return np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length, shape=tuple(tensor["shape"])))


def write_split(
    folder: Path,
    shape: tuple[int, ...],
    read: Callable[[int, int], np.ndarray],
    columns: dict[str, np.ndarray],
    info: dict[str, Any],
) -> None:
    """Write a split, with the digests of its files, into a new folder; the same data give the same bytes.

    shape: of the images, (N, S, S, 3). read: from and to which image -> uint8 (n, S, S, 3), asked for in order, so that
    memory does not grow with N. columns: what else is known of each image, arrays (N, ...).
    """
    folder.mkdir(parents=True)
    count, *image = shape
    size = math.prod(image)
    rows = max(1, SHARD_BYTES // size, -(-count // MOST_SHARDS))
    info = {key: value for key, value in info.items() if key != "sha256"}
    digests = {INDEX: columns_digest(columns, info)}
    for number, start in enumerate(range(0, max(1, count), rows)):
        stop = min(start + rows, count)
        tensor = {"dtype": "U8", "shape": [stop - start, *image], "data_offsets": [0, (stop - start) * size]}
        header = json.dumps({"images": tensor}).encode()
        header += b" " * (-len(header) % 8)
        start_of_file = len(header).to_bytes(8, "little") + header
        digest = hashlib.sha256(start_of_file)
        with (folder / f"{number:05}.safetensors").open("wb") as file:
            file.write(start_of_file)
            for first, last in block_bounds(stop - start, *image):
                block = np.ascontiguousarray(read(start + first, start + last)).data
                digest.update(block)
                file.write(block)
        digests[f"{number:05}.safetensors"] = digest.hexdigest()
    # One key: safetensors writes several in random order, and the same data must be the same bytes
    save_file(columns, folder / INDEX, {"split": json.dumps({**info, "sha256": digests}, sort_keys=True)})


def columns_digest(columns: dict[str, np.ndarray], info: dict[str, Any]) -> str:
    """Return the SHA-256 of what an index has: its columns and `info`, which has no digests."""
    shapes = {name: [str(column.dtype), column.shape] for name, column in sorted(columns.items())}
    digest = hashlib.sha256(json.dumps([info, shapes], sort_keys=True).encode())
    for _, column in sorted(columns.items()):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def block_bounds(count: int, *image: int) -> Iterator[tuple[int, int]]:
    """Yield from and to which of so many images, of shape `image`, blocks of BLOCK_BYTES reach."""
    rows = max(1, BLOCK_BYTES // math.prod(image))
    for start in range(0, count, rows):
        yield start, min(start + rows, count)


def channel_statistics(blocks: Iterable[np.ndarray]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of red, green and blue of images, on the scale of 0 to 1.

    blocks: uint8 (K, S, S, 3) each.

    From counts of the 256 levels: exact, in whatever order the images are.
    """
    counts = np.zeros((3, 256), np.int64)
    for block in blocks:
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts[0].sum()
    red, green, blue = (float(share @ levels) for share in shares)
    mean = (red, green, blue)
    red, green, blue = (float(np.sqrt(s @ levels**2 - m**2)) for s, m in zip(shares, mean, strict=True))
    return mean, (red, green, blue)
