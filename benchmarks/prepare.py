"""Decoding images: this repository's `prepare` beside what people would use instead.

    CIFAKE_SOURCE=... python -m benchmarks.prepare > benchmarks/results/prepare.md
    python -m benchmarks.prepare                                                        on the embedded sample

Every way starts from JPEG bytes and ends with the same pixels in one uint8 array in memory. Ways take turns, so that
whatever else the machine does meets all alike; of each the best turn counts.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from benchmarks.heading import heading
from detector.cores import thread_count
from detector.errors import run
from stages.params import dataset_entry, load_params
from stages.prepare.decoding import MOST_PROCESSES, decode_split
from stages.prepare.sources import Pictures, open_source

TURNS = 3
PROCESSES = min(thread_count(), MOST_PROCESSES)  # as many as `prepare` takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    dataset = "cifake" if os.environ.get("CIFAKE_SOURCE") else "sample"
    entry = dataset_entry(load_params() | {"dataset": dataset})
    whole = open_source(dataset, entry)[1]["train"]
    rows = np.random.default_rng(0).permutation(len(whole))[: arguments.images]
    data = [whole.read(row) for row in rows]
    subset = replace(whole.only(rows), read=data.__getitem__)

    with tempfile.TemporaryDirectory() as temporary:
        folder, table = f"{temporary}/folder", f"{temporary}/table"
        for i, image in enumerate(data):
            file = Path(folder, str(subset.labels[i]), f"{i}.jpg")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image)
        pictures = datasets.Dataset.from_dict({"image": [{"bytes": image, "path": None} for image in data]})
        pictures.cast_column("image", datasets.Image()).save_to_disk(table)

        ways: dict[str, Callable[[], np.ndarray]] = {
            f"`prepare`, with its checks and hashes ({PROCESSES} processes)": partial(
                prepare, subset, entry, Path(temporary)
            ),
            "`datasets` map, batched": partial(datasets_map, table, None),
            f"`datasets` map, batched, {PROCESSES} processes": partial(datasets_map, table, PROCESSES),
            "torchvision ImageFolder": partial(image_folder, folder),
            f"torchvision ImageFolder, DataLoader of {PROCESSES} workers": partial(data_loader, folder),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        sums = set()
        for way in tqdm(list(ways) * TURNS, desc="decode", unit=" turns", disable=None):
            began = time.perf_counter()
            pixels = ways[way]()
            seconds[way].append(time.perf_counter() - began)
            assert pixels.shape[0] == len(data), f"{way} has lost images"
            sums.add(int(pixels.sum(dtype=np.int64)))
        assert len(sums) == 1, "not all have the same pixels"

    print(heading("Decoding", versions=("torch", "torchvision", "datasets")))
    print(f"{len(data):,} images of {dataset}, from JPEG bytes to one array; the best of {TURNS} turns.\n")
    print("| | images/s | `prepare` is |\n| --- | ---: | ---: |")
    base = min(seconds[next(iter(seconds))])
    for way, times in seconds.items():
        ratio = min(times) / base
        print(f"| {way} | {len(data) / min(times):,.0f} | {f'{ratio:.1f} times as fast' if ratio != 1 else ''} |")


def prepare(subset: Pictures, entry: dict[str, Any], spool: Path) -> np.ndarray:
    split = decode_split(subset, entry, False, spool, tqdm(disable=True))
    return split.read(np.arange(len(split)))


def datasets_map(path: str, processes: int | None) -> np.ndarray:
    mapped = datasets.load_from_disk(path).map(
        lambda batch: {"pixels": [np.asarray(image).ravel() for image in batch["image"]]},
        batched=True,
        num_proc=processes,
        remove_columns=["image"],
        features=datasets.Features({"pixels": datasets.Sequence(datasets.Value("uint8"), length=3072)}),
        keep_in_memory=True,
        load_from_cache_file=False,  # of an earlier turn
    )
    return mapped.with_format("numpy")[:]["pixels"].reshape(-1, 32, 32, 3)


def image_folder(path: str) -> np.ndarray:
    return np.stack([np.asarray(image) for image, _ in ImageFolder(path)])


def data_loader(path: str) -> np.ndarray:
    loader = DataLoader(ImageFolder(path, transform=np.array), batch_size=250, num_workers=PROCESSES)
    return torch.cat([images for images, _ in loader]).numpy()


if __name__ == "__main__":
    run(main)
