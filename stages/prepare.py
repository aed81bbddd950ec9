"""CIFAKE in, packed splits out: data/{train,val,test}.safetensors and metrics/prepare.json.

CIFAKE: Bird & Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic
Images", IEEE Access 2024. Its real images: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images"
(CIFAR-10), 2009.
"""

import contextlib
import hashlib
import io
import json
import math
import mmap
import multiprocessing
import os
import re
import signal
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError
from safetensors.numpy import save_file
from tqdm import tqdm

from detector.data import CLASSES, FAKE, REAL
from detector.errors import UserError, replacing, run
from detector.images import decode
from stages.params import load_params

HUB_DATASET = "dragonintelligence/CIFAKE-image-dataset"
SAMPLE = Path("data/sample")
PUBLISHED_COUNTS = {"train": [50_000, 50_000], "test": [10_000, 10_000]}  # FAKE, REAL
PUBLISHED_DIGEST = "bdd10be57a6fc05ffd2c1b6d3fbfa67614001988ac5a4db881ea22bb7c51e1b3"
SIZE = 32
CHUNK = 250  # images that a process decodes at a time
MOST_PROCESSES = 8
T = TypeVar("T")
# An encoder setting that this share of one class has and the other lacks is worth an alarm; less is chance.
JPEG_ALARM = 0.05


@dataclass(frozen=True)
class Encoded:
    """A split as its source has it: one name and label an image, and how to read the bytes of image i."""

    names: list[str]
    labels: np.ndarray  # int64 (N)
    read: Callable[[int], bytes]


@dataclass(frozen=True)
class Decoded:
    """A split. All but `images` are in canonical order, the same for every source: by pixels, label, object class."""

    images: np.ndarray  # uint8 (N, 32, 32, 3), as the source has them: 300 MB are moved once, when they are packed
    rows: np.ndarray  # int64 (N), where in `images` they are
    hashes: np.ndarray  # 16 bytes (N), of the pixels
    labels: np.ndarray  # int64 (N)
    object_class: np.ndarray  # int8 (N)
    jpeg: Counter[tuple[int, str]]  # images by (label, encoder settings)


def main() -> None:
    params = load_params()
    dataset, choices = params["dataset"], params["prepare"]
    check_choices(dataset, choices)
    kind, encoded = open_source(dataset, choices["revision"])

    count = sum(len(split.names) for split in encoded.values())
    with tqdm(total=count, desc="decode", unit=" images", unit_scale=True, disable=None) as bar:
        train = decode_split(encoded.pop("train"), bar)
        test = decode_split(encoded.pop("test"), bar)

    in_val = validation_mask(train, choices["val_fraction"], choices["seed"])
    leaked = np.isin(test.hashes, train.hashes)
    report = describe(dataset, train, test, in_val, leaked)

    # All four are written before the first takes its place: a full disk leaves the earlier ones as they were.
    with contextlib.ExitStack() as stack:

        def out(path: str) -> Path:
            return stack.enter_context(replacing(path))

        pack(out("data/train.safetensors"), dataset, "train", train, ~in_val)
        pack(out("data/val.safetensors"), dataset, "val", train, in_val)
        pack(out("data/test.safetensors"), dataset, "test", test, np.ones(len(leaked), bool), leaked)
        out("metrics/prepare.json").write_text(json.dumps(report, indent=2) + "\n")
    summarize(kind, report)
    warn(dataset, report)


def check_choices(dataset: object, choices: dict[str, Any]) -> None:
    if dataset not in ("cifake", "sample"):
        raise UserError(f"dataset is {dataset!r} in params.yaml; it can be cifake or sample")
    fraction, seed = choices["val_fraction"], choices["seed"]
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"prepare.val_fraction is {fraction!r} in params.yaml; it must lie between 0 and 1")
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"prepare.seed is {seed!r} in params.yaml; it must be an integer, 0 or more")


# Sources -----------------------------------------------------------------------------------------------------


