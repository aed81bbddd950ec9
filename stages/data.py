"""Packed splits: one memory-mapped safetensors file each."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from detector.errors import UserError
from detector.labels import CLASSES

OBJECT_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@dataclass(frozen=True)
class Split:
    """One split of the data.

    images: uint8 (N, H, W, 3), RGB. labels: int64 (N), 0 FAKE, 1 REAL. object_class: int8 (N), an index into
    OBJECT_CLASSES, -1 where unknown. leaked: bool (N), an identical image is in the data set's train split (false
    for every image of a train or validation split). info: what `prepare` recorded (dataset, name, classes, digest).
    """

    images: np.ndarray
    labels: np.ndarray
    object_class: np.ndarray
    leaked: np.ndarray
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


def load_split(path: str | Path) -> Split:
    """Read a split that `prepare` packed. Raises UserError when it is missing, broken or has other classes."""
    try:
        with safe_open(path, framework="numpy") as file:
            info = json.loads((file.metadata() or {}).get("split", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc repro prepare` makes it, `dvc pull {path}` fetches it") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken ({error}): `dvc repro -f prepare` makes it again") from None
    if info.get("classes") != list(CLASSES):
        raise UserError(f"{path} has the classes {info.get('classes')}, expected {list(CLASSES)}")
    labels = tensors["labels"]
    leaked = tensors.get("leaked", np.zeros(len(labels), np.uint8)).astype(bool)
    return Split(tensors["images"], labels, tensors["object_class"], leaked, info)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of red, green and blue of images, uint8 (N, H, W, 3), on the scale of 0 to 1.

    From counts of the 256 levels: exact, in whatever order the images are.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), 1000):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts[0].sum()
    red, green, blue = (float(share @ levels) for share in shares)
    mean = (red, green, blue)
    red, green, blue = (float(np.sqrt(s @ levels**2 - m**2)) for s, m in zip(shares, mean, strict=True))
    return mean, (red, green, blue)
