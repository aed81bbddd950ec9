"""What a researcher should know of the data: metrics/prepare.json, a summary and warnings."""

import hashlib
import sys
from collections import Counter
from typing import Any

import numpy as np

from detector.labels import CLASSES, FAKE, REAL
from stages.data import channel_statistics
from stages.prepare.decoding import DecodedSplit
from stages.prepare.packing import split_digest

PUBLISHED_DIGEST = "bdd10be57a6fc05ffd2c1b6d3fbfa67614001988ac5a4db881ea22bb7c51e1b3"
# Warn above this difference between the encoder settings of the classes; less is chance.
JPEG_ALARM = 0.05


def data_report(
    dataset: str, train: DecodedSplit, test: DecodedSplit, in_val: np.ndarray, leaked: np.ndarray
) -> dict[str, Any]:
    """Return metrics/prepare.json: short flat keys, the same for every source of the same data."""
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

    mean, std = channel_statistics(train.images)
    for channel, name in enumerate(("red", "green", "blue")):
        report[f"mean_{name}"] = round(255 * mean[channel], 2)
        report[f"std_{name}"] = round(255 * std[channel], 2)
    report["digest"] = hashlib.sha256((split_digest(train) + split_digest(test)).encode()).hexdigest()
    report["matches_published"] = report["digest"] == PUBLISHED_DIGEST
    return report


def duplicates(train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """Count pairs of images with the same pixels: all, inside train, inside test, one in each."""
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


def print_warnings(dataset: str, report: dict[str, Any]) -> None:
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


def print_summary(kind: str, report: dict[str, Any]) -> None:
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
