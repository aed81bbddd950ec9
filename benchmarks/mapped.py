"""Training on a split that is read from its memory map, beside the same split in memory.

    python -m benchmarks.mapped > benchmarks/results/mapped.md
    python -m benchmarks.mapped --steps 20 --model small_resnet             a quick look

Steps of training on data/train, as `dvc repro prepare` left it: with the pixels in memory; from the map, the file
system's cache warm; and with that cache emptied before each turn. The three take turns, medians over them. What is read
from the disk in a turn shows whether the cache was what it is said to be.
"""

import argparse
import itertools
import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.heading import heading
from detector.cores import keep_freed_memory
from detector.errors import run
from stages.data import MappedImages, load_split
from stages.device import claim
from stages.model import normalize
from stages.params import load_params, model_entry
from stages.train.augment import batches, reader
from stages.train.network import choose_precision, make_network
from stages.train.optimizer import make_optimizer
from stages.train.step import train_step

FOLDER = Path("data/train")
WAYS = ("in memory", "mapped, warm", "mapped, cold")
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quick", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    keep_freed_memory()
    claim()
    params = load_params() | {"model": arguments.model}
    spec, options = model_entry(params), params["train"]
    device = torch.device("cpu")
    precision = choose_precision(options["precision"], device)
    split = load_split(FOLDER)
    side = split.images.shape[1]
    network = make_network(spec, options, side, device, precision)
    optimizer = make_optimizer(network, spec, precision)
    targets = torch.from_numpy(np.stack([split.labels == 0, split.object_class], axis=1).astype(np.int64))
    count, size = len(split), split.images.nbytes
    resident = MappedImages([split.images[:]])
    del split  # the system keeps what somebody maps

    def rate(of: MappedImages, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        epochs: Iterator[Any] = itertools.chain.from_iterable(
            batches(reader(of, device), targets, side, spec["batch_size"], options["augment"], generator)
            for _ in itertools.count()
        )
        began = time.perf_counter()
        for x, y in itertools.islice(epochs, arguments.steps):
            train_step(network, optimizer, normalize(x, MEAN, STD), y, 1e-4, options, precision)
        return arguments.steps * spec["batch_size"] / (time.perf_counter() - began)

    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    read: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in tqdm(range(arguments.turns), desc="turns", disable=None):
        for way in WAYS:
            images = resident if way == "in memory" else load_split(FOLDER).images  # which reads all, for its digest
            if way == "mapped, cold":
                forget(FOLDER)
            before = read_from_disk()
            rates[way].append(rate(images, turn))
            read[way].append((read_from_disk() - before) / 1e6)
    print(heading("Training from a memory map"))
    seen = f"{arguments.steps * spec['batch_size']:,} images a turn"
    print(f"{count:,} images of {side} px, {size / 1e6:,.0f} MB; {arguments.model}, {precision}; {seen}.\n")
    print("| pixels | images/s | of those in memory | MB from the disk |\n| --- | ---: | ---: | ---: |")
    base = statistics.median(rates["in memory"])
    for way in WAYS:
        of_way = statistics.median(rates[way])
        print(f"| {way} | {of_way:,.0f} | {of_way / base:.2f} | {statistics.median(read[way]):,.0f} |")


def read_from_disk() -> int:
    """Return how many bytes this process has made the system read from a disk."""
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def forget(folder: Path) -> None:
    """Empty the file system's cache of a folder's files."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    run(main)
