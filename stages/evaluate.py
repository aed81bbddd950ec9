"""Measure the trained detector: models/trained and data/test.safetensors in, metrics and plots out.

    dvc repro evaluate
    python -m stages.evaluate       the same without DVC

Every test image is scored once, into metrics/test_scores.parquet; all numbers and plots come from
that table. Then once more a corruption, into metrics/robustness.json. Nothing is chosen here:
threshold, temperature and the UNSURE band were chosen on validation and are read from model.json.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import precision_recall_curve, roc_curve
from tqdm import tqdm

from detector.data import CLASSES, FAKE, OBJECT_CLASSES, Split, load_split
from detector.device import claim
from detector.errors import UserError, replacing, run
from detector.explain import GRID, find_evidence, hide
from detector.metrics import calibration_bins, classification_metrics, probability
from detector.model import load, predict_logits
from stages import keep_freed_memory
from stages.corrupt import KINDS, corrupt
from stages.params import load_params
from stages.sheets import draw_explained, draw_mistakes

SUMMARIES = {"corrupted_accuracy": ("noise", "blur", "jpeg"), "rescaled_accuracy": ("rescale",)}
CURVE_POINTS = 300  # more than a screen shows, and a file that is small enough for git
CALIBRATION_BINS = 15


def main() -> None:
    keep_freed_memory()
    claim()
    options = load_params()["evaluate"]
    if not isinstance(options["batch_size"], int) or options["batch_size"] < 1:
        raise UserError(f"evaluate.batch_size is {options['batch_size']!r} in params.yaml: 1 or more")
    if not isinstance(options["explained"], int) or options["explained"] < 1:
        raise UserError(f"evaluate.explained is {options['explained']!r} in params.yaml: 1 or more")
    check_corruptions(options["corruptions"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, info = load("models/trained", device)
    test = load_split("data/test.safetensors")
    check_fit(info, test)

    def score(images: np.ndarray, what: str) -> np.ndarray:
        bar = partial(tqdm, desc=what, unit=" images", unit_scale=options["batch_size"], disable=None)
        logits = predict_logits(network, images, info, options["batch_size"], bar)
        if not np.isfinite(logits).all():
            raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
        return logits

    logits = score(test.images, "test images")
    scores: dict[str, np.ndarray] = {
        "index": np.arange(len(test), dtype=np.int32),
        "label": test.labels.astype(np.int8),
        "object_class": test.object_class.astype(np.int8),
        "leaked": test.leaked,
        "logit": logits,
        "p_fake": probability(logits, info["temperature"]),
    }
    metrics = measure(scores, info)
    robustness = [condition("none", 0, 0, scores["p_fake"], test, info)]
    for kind, strengths in options["corruptions"].items():
        for level, strength in enumerate(strengths, start=1):
            p_fake = probability(score(corrupt(test.images, kind, strength), f"{kind} {strength}"), info["temperature"])
            robustness.append(condition(kind, level, strength, p_fake, test, info))
    for name, kinds in SUMMARIES.items():
        values = [row["accuracy"] for row in robustness if row["corruption"] in kinds]
        if values:
            metrics[name] = round(fmean(values), 6)

    def scored(images: np.ndarray, mirror: float = info["mirror"]) -> np.ndarray:
        return predict_logits(network, images, info | {"mirror": mirror}, options["batch_size"])

    chosen = np.linspace(0, len(test) - 1, min(options["explained"], len(test))).astype(int)
    bar = tqdm(
        np.array_split(chosen, min(20, len(chosen))),
        desc="explanations",
        unit_scale=len(chosen) // 20,
        unit=" images",
        disable=None,
    )
    evidence = np.concatenate([find_evidence(partial(scored, mirror=math.inf), test.images[part]) for part in bar])
    said_fake = scores["p_fake"] >= info["threshold"]
    metrics |= deletion(scored, test.images[chosen], logits[chosen], evidence, said_fake[chosen], info["temperature"])

    # all or nothing: numbers of one model beside the plots of another would mislead
    with (
        replacing("metrics/test_scores.parquet") as scores_file,
        replacing("metrics/test.json") as metrics_file,
        replacing("metrics/robustness.json") as robustness_file,
        replacing("plots/test") as plots,
    ):
        pq.write_table(pa.table(scores), scores_file, compression="zstd")
        metrics_file.write_text(json.dumps(metrics, indent=2) + "\n")
        robustness_file.write_text(json.dumps(robustness, indent=2) + "\n")
        plots.mkdir()
        draw(plots, scores, info["threshold"])
        draw_mistakes(plots / "mistakes.png", scores, test.images, said_fake, options["mistakes"])
        draw_explained(plots / "explained.png", scores, test.images, said_fake, chosen, evidence)
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))


def check_corruptions(corruptions: Any) -> None:
    """Raise UserError for what `corrupt` could not do, before anything is scored."""
    if not isinstance(corruptions, dict) or not set(corruptions) <= set(KINDS):
        raise UserError(f"evaluate.corruptions in params.yaml takes lists of strengths, of {', '.join(KINDS)}")
    for kind, strengths in corruptions.items():
        _, low, high = KINDS[kind]
        numbers = strengths if isinstance(strengths, list) else []
        if not numbers or not all(isinstance(n, int | float) and low <= n <= high for n in numbers):
            raise UserError(
                f"evaluate.corruptions.{kind} is {strengths!r} in params.yaml: a list of numbers from {low} to {high}"
            )


def check_fit(info: dict[str, Any], test: Split) -> None:
    """Raise UserError where the model was not made for this data."""
    missing = {"input_size", "mean", "std", "mirror", "classes", "threshold", "unsure", "temperature"} - info.keys()
    if missing:
        raise UserError(f"models/trained/model.json lacks {', '.join(sorted(missing))}: `dvc repro -f train`")
    if info["classes"] != CLASSES:
        raise UserError(f"the model has the classes {info['classes']}, the data {CLASSES}")
    size, shape = info["input_size"], test.images.shape[1:]
    if shape != (size, size, 3):
        raise UserError(
            f"the model takes {size}x{size} RGB images, data/test.safetensors has "
            f"{'x'.join(map(str, shape))}: `dvc repro` makes both anew"
        )


def measure(scores: dict[str, np.ndarray], info: dict[str, Any]) -> dict[str, float | str]:
    """metrics/test.json, from the table of scores."""
    is_fake, p_fake = scores["label"] == FAKE, scores["p_fake"]
    metrics: dict[str, float | str] = dict(classification_metrics(is_fake, p_fake, info["threshold"]))
    correct = (p_fake >= info["threshold"]) == is_fake
    # the source's train split has these images too: the model may simply remember them
    metrics["accuracy_without_leaked"] = float(correct[~scores["leaked"]].mean())
    low, high = info["unsure"]
    answered = (p_fake < low) | (p_fake > high)
    metrics["coverage"] = float(answered.mean())
    if answered.any():
        metrics["answered_accuracy"] = float(((p_fake > high) == is_fake)[answered].mean())
    kind = scores["object_class"]
    known = [(float(correct[kind == number].mean()), OBJECT_CLASSES[number]) for number in np.unique(kind[kind >= 0])]
    if known:
        metrics["worst_accuracy"], metrics["worst_class"] = min(known)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}


def condition(
    kind: str, level: int, strength: float, p_fake: np.ndarray, test: Split, info: dict[str, Any]
) -> dict[str, Any]:
    """One row of metrics/robustness.json."""
    numbers = classification_metrics(test.labels == FAKE, p_fake, info["threshold"])
    kept = {name: round(numbers[name], 6) for name in ("accuracy", "auroc", "fake_recall", "real_recall")}
    return {"corruption": kind, "level": level, "strength": strength, **kept}


def deletion(
    score: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    logits: np.ndarray,
    evidence: np.ndarray,
    said_fake: np.ndarray,
    temperature: float,
) -> dict[str, float]:
    """By how much the probability of the answer falls, on average, where the quarter of the cells that the explanations
    mark as most important is hidden, and where a random quarter is (the deletion test; Petsiuk et al. 2018, "RISE")."""
    side = np.where(said_fake, 1, -1)
    quarter = GRID * GRID // 4

    def fall(weights: np.ndarray) -> float:
        """weights: (N, cells); those of the quarter with the largest are hidden."""
        cells = np.zeros(weights.shape, bool)
        np.put_along_axis(cells, np.argsort(-weights, axis=1, kind="stable")[:, :quarter], True, axis=1)
        hidden = np.concatenate(
            [hide(image, one) for image, one in zip(images, cells.reshape(-1, 1, GRID, GRID), strict=True)]
        )
        falls = probability(logits * side, temperature) - probability(score(hidden) * side, temperature)
        return round(float(falls.mean()), 6)

    important = evidence.reshape(len(images), -1) * side[:, None]
    random = np.random.default_rng(0).random(important.shape)
    return {"deletion_important": fall(important), "deletion_random": fall(random)}


def draw(folder: Path, scores: dict[str, np.ndarray], threshold: float) -> None:
    """Write what the `plots` of dvc.yaml show."""
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

    bins = zip(*calibration_bins(p_fake, is_fake, CALIBRATION_BINS), strict=True)
    write_csv(folder / "calibration.csv", ("mean_p_fake", "share_fake", "count"), bins)

    correct, kind = said_fake == is_fake, scores["object_class"]
    groups = {name: kind == number for number, name in enumerate(OBJECT_CLASSES)}
    groups |= {"unknown": kind < 0, "all": np.ones(len(kind), bool)}
    if (kind < 0).all():
        del groups["unknown"]  # it would say the same as "all"
    by_class = [(name, correct[group].mean(), int(group.sum())) for name, group in groups.items() if group.any()]
    write_csv(folder / "object_classes.csv", ("object_class", "accuracy", "count"), by_class)

    # in git, unlike the scores: with it, two published runs can be compared image by image
    wrong = np.flatnonzero(~correct)
    listed = zip(wrong, np.array(CLASSES)[scores["label"][wrong]], p_fake[wrong], strict=True)
    write_csv(folder / "mistakes.csv", ("index", "actual", "p_fake"), listed)


def thin(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Indices of at most CURVE_POINTS points of a curve, evenly spaced along the drawn line: steep
    and flat parts keep their shape alike, and both ends stay."""
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


if __name__ == "__main__":
    run(main)
