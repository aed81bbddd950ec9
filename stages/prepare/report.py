"""What a researcher should know of the data: metrics/prepare.json, plots/data, a summary and warnings."""

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detector.labels import CLASSES, FAKE, REAL
from stages.data import block_bounds, channel_statistics
from stages.prepare.decoding import Decoded
from stages.prepare.packing import digest_of
from stages.prepare.sheets import draw_examples, draw_near_duplicates
from stages.prepare.shortcuts import Shortcut, alarm_lines, shortcuts_table

IMBALANCE = 0.6  # share of the larger class from which it is said
MOST_PAIRS = 40  # of near-duplicates that are drawn
Parts = dict[str, np.ndarray]  # which images are train, val and test: bool (N)


def data_report(
    dataset: str,
    entry: dict[str, Any],
    data: Decoded,
    given: Parts,
    parts: Parts,
    leaked: np.ndarray,
    near: np.ndarray,
    found: list[Shortcut],
) -> dict[str, Any]:
    """Return metrics/prepare.json: short flat keys, the same for every source of the same data.

    given: the splits that the data set has. near: pairs of near-duplicates, int64 (P, 2).
    """
    report: dict[str, Any] = {"dataset": dataset, "sources": len(data.source_names)}
    for name, rows in parts.items():
        for label, class_name in enumerate(CLASSES):
            report[f"{name}_{class_name.lower()}"] = int((data.labels[rows] == label).sum())
    test, learnt = parts["test"], parts["train"] | parts["val"]
    report |= duplicates(data.hashes[learnt], data.hashes[test]) | {"leaked": int(leaked.sum())}
    across = test[near[:, 0]] != test[near[:, 1]]
    report["near_duplicates"] = len(near)
    report["near_duplicates_across"] = int(across.sum())
    report["near_duplicates_of_both_classes"] = int((data.labels[near[:, 0]] != data.labels[near[:, 1]]).sum())
    report["near_leaked"] = int(test[np.unique(near[across])].sum())
    report["damaged"] = data.damaged
    report["noted"] = data.notes.total()
    report |= encoders(data) | {"shortcut": found[0].name, "shortcut_auroc": round(found[0].auroc, 4)}
    report["alarms"] = len(alarm_lines(found, dataset))

    mean, std = channel_statistics(blocks(data, learnt))
    for channel, name in enumerate(("red", "green", "blue")):
        report[f"mean_{name}"] = round(255 * mean[channel], 2)
        report[f"std_{name}"] = round(255 * std[channel], 2)
    of_splits = [digest_of(data, given[name]) for name in ("train", "val", "test") if name in given]
    report["digest"] = hashlib.sha256("".join(of_splits).encode()).hexdigest()
    if entry["digest"] is not None:
        report["matches_published"] = report["digest"] == entry["digest"]
    return report


def encoders(data: Decoded) -> dict[str, Any]:
    """Return how the files of each class are encoded, and how much the mixtures of these settings differ."""
    counts: dict[int, Counter[str]] = {FAKE: Counter(), REAL: Counter()}
    settings, inverse = np.unique(data.traits[["format", "encoder", "chroma"]], return_inverse=True)
    for label, of_class in counts.items():
        number = np.bincount(inverse[data.labels == label], minlength=len(settings))
        for setting, count in zip(settings, number.tolist(), strict=True):
            kind, encoder, chroma = (part.decode() for part in setting)
            of_class[f"{encoder}, {chroma}" if kind == "JPEG" else kind] += count
    report = {}
    for label, of_class in counts.items():
        top = sorted((+of_class).items(), key=lambda item: (-item[1], item[0]))
        others = f" and {len(top) - 1} others" if len(top) > 1 else ""
        report[f"encoder_{CLASSES[label].lower()}"] = top[0][0] + others
    shares = [{setting: n / c.total() for setting, n in c.items()} for c in counts.values()]
    # Total variation distance: 0 the same mixture of settings in both classes, 1 nothing in common
    difference = sum(abs(shares[0].get(s, 0) - shares[1].get(s, 0)) for s in shares[0].keys() | shares[1].keys()) / 2
    return {**report, "encoder_difference": round(difference, 4)}


