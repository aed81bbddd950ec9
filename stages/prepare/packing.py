"""Packed splits: a safetensors file each, the same bytes for the same images."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from detector.labels import CLASSES
from stages.prepare.decoding import DecodedSplit


def write_split(
    path: Path, dataset: str, name: str, split: DecodedSplit, rows: np.ndarray, leaked: np.ndarray | None = None
) -> None:
    """Write the `rows`, bool (N), of a split; leaked: bool (M) of these rows."""
    tensors = {
        "images": split.images[split.rows[rows]],
        "labels": split.labels[rows],
        "object_class": split.object_class[rows],
    }
    if leaked is not None:
        tensors["leaked"] = leaked.astype(np.uint8)
    info = {"dataset": dataset, "name": name, "classes": list(CLASSES), "digest": split_digest(split, rows)}
    # One key: safetensors writes several in random order, and the same data must be the same bytes
    save_file(tensors, path, {"split": json.dumps(info, sort_keys=True)})


def split_digest(split: DecodedSplit, rows: np.ndarray | slice = slice(None)) -> str:
    """SHA-256 of pixels and labels, whatever the order in which the source had them."""
    pixels = split.hashes[rows].view(np.uint8).reshape(-1, 16)
    labels = split.labels[rows].astype(np.uint8)
    return hashlib.sha256(np.column_stack([pixels, labels]).tobytes()).hexdigest()
