"""The tables in plots/test that the `plots` of dvc.yaml draw: confusion matrix, ROC, calibration and their like."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from detector.labels import CLASSES, FAKE
from stages.data import OBJECT_CLASSES
from stages.metrics import calibration_bins

CURVE_POINTS = 300  # more than a screen shows, and a file that is small enough for git


def write_plots(folder: Path, scores: dict[str, np.ndarray], threshold: float) -> None:
    """Write the tables into `folder`, from the table of scores."""
    is_fake, p_fake = scores["label"] == FAKE, scores["p_fake"]
    said_fake = p_fake >= threshold

    confusion = []
    for actual, of_actual in (("FAKE", is_fake), ("REAL", ~is_fake)):
        for predicted, as_predicted in (("FAKE", said_fake), ("REAL", ~said_fake)):
            count = int((of_actual & as_predicted).sum())
            confusion.append((actual, predicted, count, count / of_actual.sum()))
    write_csv(folder / "confusion.csv", ("actual", "predicted", "count", "share"), confusion)

    # a rate of 0 has no place on the logarithmic axis: the first step is drawn at its left end
    false_alarms, caught, _ = roc_curve(is_fake, p_fake)
    left_end = 1 / (~is_fake).sum()
    kept = thin(np.log10(np.maximum(false_alarms, left_end)), caught)
    rows = zip(false_alarms[kept], caught[kept], strict=True)
    write_csv(folder / "roc.csv", ("false_positive_rate", "true_positive_rate"), rows)

    precision, recall, _ = precision_recall_curve(is_fake, p_fake, drop_intermediate=True)
    precision, recall = precision[::-1], recall[::-1]  # from the highest threshold down
    kept = thin(recall, precision)
    rows = zip(recall[kept], precision[kept], strict=True)
    write_csv(folder / "precision_recall.csv", ("recall", "precision"), rows)

    bins = zip(*calibration_bins(p_fake, is_fake), strict=True)
    write_csv(folder / "calibration.csv", ("mean_p_fake", "share_fake", "count"), bins)

    correct, kind = said_fake == is_fake, scores["object_class"]
    groups = {name: kind == number for number, name in enumerate(OBJECT_CLASSES)}
    groups |= {"unknown": kind < 0, "all": np.ones(len(kind), bool)}
    if (kind < 0).all():
        del groups["unknown"]  # it would say the same as "all"
    by_class = [(name, correct[group].mean(), int(group.sum())) for name, group in groups.items() if group.any()]
    write_csv(folder / "object_classes.csv", ("object_class", "accuracy", "count"), by_class)

    # in git, where the scores are not: with it, two published runs can be compared image by image
    wrong = np.flatnonzero(~correct)
    listed = zip(wrong, np.array(CLASSES)[scores["label"][wrong]], p_fake[wrong], strict=True)
    write_csv(folder / "mistakes.csv", ("index", "actual", "p_fake"), listed)


def thin(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the indices of at most CURVE_POINTS points of a curve, evenly spaced along the drawn line: steep and flat
    parts keep their shape alike, and both ends stay."""
    steps = np.hypot(np.diff(x) / (np.ptp(x) or 1), np.diff(y) / (np.ptp(y) or 1))
    length = np.append(0, steps.cumsum())
    kept = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS - 1))
    return np.unique(np.append(kept, len(x) - 1))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row)
