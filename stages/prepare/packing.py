"""Decoded images to packed splits."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from detector.labels import CLASSES
from stages.data import write_split
from stages.prepare.decoding import Decoded


def pack(
    folder: Path,
    info: dict[str, Any],
    data: Decoded,
    rows: np.ndarray,
    leaked: np.ndarray | None = None,
) -> None:
    """Write the `rows`, bool (N), of the data as a split; leaked: bool (M) of these rows. info: what else is known."""
    chosen = np.flatnonzero(rows)
    number = np.int16 if len(data.source_names) <= 2**15 else np.int32  # each prompt may be a source
    columns = {
        "labels": data.labels[chosen],
        "object_class": data.object_class[chosen],
        "source": data.sources[chosen].astype(number),
    }
    if leaked is not None:
        columns["leaked"] = leaked.astype(np.uint8)
    described = {**info, "classes": list(CLASSES), "sources": data.source_names, "digest": digest_of(data, chosen)}

    def read(start: int, stop: int) -> np.ndarray:
        return data.read(chosen[start:stop])

    write_split(folder, (len(chosen), *data.image_shape), read, columns, described)


def digest_of(data: Decoded, chosen: np.ndarray) -> str:
    """SHA-256 of the pixels and labels of some images, int64 (M) or bool (N), in canonical order."""
    pixels = data.hashes[chosen].view(np.uint8).reshape(-1, 16)
    labels = data.labels[chosen].astype(np.uint8)
    return hashlib.sha256(np.column_stack([pixels, labels]).tobytes()).hexdigest()
