"""Where the pictures come from: each split as encoded pictures with labels and sources, whatever the layout.

Tables (parquet, csv, json, the Hugging Face hub) are read by the `datasets` library. Folders and zip files are listed
here: its `imagefolder` takes 91 seconds for CIFAKE's 120,000 files, at each start, and a listing takes one.

CIFAKE: Bird & Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic Images",
IEEE Access 2024. Its real images: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (CIFAR-10), 2009.
"""

import bisect
import hashlib
import itertools
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detector.errors import UserError
from detector.labels import CLASSES
from detector.sources import SUFFIXES
from stages.fingerprint import TABLES, files_of, find_data, missing_data

SPLITS = {  # by the name of a folder, or the first word of a table's
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "validation", "valid", "dev", "eval"), "val"),
}


@dataclass(frozen=True)
class Pictures:
    """A split as its source has it. read(i) gives the bytes of picture i, name(i) says which one it is in messages."""

    labels: np.ndarray  # int64 (N)
    sources: np.ndarray  # int32 (N), into source_names: which generator, or which collection of photographs
    source_names: list[str]  # in order
    groups: np.ndarray  # uint64 (N), of `group_number`: pictures of one group are never on two sides of a split
    name: Callable[[int], str]
    read: Callable[[int], bytes]
    object_class: np.ndarray | None = None  # int8 (N), into stages.data.OBJECT_CLASSES, -1 or None: unknown

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, rows: np.ndarray) -> "Pictures":
        """Return some of them, in this order."""
        return Pictures(
            self.labels[rows],
            self.sources[rows],
            self.source_names,
            self.groups[rows],
            name=lambda i: self.name(int(rows[i])),
            read=lambda i: self.read(int(rows[i])),
            object_class=None if self.object_class is None else self.object_class[rows],
        )


