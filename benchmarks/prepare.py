"""Decoding and packing images: this repository's `prepare` beside what people would use instead.

    python -m benchmarks.prepare            # on the embedded sample
    CIFAKE_SOURCE=... python -m benchmarks.prepare

Prints images a second, and how many times as fast `prepare` is. Every way ends with the same uint8 array in memory.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
from tqdm import tqdm

from stages.params import load_params
from stages.prepare import Encoded, decode_split, open_source

IMAGES = 5000


def main() -> None:
    dataset = "cifake" if os.environ.get("CIFAKE_SOURCE") else "sample"
    whole = open_source(dataset, load_params()["prepare"]["revision"])[1]["train"]
    rows = np.random.default_rng(0).permutation(len(whole.labels))[:IMAGES]
    data = [whole.read(row) for row in rows]
    subset = Encoded([whole.names[row] for row in rows], whole.labels[rows], data.__getitem__)

    with tempfile.TemporaryDirectory() as temporary:
        for i, image in enumerate(data):
            file = Path(temporary, str(subset.labels[i]), f"{i}.jpg")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(image)
        ways: dict[str, Callable[[], np.ndarray]] = {
            "prepare (with its checks and hashes)": lambda: prepare(subset),
            "datasets.map, batched": lambda: datasets_map(data),
            "torchvision ImageFolder": lambda: image_folder(temporary),
        }
        pixels = {way: timed(way, function) for way, function in ways.items()}
    ours, seconds = pixels.pop(next(iter(pixels)))
    for way, (theirs, their_seconds) in pixels.items():
        assert int(ours.sum(dtype=np.int64)) == int(theirs.sum(dtype=np.int64)), f"{way} has other pixels"
        print(f"prepare is {their_seconds / seconds:.1f} times as fast as {way}")


def timed(way: str, function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Best of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        pixels = function()
        seconds.append(time.perf_counter() - began)
    print(f"{way:<40}{len(pixels) / min(seconds):>10,.0f} images/s")
    return pixels, min(seconds)


def prepare(subset: Encoded) -> np.ndarray:
    split = decode_split(subset, tqdm(disable=True))
    return split.images[split.rows]


def datasets_map(data: list[bytes]) -> np.ndarray:
    table = datasets.Dataset.from_dict({"image": [{"bytes": image, "path": None} for image in data]})
    pictures = table.cast_column("image", datasets.Image())
    mapped = pictures.map(
        lambda batch: {"pixels": [np.asarray(image).ravel() for image in batch["image"]]},
        batched=True,
        remove_columns=["image"],
        features=datasets.Features({"pixels": datasets.Sequence(datasets.Value("uint8"), length=3072)}),
        keep_in_memory=True,
    )
    return mapped.with_format("numpy")[:]["pixels"].reshape(-1, 32, 32, 3)


def image_folder(path: str) -> np.ndarray:
    return np.stack([np.asarray(image) for image, _ in ImageFolder(path)])


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main()