def open_source(dataset: str, revision: str) -> tuple[str, dict[str, Encoded]]:
    """Return what kind of source it is and its splits "train" and "test", from the first source that is there."""
    source = os.environ.get("CIFAKE_SOURCE")
    if dataset == "sample":
        kind, splits = "sample", from_parquet(SAMPLE)
    elif not source:
        kind, splits = "hub", from_hub(revision)
    else:
        path = find(source)
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


def find(source: str) -> Path:
    """A relative CIFAKE_SOURCE means the repository where `dvc` was called: a queued run has another folder."""
    given = Path(source).expanduser()
    for path in (given, Path(os.environ.get("DVC_ROOT", ".")) / given):
        if path.exists():
            return path
    raise UserError(f"CIFAKE_SOURCE={source} does not exist: give a CIFAKE folder, zip or parquet folder")


def from_parquet(folder: Path) -> dict[str, Encoded]:
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
            raise UserError(f"{path} is damaged ({error}): fetch it again") from None
        features = (
            json.loads((table.schema.metadata or {}).get(b"huggingface", "{}")).get("info", {}).get("features", {})
        )
        splits[name] = from_table(str(path), table, features.get("label", {}).get("names"))
    return splits


def from_hub(revision: str) -> dict[str, Encoded]:
    """Fetch CIFAKE from the Hugging Face hub, or take it from the hub's cache on this machine."""
    try:
        import datasets
        import huggingface_hub

        if not datasets.config.HF_HUB_OFFLINE:
            # Asked first because it fails at once without a network; load_dataset tries again for half a minute.
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


def from_table(where: str, table: Any, classes: list[str] | None) -> Encoded:
    """A split from an Arrow table. `classes`: the names of the labels 0 and 1 where the source records them."""
    if classes is not None and classes != CLASSES:
        raise UserError(f"{where} has the label order {classes}, expected {CLASSES}: its labels would be swapped")
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
                f"{names[row]} has the label {label} ({CLASSES[label]}): wrong label order, expected {CLASSES}"
            )
    return Encoded(names, labels, data.__getitem__)


def from_folder(root: Path) -> dict[str, Encoded]:
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


def from_zip(path: Path) -> dict[str, Encoded]:
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


def from_names(where: str, files: Iterable[str], read: Callable[[str], bytes]) -> dict[str, Encoded]:
    """The two splits from names such as "train/FAKE/12 (3).jpg"."""
    return {name: from_split_names(where, name, files, read) for name in ("train", "test")}


def from_split_names(where: str, split: str, files: Iterable[str], read: Callable[[str], bytes]) -> Encoded:
    prefix = split + "/"
    # A leading dot: .DS_Store and its like
    names = [file for file in files if file.startswith(prefix) and "/." not in file]
    folders = [file.split("/")[1] for file in names]
    if set(folders) != set(CLASSES):
        found = ", ".join(sorted(set(folders))) or "nothing"
        raise UserError(f"{where}: expected images in {split}/FAKE and in {split}/REAL, found {found}")
    labels = np.array([CLASSES.index(folder) for folder in folders], np.int64)
    return Encoded([f"{where}/{name}" for name in names], labels, lambda i: read(names[i]))


# Decoding and checks -----------------------------------------------------------------------------


def decode_split(split: Encoded, bar: tqdm) -> Decoded:
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
    return Decoded(images, order, hashes[order], split.labels[order], object_class[order], jpeg)


