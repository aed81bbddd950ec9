"""Write a data set with several generators: CIFAKE, and images of others, for datasets.several in params.yaml.

    CIFAKE_SOURCE=cifake.zip python -m tools.several_sources several others/flow-train.parquet others/flow-test.parquet
    export SEVERAL_SOURCES=$PWD/several
    dvc exp run --temp -S dataset=several

The other files are parquet, with the columns image (bytes), label (0 FAKE, 1 REAL) and source (the generator's name).
Those with `test` in their names, Test and latest too, go into the test split, the others into the train split. No image
is encoded anew.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.labels import CLASSES, FAKE
from stages.params import dataset_entry, load_params
from stages.prepare.sources import Pictures, open_source

CIFAKE_SOURCES = {"FAKE": "sd14", "REAL": "cifar10"}  # Stable Diffusion 1.4, and CIFAR-10
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("image", IMAGE), ("label", pa.int64()), ("source", pa.string())])
FEATURES = {  # what the `datasets` library reads the columns as
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": list(CLASSES)},
    "source": {"_type": "Value", "dtype": "string"},
}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.several_sources",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="to write; it must not exist")
    parser.add_argument("files", type=Path, nargs="+", help="parquet files of further sources")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        raise UserError(f"{arguments.folder} exists: remove it, or name another folder")
    names = {f"{split}-cifake.parquet": "that of CIFAKE" for split in ("train", "test")}
    for file in arguments.files:
        # lower case: two names that differ in nothing else are one file on some systems
        name = f"{split_of(file)}-{file.name.lower()}"
        if name in names:
            raise UserError(f"{file} would take the place of {names[name]}, {name}: give it another name")
        names[name] = str(file)
    others = {file: read_table(file) for file in arguments.files}
    _, cifake = open_source("cifake", dataset_entry(load_params() | {"dataset": "cifake"}))
    counts: Counter[tuple[str, str, str]] = Counter()
    with atomic_write(arguments.folder) as folder:
        folder.mkdir()
        for split, pictures in cifake.items():
            write(folder / f"{split}-cifake.parquet", cifake_table(split, pictures), split, counts)
        for file, table in others.items():
            write(folder / f"{split_of(file)}-{file.name}", table, split_of(file), counts)
    for (split, source, label), count in sorted(counts.items()):
        print(f"{split:<6}{source:<12}{label:<6}{count:>8}")


def split_of(file: Path) -> str:
    return "test" if "test" in file.stem.lower() else "train"


def read_table(file: Path) -> pa.Table:
    """Return the columns of a file. Raises UserError where it has others, or a label that is none."""
    try:
        table = pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
        if empty := [name for name in SCHEMA.names if table[name].null_count]:
            raise ValueError(f"a value of {empty[0]} is missing")
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is no parquet file with image, label and source: {reason}"[:400]) from None
    labels = set(table["label"].unique().to_pylist())
    if not labels <= set(range(len(CLASSES))):
        raise UserError(f"{file} has the labels {', '.join(map(str, labels))}: they must be 0 for FAKE and 1 for REAL")
    return table


def cifake_table(split: str, pictures: Pictures) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, label in enumerate(tqdm(pictures.labels.tolist(), desc=f"CIFAKE, {split}", disable=None)):
        image = {"bytes": pictures.read(number), "path": f"{CLASSES[label]}/{number}.jpg"}
        rows.append({"image": image, "label": label, "source": CIFAKE_SOURCES[CLASSES[label]]})
    return pa.Table.from_pylist(rows, SCHEMA)


def write(file: Path, table: pa.Table, split: str, counts: Counter[tuple[str, str, str]]) -> None:
    pq.write_table(table.replace_schema_metadata(METADATA), file)
    for source, label in zip(table["source"].to_pylist(), table["label"].to_pylist(), strict=True):
        counts[split, source, "FAKE" if label == FAKE else "REAL"] += 1


if __name__ == "__main__":
    run(main)