def blocks(data: Decoded, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images of some rows, bool (N), as uint8 (K, S, S, 3), a few megabytes at a time."""
    chosen = np.flatnonzero(rows)
    for start, stop in block_bounds(len(chosen), *data.image_shape):
        yield data.read(chosen[start:stop])


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


def write_plots(folder: Path, data: Decoded, parts: Parts, near: np.ndarray, found: list[Shortcut]) -> None:
    """Write plots/data: images of each source, near-duplicates, shortcuts, and how many images there are."""
    folder.mkdir(parents=True)
    draw_examples(folder / "examples.png", data.read, data.labels, data.sources, data.source_names)
    part_of = np.select(list(parts.values()), list(parts), "left out")
    shown = near[np.unique(np.linspace(0, max(0, len(near) - 1), min(MOST_PAIRS, len(near))).astype(int))]
    captions = [" / ".join(f"{part_of[i]} {CLASSES[data.labels[i]]}" for i in pair) for pair in shown.tolist()]
    title = f"{len(near):,} pairs of near-duplicates"
    if len(shown) < len(near):
        title += f", {len(shown)} of them"
    one, other = (data.read(column) for column in shown.T.reshape(2, -1))
    draw_near_duplicates(folder / "near_duplicates.png", one, other, captions, title)
    with (folder / "shortcuts.csv").open("w", newline="") as file:
        rows = [(name, *(round(number, 4) for number in numbers)) for name, *numbers in shortcuts_table(found)]
        csv.writer(file, lineterminator="\n").writerows([("trait", "auroc", "low", "high"), *rows])
    with (folder / "counts.csv").open("w", newline="") as file:
        counted = Counter(zip(data.sources, data.labels, part_of, strict=True))
        rows_of = [
            (data.source_names[source], CLASSES[label], part, count)
            for (source, label, part), count in sorted(counted.items())
        ]
        csv.writer(file, lineterminator="\n").writerows([("source", "class", "split", "images"), *rows_of])


def print_warnings(
    dataset: str, entry: dict[str, Any], report: dict[str, Any], data: Decoded, found: list[Shortcut]
) -> None:
    warnings = alarm_lines(found, dataset)
    if report.get("matches_published") is False:
        warnings.append(
            f"these are not the published images and labels of {dataset} (digest {entry['digest'][:12]}; found "
            f"{report['digest'][:12]}): results do not compare with others'"
        )
    share = report["train_fake"] / (report["train_fake"] + report["train_real"])
    if max(share, 1 - share) > IMBALANCE:
        warnings.append(
            f"{100 * share:.0f} % of the training images are FAKE: threshold and P(FAKE) then hold for pictures of "
            "that mixture alone; take as many of both"
        )
    if report["near_duplicates_of_both_classes"]:
        warnings.append(
            f"{report['near_duplicates_of_both_classes']} pairs of near-duplicates are FAKE and REAL: are the labels "
            "right? See plots/data/near_duplicates.png"
        )
    if report["damaged"]:
        warnings.append(f"{report['damaged']} damaged pictures are left out (prepare.skip_damaged)")
    if data.notes:
        kinds = ", ".join(f"{note} ({count})" for note, count in data.notes.most_common(5))
        warnings.append(f"pictures that the detector would note something of: {kinds}")
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)


def print_summary(kind: str, report: dict[str, Any]) -> None:
    print(f"{report['dataset']} from {kind}: digest {report['digest'][:12]}")
    print(f"{'split':<8}{'FAKE':>8}{'REAL':>8}")
    for name in ("train", "val", "test"):
        print(f"{name:<8}{report[name + '_fake']:>8}{report[name + '_real']:>8}")
    print(
        f"duplicate pairs {report['duplicates']}: {report['duplicates_train']} in train and val, "
        f"{report['duplicates_test']} in test, {report['duplicates_across']} across; "
        f"{report['leaked']} test images are also in train or val"
    )
    print(f"near-duplicate pairs {report['near_duplicates']}: {report['near_duplicates_across']} across")
    print(f"files: FAKE {report['encoder_fake']}; REAL {report['encoder_real']}")
    print(f"most telling trait of the files: {report['shortcut']}, AUROC {report['shortcut_auroc']:.3f}")
    for name in ("mean", "std"):
        print(name, *(report[f"{name}_{channel}"] for channel in ("red", "green", "blue")))