def shared(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array that forked processes write and this one reads. Not in /dev/shm, which is small in containers."""
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
    """Pixels of an image and the settings of its encoder; `known` has the settings by header.

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
    """What the encoder chose that shows in the pixels, such as "quality 75, 4:2:0"."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode != "RGB":
                raise UserError(f"{image.format} image of mode {image.mode}")
            tables = image.quantization
            chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "other chroma")
    except UnidentifiedImageError:
        raise UserError("not a picture that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"damaged picture ({error})") from None
    for quality, standard in standard_tables().items():
        if tables == standard:
            return f"quality {quality}, {chroma}"
    return f"tables {hashlib.sha256(repr(tables).encode()).hexdigest()[:8]}, {chroma}"


@cache
def standard_tables() -> dict[int, dict[int, list[int]]]:
    """Quantisation tables of libjpeg by its quality."""
    tables = {}
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables[quality] = image.quantization
    return tables


def object_classes(names: list[str]) -> np.ndarray:
    """CIFAR-10 class by the number in CIFAKE's file names: "12.jpg" 0, "12 (2).jpg" 1 ... "12 (10).jpg" 9.

    int8 (N); -1 where the name is none of CIFAKE's, and everywhere when no name has a number in brackets.
    """
    pattern = re.compile(r"[/ ]\d+(?: \(([2-9]|10)\))?\.jpg$")
    matches = [pattern.search(name) for name in names]
    classes = [-1 if match is None else int(match[1] or 1) - 1 for match in matches]
    return np.array(classes if max(classes) > 0 else [-1] * len(names), np.int8)


# The validation split ----------------------------------------------------------------------------


def validation_mask(train: Decoded, fraction: float, seed: int) -> np.ndarray:
    """Which images of train become the validation split: bool (N).

    Stratified by label and object class; the copies of an image stay on one side, or the validation
    split would be leaked into train as CIFAKE's test split is.
    """
    rng = np.random.default_rng(seed)
    _, first, size = np.unique(train.hashes, return_index=True, return_counts=True)
    chosen = np.zeros(len(train.labels), bool)
    for label in (FAKE, REAL):
        seen = taken = 0
        for object_class in np.unique(train.object_class):
            stratum = (train.labels[first] == label) & (train.object_class[first] == object_class)
            seen += int(size[stratum].sum())
            for group in rng.permutation(np.flatnonzero(stratum)):
                # The rounding of one stratum is made up for in the next
                if taken + size[group] <= round(fraction * seen):
                    taken += int(size[group])
                    chosen[first[group] : first[group] + size[group]] = True  # copies are neighbours
        if not 0 < taken < seen:
            raise UserError(
                f"prepare.val_fraction={fraction} of {seen} {CLASSES[label]} images leaves the train or the "
                "validation split without any: choose another one"
            )
    return chosen


# Outputs -----------------------------------------------------------------------------------------


def digest(split: Decoded, rows: np.ndarray | slice = slice(None)) -> str:
    """SHA-256 of pixels and labels, whatever the order in which the source had them."""
    pixels = split.hashes[rows].view(np.uint8).reshape(-1, 16)
    labels = split.labels[rows].astype(np.uint8)
    return hashlib.sha256(np.column_stack([pixels, labels]).tobytes()).hexdigest()


def pack(
    path: Path, dataset: str, name: str, split: Decoded, rows: np.ndarray, leaked: np.ndarray | None = None
) -> None:
    tensors = {
        "images": split.images[split.rows[rows]],
        "labels": split.labels[rows],
        "object_class": split.object_class[rows],
    }
    if leaked is not None:
        tensors["leaked"] = leaked.astype(np.uint8)
    info = {"dataset": dataset, "name": name, "classes": CLASSES, "digest": digest(split, rows)}
    # One key: safetensors writes several in random order, and the same data must be the same bytes
    save_file(tensors, path, {"split": json.dumps(info, sort_keys=True)})
    path.chmod(0o644)  # safetensors lets nobody else read its files


def describe(dataset: str, train: Decoded, test: Decoded, in_val: np.ndarray, leaked: np.ndarray) -> dict[str, Any]:
    """The metrics: short flat keys, the same for every source of the same data."""
    report: dict[str, Any] = {"dataset": dataset}
    for name, labels in (
        ("train", train.labels[~in_val]),
        ("val", train.labels[in_val]),
        ("test", test.labels),
    ):
        for label, class_name in enumerate(CLASSES):
            report[f"{name}_{class_name.lower()}"] = int((labels == label).sum())
    report |= duplicates(train.hashes, test.hashes) | {"leaked": int(leaked.sum())}

    jpeg = train.jpeg + test.jpeg
    shares = {}
    for label, class_name in enumerate(CLASSES):
        of_class = Counter({setting: n for (other, setting), n in jpeg.items() if other == label})
        shares[label] = {setting: n / of_class.total() for setting, n in of_class.items()}
        top = sorted(of_class.items(), key=lambda item: (-item[1], item[0]))
        others = f" and {len(top) - 1} others" if len(top) > 1 else ""
        report[f"jpeg_{class_name.lower()}"] = top[0][0] + others
    # Total variation distance: 0 the same mixture of settings in both classes, 1 nothing in common
    report["jpeg_difference"] = round(
        sum(
            abs(shares[FAKE].get(setting, 0) - shares[REAL].get(setting, 0))
            for setting in shares[FAKE].keys() | shares[REAL].keys()
        )
        / 2,
        4,
    )

    mean, std = mean_and_std(train.images)
    for channel, name in enumerate(("red", "green", "blue")):
        report[f"mean_{name}"] = round(float(mean[channel]), 2)
        report[f"std_{name}"] = round(float(std[channel]), 2)
    report["digest"] = hashlib.sha256((digest(train) + digest(test)).encode()).hexdigest()
    report["matches_published"] = report["digest"] == PUBLISHED_DIGEST
    return report


def duplicates(train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """Pairs of images with the same pixels: all, inside train, inside test, one in each."""
    _, inverse = np.unique(np.concatenate([train, test]), return_inverse=True)
    of_train = np.bincount(inverse[: len(train)], minlength=inverse.max() + 1)
    of_test = np.bincount(inverse[len(train) :], minlength=inverse.max() + 1)
    inside_train = int((of_train * (of_train - 1) // 2).sum())
    inside_test = int((of_test * (of_test - 1) // 2).sum())
    across = int((of_train * of_test).sum())
    return {
        "duplicates": inside_train + inside_test + across,
        "duplicates_train": inside_train,
        "duplicates_test": inside_test,
        "duplicates_across": across,
    }


def mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By channel, of values 0 to 255. Sums of integers: exact, in any order of the images."""
    total, squares = np.zeros((2, 3), np.int64)
    for start in range(0, len(images), CHUNK):  # short enough for sums of squares below 2**32, and for the cache
        values = images[start : start + CHUNK].reshape(-1, 3 * SIZE * SIZE).astype(np.uint32)
        total += values.sum(axis=0, dtype=np.uint32).reshape(-1, 3).sum(axis=0, dtype=np.int64)
        values *= values
        squares += values.sum(axis=0, dtype=np.uint32).reshape(-1, 3).sum(axis=0, dtype=np.int64)
    n = images.size / 3
    return total / n, np.sqrt(squares / n - (total / n) ** 2)


def warn(dataset: str, report: dict[str, Any]) -> None:
    warnings = []
    if report["jpeg_difference"] > JPEG_ALARM:
        warnings.append(
            f"the classes were encoded differently (FAKE {report['jpeg_fake']}; REAL {report['jpeg_real']}): "
            "a detector trained on them learns the encoder. Encode both alike"
        )
    if dataset == "cifake" and not report["matches_published"]:
        warnings.append(
            "these are not the published CIFAKE images and labels (120,000, digest "
            f"{PUBLISHED_DIGEST[:12]}; found digest {report['digest'][:12]}): results do not compare with others'"
        )
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)


def summarize(kind: str, report: dict[str, Any]) -> None:
    print(f"{report['dataset']} from {kind}: digest {report['digest'][:12]}")
    print(f"{'split':<8}{'FAKE':>8}{'REAL':>8}")
    for name in ("train", "val", "test"):
        print(f"{name:<8}{report[name + '_fake']:>8}{report[name + '_real']:>8}")
    print(
        f"duplicate pairs {report['duplicates']}: {report['duplicates_train']} in train, "
        f"{report['duplicates_test']} in test, {report['duplicates_across']} across; "
        f"{report['leaked']} test images are also in train"
    )
    print(f"JPEG: FAKE {report['jpeg_fake']}; REAL {report['jpeg_real']}")
    for name in ("mean", "std"):
        print(name, *(report[f"{name}_{channel}"] for channel in ("red", "green", "blue")))


if __name__ == "__main__":
    run(main)
