"""Linear probes of pretrained weights: do their features know what they claim to know?

    python -m benchmarks.probe > benchmarks/results/probe.md

A logistic regression on a frozen network's last maps (their means) says which of CIFAR-10's ten objects a test image of
CIFAKE shows, and whether it is FAKE: once with the ImageNet weights of `resnet18_imagenet`, once with random weights.
It reads data/test, as `dvc repro prepare` left it, enlarged to 112 px; 9,600 images to fit, 2,400 others to test.
"""

import argparse
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.heading import heading
from detector.errors import run
from detector.labels import FAKE
from stages.data import load_split
from stages.device import claim
from stages.model import build, normalize
from stages.params import load_params, model_entry, weights_path
from stages.train.network import pretrained_statistics

SIDE, BATCH = 112, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000, help="(default: %(default)s)")
    count = parser.parse_args().images
    claim()
    spec = model_entry(load_params() | {"model": "resnet18_imagenet"})
    test = load_split("data/test")
    rows = np.random.default_rng(0).permutation(len(test))[:count]
    rows = rows[test.object_class[rows] >= 0]
    tasks = {"which of ten objects": test.object_class[rows], "REAL or FAKE": test.labels[rows] == FAKE}
    print(heading("Linear probes of the pretrained weights", f"{count:,} test images of CIFAKE"))
    print("| Features | " + " | ".join(f"{task}, right" for task in tasks) + " |")
    print("| --- | ---: | ---: |")
    for name, weights in (("ImageNet weights", str(weights_path(spec["pretrained"]))), ("random weights", False)):
        x = features(spec, weights, test.images[rows], name)
        cells = [f"{100 * probe(x, labels):.1f} %" for labels in tasks.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


@torch.inference_mode()
def features(spec: dict[str, Any], weights: str | bool, images: np.ndarray, name: str) -> np.ndarray:
    """uint8 (N, 32, 32, 3) -> float32 (N, 512): the means of the network's last maps."""
    torch.manual_seed(0)
    network: Any = build(spec, weights).eval()
    mean, std = pretrained_statistics(network)
    parts = []
    for start in tqdm(range(0, len(images), BATCH), desc=name, unit=" batches", disable=None):
        x = normalize(torch.from_numpy(images[start : start + BATCH]), mean, std)
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic")
        parts.append(network.forward_features(x).mean((2, 3)).numpy())
    return np.concatenate(parts)


def probe(x: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of the last fifth that a logistic regression on the others has right."""
    fitted = len(x) * 4 // 5
    scaler = StandardScaler().fit(x[:fitted])
    model = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(x[:fitted]), labels[:fitted])
    return float(model.score(scaler.transform(x[fitted:]), labels[fitted:]))


if __name__ == "__main__":
    run(main)