def numbered(names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Return names, one a picture, as numbers, int32 (N), into the names that there are, each once and in order.

    As strings they would take more memory than anything else that is known of a picture.
    """
    seen: dict[str, int] = {}
    numbers = np.fromiter((seen.setdefault(name, len(seen)) for name in names), np.int32)
    in_order = sorted(seen)
    place = np.empty(len(seen), np.int32)
    place[[seen[name] for name in in_order]] = np.arange(len(seen))
    return place[numbers], in_order


def group_number(name: str) -> int:
    """Return the first 64 bits of the digest of a group's name, or 0 where it is empty, which is no group.

    A name may be a whole prompt, another one for each picture.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") if name else 0


def open_source(name: str, entry: dict[str, Any]) -> tuple[str, dict[str, Pictures]]:
    """Return the kind of the source and its splits, of `train`, `val` and `test`. Where it has none, all is `train`.

    Raises UserError where there is no source, where it has another layout, where a split lacks a class, and where a
    strict entry's pictures have the names of the other class.
    """
    kind, splits = read_splits(name, entry)
    if lacking := [s for s in (("train", "test") if entry["strict"] else ("train",)) if s not in splits]:
        where = find_data(name, entry) or entry["hub"]
        raise UserError(f"{where} has no {' and no '.join(lacking)} split: is the copy complete?")
    splits = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    for split, pictures in splits.items():
        if missing := [c for label, c in enumerate(CLASSES) if not (pictures.labels == label).any()]:
            raise UserError(
                f"the {split} split of {name} has no {' and no '.join(missing)} images: is the copy complete, and are "
                f"datasets.{name}.labels right?"
            )
        if entry["strict"]:
            splits[split] = replace(pictures, object_class=object_classes(name, pictures))
    return kind, splits


def read_splits(name: str, entry: dict[str, Any]) -> tuple[str, dict[str, Pictures]]:
    """Return the kind of the source and the splits that it has, whichever they are, perhaps of one class alone.

    Raises UserError where there is no source, and where it has another layout.
    """
    path = find_data(name, entry)
    if path is None and entry["hub"] is None:
        raise UserError(missing_data(name, entry))
    if path is None:
        kind, splits = "hub", from_hub(name, entry)
    elif tables := [file for file in files_of(path) if is_table(file, path)]:
        try:
            kind, splits = tables[0].suffix[1:].lower(), from_tables(name, entry, path, tables)
        except UserError as error:
            raise UserError(f"{error}{if_no_list(name, entry, path, tables)}") from None
    elif path.is_dir():
        kind, splits = "folder", from_names(name, entry, str(path), *folder(path))
    else:
        kind, splits = "zip", from_names(name, entry, str(path), *archive(path))
    return kind, splits


def is_table(file: Path, root: Path) -> bool:
    """Say whether a file lists pictures. A json file beside a picture is what its generator was told."""
    kind = file.suffix.lower()
    return kind == ".parquet" or (kind in TABLES and (file == root or file.parent == root))


def if_no_list(name: str, entry: dict[str, Any], path: Path, tables: list[Path]) -> str:
    """Return the end of an error about tables: what to do if they are something else, and the pictures in the folders
    of the classes are meant. Empty where there are none."""
    class_folders = {folder for of_class in entry["labels"].values() for folder in of_class}
    if path.is_file() or not any(class_folders.intersection(Path(one).parts[:-1]) for one in folder(path)[0]):
        return ""
    taken = " and ".join(str(table.relative_to(path)) for table in tables[:3])
    return (
        f". {taken} was taken for the list of the pictures, as it lies in {path}: if it is none, move it away; if "
        f"another file is, give that one's path as datasets.{name}.path"
    )


def folder(root: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Return the names of the pictures below a folder, and how to read one."""
    names = [file.relative_to(root).as_posix() for file in files_of(root) if file.suffix.lower() in SUFFIXES]

    def read(name: str) -> bytes:
        with (root / name).open("rb", buffering=0) as file:  # twice as fast as read_bytes for such small files
            return file.read()

    return names, read


def archive(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Return the names of the pictures in a zip file, and how to read one. Nothing is unpacked."""
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not a folder, a table or a whole zip file ({error})") from None
    names = [name for name in opened.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES]
    handles: dict[int, Any] = {}

    def read(name: str) -> bytes:
        # a process of its own has a position of its own in the file
        if os.getpid() not in handles:
            handles[os.getpid()] = opened.fp = path.open("rb")
        return opened.read(name)

    return [name for name in names if "/." not in f"/{name}"], read


def from_names(
    name: str, entry: dict[str, Any], where: str, files: list[str], read: Callable[[str], bytes]
) -> dict[str, Pictures]:
    """Return the splits of pictures named like "train/FAKE/12 (3).jpg": one of the folders names the class, another one
    may name a split, and the last of the others is the source."""
    if entry["source"] not in (None, "folder", "class"):
        raise UserError(f"datasets.{name}.source is {entry['source']!r}: for folders it is folder or class")
    if entry["group"] is not None:
        raise UserError(f"datasets.{name}.group is {entry['group']!r}: folders have no columns, leave it out")
    class_of = {folder: label for label, c in enumerate(CLASSES) for folder in entry["labels"][c]}
    common = common_folder(files, class_of)
    rows: dict[str, tuple[list[int], list[str], list[str]]] = {}  # labels, sources and names by split
    unknown: Counter[str] = Counter()
    for whole in files:
        file = whole.removeprefix(common)
        of_file = file.split("/")[:-1]
        is_split = [one not in class_of and one.lower() in SPLITS for one in of_file]
        split = next((SPLITS[one.lower()] for one, yes in zip(of_file, is_split, strict=True) if yes), "train")
        folders = [one for one, yes in zip(of_file, is_split, strict=True) if not yes]
        label = next((class_of[one] for one in folders if one in class_of), None)
        if label is None:
            unknown["/".join(of_file[:2])] += 1
            continue
        labels, sources, names = rows.setdefault(split, ([], [], []))
        labels.append(label)
        sources.append(CLASSES[label] if entry["source"] == "class" else sys.intern(folders[-1]))
        names.append(file)
    if unknown or not rows:
        expected = ", ".join(f"{c} in {' or '.join(entry['labels'][c])}" for c in CLASSES)
        found = ", ".join(f"{folder or 'no folder'} ({count})" for folder, count in sorted(unknown.items())) or "none"
        raise UserError(
            f"{where}: expected pictures in folders, {expected}; found others: {found}. datasets.{name}.labels"
        )
    splits = {}
    for split, (labels, sources, names) in rows.items():
        numbers, source_names = numbered(sources)
        splits[split] = Pictures(
            np.array(labels, np.int64),
            numbers,
            source_names,
            groups=np.zeros(len(names), np.uint64),
            name=partial(lambda names, i: f"{where}/{names[i]}", names),
            read=partial(lambda names, i: read(common + names[i]), names),
        )
    return splits


def common_folder(files: list[str], class_of: dict[str, int]) -> str:
    """Return the folder that holds everything, as a zip file often has one, with its slash; not one that names a split
    or a class."""
    common = ""
    while files:
        top, _, rest = files[0].removeprefix(common).partition("/")
        folder = f"{common}{top}/"
        if not rest or top in class_of or top.lower() in SPLITS or not all(file.startswith(folder) for file in files):
            break
        common = folder
    return common


def from_tables(name: str, entry: dict[str, Any], path: Path, tables: list[Path]) -> dict[str, Pictures]:
    """Read parquet, csv or json files; `train` or `test` at the start of a file's name, or its folder, is its split."""
    kind = tables[0].suffix.lower()
    files: dict[str, list[str]] = {}
    for table in tables:
        if table.suffix.lower() != kind:
            raise UserError(f"{path} has tables of two kinds, {kind[1:]} and {table.suffix[1:]}: leave those of one")
        parts = (*table.relative_to(path).parts[:-1], table.stem) if path.is_dir() else (table.stem,)
        words = [re.split(r"[-_. ]", part.lower())[0] for part in parts]
        named = [SPLITS[word] for word in words if word in SPLITS]
        files.setdefault(named[0] if named else "train", []).append(str(table))
    if entry["strict"] and not {"train", "test"} <= set(files):
        lacking = min({"train", "test"} - set(files))
        raise UserError(f"{path / lacking}{kind} is missing: datasets.{name} has train{kind} and test{kind}")
    loaded = {}
    for split, of_split in files.items():
        try:
            import datasets

            builder = {".parquet": "parquet", ".csv": "csv"}.get(kind, "json")
            datasets.disable_progress_bars()
            datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error says it, in one line
            loaded[split] = datasets.load_dataset(builder, data_files=of_split, split="train")
        except Exception as error:  # of many libraries
            raise UserError(f"{of_split[0]} is broken ({one_line(error)}): fetch it again") from None
    root = path if path.is_dir() else path.parent
    return {split: from_table(name, entry, table, files[split][0], root) for split, table in loaded.items()}


def from_hub(name: str, entry: dict[str, Any]) -> dict[str, Pictures]:
    """Fetch a data set from the Hugging Face hub, or take it from the hub's cache on this machine."""
    hub, revision = entry["hub"], entry["revision"]
    try:
        import datasets
        import huggingface_hub

        if not datasets.config.HF_HUB_OFFLINE:
            # This request fails at once without a network; load_dataset tries again for half a minute.
            huggingface_hub.HfApi().dataset_info(hub, revision=revision, timeout=10)
        loaded = datasets.load_dataset(hub, revision=revision)
    except Exception as error:  # of many libraries; whatever it is, the ways out are the same
        copy = f"Set {entry['environment']} to a copy of it" if entry["environment"] else f"Give datasets.{name}.path"
        raise UserError(
            f"{hub} cannot be fetched from the Hugging Face hub ({one_line(error)}). {copy}, or fetch the prepared "
            "splits with `dvc pull`, or use the sample: -S dataset=sample"
        ) from None
    if unknown := [split for split in loaded if split not in SPLITS]:
        raise UserError(
            f"{hub} has the splits {', '.join(loaded)}; {', '.join(unknown)} is none of {', '.join(SPLITS)}"
        )
    return {SPLITS[s]: from_table(name, entry, table, f"{hub} {s}", None) for s, table in loaded.items()}


def one_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:300]


def from_table(name: str, entry: dict[str, Any], table: Any, where: str, root: Path | None) -> Pictures:
    """Return a split from a table of the `datasets` library: a column of pictures or of paths, and one of labels.

    root: the folder that paths begin in and stay below; None: they are those of the hub's cache.
    """
    import datasets

    features = table.features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    likely = [*images, *(column for column in ("image", "file_name", "path", "file") if column in features)]
    image, label = entry["image"] or next(iter(likely), "image"), entry["label"] or "label"
    wanted = {"image": image, "label": label, "source": entry["source"], "group": entry["group"]}
    for key, column in wanted.items():
        if column is not None and column not in features and not (key == "source" and column == "class"):
            raise UserError(f"{where} lacks the column {column} (datasets.{name}.{key}): it has {', '.join(features)}")
    kind = features[image].dtype if isinstance(features[image], datasets.Value) else "image"
    if kind not in ("string", "large_string", "image"):
        raise UserError(
            f"{where}: the column {image} is {kind}; it must be of pictures, or of their paths (datasets.{name}.image)"
        )
    are_paths = kind != "image"
    if not are_paths:
        try:
            table = table.cast_column(image, datasets.Image(decode=False))
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: the column {image} is not of pictures ({one_line(error)})") from None
    columns = table.data

    def texts(column: str) -> Iterator[str]:
        feature = features[column]
        for chunk in columns.column(column).chunks:
            for value in chunk.to_pylist():
                if isinstance(feature, datasets.ClassLabel) and value is not None and value >= 0:
                    yield feature.names[value]
                else:
                    yield "" if value is None else str(value)

    class_of = {value: number for number, c in enumerate(CLASSES) for value in entry["labels"][c]}
    values, names = numbered(texts(label))
    if unknown := {names[k]: count for k, count in enumerate(np.bincount(values)) if names[k] not in class_of}:
        found = ", ".join(f"{value} ({count})" for value, count in sorted(unknown.items())[:10])
        raise UserError(f"{where} has labels that datasets.{name}.labels does not name: {found}")
    labels = np.array([class_of[value] for value in names], np.int64)[values]
    by_class = entry["source"] in (None, "class")
    sources, source_names = numbered((CLASSES[one] for one in labels) if by_class else texts(entry["source"]))
    of_groups = map(group_number, texts(entry["group"])) if entry["group"] else itertools.repeat(0, len(labels))
    groups = np.fromiter(of_groups, np.uint64, len(labels))
    chunks = columns.column(image).chunks
    if not are_paths:
        contents, paths = Cells([chunk.field("bytes") for chunk in chunks]), Cells([c.field("path") for c in chunks])
        opened = (path for c in chunks for path in c.field("path").filter(c.field("bytes").is_null()).to_pylist())
    else:
        contents, paths = None, Cells(chunks)
        opened = (path for chunk in chunks for path in chunk.to_pylist())
    if root is not None and (outside := next((path for path in opened if path and not is_below(path, root)), None)):
        raise UserError(
            f"{where} names {outside}: pictures must lie below {root}, in no hidden folder, with a picture's suffix; a "
            "change of others would go unnoticed. Put the table above them, or beside it a link to their folder"
        )

    def read(row: int) -> bytes:
        data = contents[row] if contents else None
        if data is None and paths[row]:
            return Path(root or "", paths[row]).read_bytes()
        return data or b""

    return Pictures(labels, sources, source_names, groups, lambda row: f"{where} {paths[row] or f'row {row}'}", read)


def is_below(path: str, root: Path) -> bool:
    """Say whether a picture that a table names is among those that `files_of` finds below a folder."""
    below = Path(path)
    if below.is_absolute():
        if not below.is_relative_to(root.absolute()):
            return False
        below = below.relative_to(root.absolute())
    return below.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in below.parts)


