"""Where the images come from: a split as encoded files, whatever the layout of its source.

CIFAKE: Bird & Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic Images",
IEEE Access 2024. Its real images: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (CIFAR-10), 2009.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.errors import UserError
from detector.labels import CLASSES, FAKE, REAL
from stages.hub import HUB_DATASET

SAMPLE = Path("data/sample")


@dataclass(frozen=True)
class EncodedSplit:
    """A split as its source has it: a name and a label for each image, and how to read the bytes of image i."""

    names: list[str]
    labels: np.ndarray  # int64 (N)
    read: Callable[[int], bytes]


def open_source(dataset: str, revision: str) -> tuple[str, dict[str, EncodedSplit]]:
    """Return the kind of the source and its splits "train" and "test", from the first source that exists.

    Raises UserError where there is none, where it has another layout, and where a split lacks a class.
    """
    source = os.environ.get("CIFAKE_SOURCE")
    if dataset == "sample":
        kind, splits = "sample", from_parquet(SAMPLE)
    elif not source:
        kind, splits = "hub", from_hub(revision)
    else:
        path = find_source(source)
        if path.is_dir() and any(path.glob("*.parquet")):
            kind, splits = "parquet", from_parquet(path)
        elif path.is_dir():
            kind, splits = "folder", from_folder(path)
        else:
            kind, splits = "zip", from_zip(path)
    for name, split in splits.items():
        missing = [c for label, c in enumerate(CLASSES) if not (split.labels == label).any()]
        if missing:
            raise UserError(f"the {name} split has no {' and no '.join(missing)} images: is the copy complete?")
    return kind, splits


def find_source(source: str) -> Path:
    """A relative CIFAKE_SOURCE means the repository where `dvc` was called: a queued run has another folder."""
    given = Path(source).expanduser()
    for path in (given, Path(os.environ.get("DVC_ROOT", ".")) / given):
        if path.exists():
            return path
    raise UserError(f"CIFAKE_SOURCE={source} does not exist: give a CIFAKE folder, zip or parquet folder")


def from_parquet(folder: Path) -> dict[str, EncodedSplit]:
    """Read train.parquet and test.parquet, columns `image` (bytes, path) and `label`, as on the hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Arrow's own pool would keep the memory, and every decoding process inherit it
    pa.set_memory_pool(pa.system_memory_pool())
    splits = {}
    for name in ("train", "test"):
        path = folder / f"{name}.parquet"
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: a parquet source has train.parquet and test.parquet") from None
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is broken ({error}): fetch it again") from None
        features = (
            json.loads((table.schema.metadata or {}).get(b"huggingface", "{}")).get("info", {}).get("features", {})
        )
        splits[name] = from_table(str(path), table, features.get("label", {}).get("names"))
    return splits


def from_hub(revision: str) -> dict[str, EncodedSplit]:
    """Fetch CIFAKE from the Hugging Face hub, or take it from the hub's cache on this machine."""
    try:
        import datasets
        import huggingface_hub

        if not datasets.config.HF_HUB_OFFLINE:
            # This request fails at once without a network; load_dataset tries again for half a minute.
            huggingface_hub.HfApi().dataset_info(HUB_DATASET, revision=revision, timeout=10)
        loaded = datasets.load_dataset(HUB_DATASET, revision=revision)
    except Exception as error:  # of many libraries; whatever it is, the ways out are the same
        raise UserError(
            f"CIFAKE cannot be fetched from the Hugging Face hub ({type(error).__name__}: {error}). Set CIFAKE_SOURCE "
            "to a copy of it, or fetch the prepared splits with `dvc pull`, or use the sample: -S dataset=sample"
        ) from None
    return {
        name: from_table(
            f"{HUB_DATASET} {name}",
            loaded[name].cast_column("image", datasets.Image(decode=False)).data.table,
            loaded[name].features["label"].names,
        )
        for name in ("train", "test")
    }


def from_table(where: str, table: Any, classes: list[str] | None) -> EncodedSplit:
    """A split from an Arrow table. `classes`: the names of the labels 0 and 1 where the source records them."""
    if classes is not None and tuple(classes) != CLASSES:
        raise UserError(f"{where} has the label order {classes}, expected {list(CLASSES)}: its labels would be swapped")
    try:
        chunks = table["image"].chunks
        data = [data for chunk in chunks for data in chunk.field("bytes").to_pylist()]
        paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
        labels = np.array(table["label"].to_pylist(), np.int64)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} lacks the columns image (bytes, path) and label: {error}") from None
    names = [f"{where} {path or f'row {row}'}" for row, path in enumerate(paths)]
    for row, (path, label) in enumerate(zip(paths, labels.tolist(), strict=True)):
        if label not in (FAKE, REAL) or data[row] is None:
            raise UserError(f"{names[row]}: expected the label 0 or 1 and the image's bytes, found {label}")
        folder = (path or "").rpartition("/")[0].rpartition("/")[2]
        if folder in CLASSES and folder != CLASSES[label]:
            raise UserError(
                f"{names[row]} has the label {label} ({CLASSES[label]}): wrong label order, expected {list(CLASSES)}"
            )
    return EncodedSplit(names, labels, data.__getitem__)


def from_folder(root: Path) -> dict[str, EncodedSplit]:
    """The layout of the Kaggle archive, unpacked: train and test, in each REAL and FAKE, in each *.jpg."""
    inner = [path for path in root.iterdir() if path.is_dir()]
    if len(inner) == 1 and not (root / "train").exists():
        root = inner[0]
    files = [
        f"{split.name}/{group.name}/{file.name}"
        for split in (root / "train", root / "test")
        if split.is_dir()
        for group in split.iterdir()
        if group.is_dir()
        for file in group.iterdir()
    ]

    def read(name: str) -> bytes:
        with (root / name).open("rb", buffering=0) as file:  # twice as fast as read_bytes for such small files
            return file.read()

    return from_names(str(root), files, read)


def from_zip(path: Path) -> dict[str, EncodedSplit]:
    """The Kaggle archive itself, or one with its layout in one folder."""
    try:
        # In memory: processes would share the position in an open file
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"CIFAKE_SOURCE={path} is not a folder or a whole zip file ({error})") from None
    members = {}
    for member in archive.infolist():
        if layout := re.fullmatch(r"(?:[^/]+/)?((?:train|test)/[^/]+/[^/]+)", member.filename):
            members[layout[1]] = member
    return from_names(str(path), list(members), lambda name: archive.read(members[name]))


def from_names(where: str, files: Iterable[str], read: Callable[[str], bytes]) -> dict[str, EncodedSplit]:
    """The two splits from names such as "train/FAKE/12 (3).jpg"."""
    return {name: from_split_names(where, name, files, read) for name in ("train", "test")}


def from_split_names(where: str, split: str, files: Iterable[str], read: Callable[[str], bytes]) -> EncodedSplit:
    prefix = split + "/"
    # A leading dot: .DS_Store and its like
    names = [file for file in files if file.startswith(prefix) and "/." not in file]
    folders = [file.split("/")[1] for file in names]
    if set(folders) != set(CLASSES):
        found = ", ".join(sorted(set(folders))) or "nothing"
        raise UserError(f"{where}: expected images in {split}/FAKE and in {split}/REAL, found {found}")
    labels = np.array([CLASSES.index(folder) for folder in folders], np.int64)
    return EncodedSplit([f"{where}/{name}" for name in names], labels, lambda i: read(names[i]))