class Cells:
    """The cells of a column of Arrow arrays by row. Indexing the column itself takes longer the more there are."""

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = chunks
        self._starts = [0, *itertools.accumulate(map(len, chunks))]

    def __getitem__(self, row: int) -> Any:
        number = bisect.bisect_right(self._starts, row) - 1
        return self._chunks[number][row - self._starts[number]].as_py()


def object_classes(name: str, pictures: Pictures) -> np.ndarray:
    """Return the CIFAR-10 class by the number in CIFAKE's file names: "12.jpg" 0, "12 (2).jpg" 1 ... "12 (10).jpg" 9.

    int8 (N); -1 where the name is none of CIFAKE's, and everywhere when no name has a number in brackets. Raises
    UserError where a picture's name has CIFAKE's folder of the other class.
    """
    number = re.compile(r"[/ ]\d+(?: \(([2-9]|10)\))?\.jpg$")
    found = np.full(len(pictures), -1, np.int8)
    for row, label in enumerate(pictures.labels.tolist()):
        file = pictures.name(row)
        folder = file.rpartition("/")[0].rpartition("/")[2].split(" ")[-1]
        if folder in CLASSES and folder != CLASSES[label]:
            raise UserError(f"{file} has the label {label} ({CLASSES[label]}): wrong label order in datasets.{name}")
        if match := number.search(file):
            found[row] = int(match[1] or 1) - 1
    return found if found.max() > 0 else np.full(len(pictures), -1, np.int8)
