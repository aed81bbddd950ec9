"""Measure the trained detector: models/trained and data/test.safetensors in, metrics and plots out.

    dvc repro evaluate
    python -m stages.evaluate       the same without DVC

Every test image is scored once, into metrics/test_scores.parquet; all numbers and plots come from
that table. Then once more a corruption, into metrics/robustness.json. Nothing is chosen here:
threshold, temperature and the UNSURE band were chosen on validation and are read from model.json.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import precision_recall_curve, roc_curve
from tqdm import tqdm

from detector.data import CLASSES, FAKE, OBJECT_CLASSES, Split, load_split
from detector.device import claim
from detector.errors import UserError, replacing, run
from detector.metrics import calibration_bins, classification_metrics, probability
from detector.model import load, predict_logits
from stages.corrupt import KINDS, LIMITS, corrupt
from stages.params import load_params

SUMMARIES = {"corrupted_accuracy": ("noise", "blur", "jpeg"), "rescaled_accuracy": ("rescale",)}
CURVE_POINTS = 300  # more than a screen shows, and a file that is small enough for git
CALIBRATION_BINS = 15
COLUMNS, TILE, ENLARGED = 8, 128, 96  # of the contact sheet: tiles in a row, pixels


def main() -> None:
    claim()
    options = load_params()["evaluate"]
    if not isinstance(options["batch_size"], int) or options["batch_size"] < 1:
        raise UserError(f"evaluate.batch_size is {options['batch_size']!r} in params.yaml: 1 or more")
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
            logits = score(corrupt(test.images, kind, strength), f"{kind} {strength}")
            p_fake = probability(logits, info["temperature"])
            robustness.append(condition(kind, level, strength, p_fake, test, info))
    for name, kinds in SUMMARIES.items():
        values = [row["accuracy"] for row in robustness if row["corruption"] in kinds]
        if values:
            metrics[name] = round(fmean(values), 6)

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
        draw(plots, scores, test.images, info["threshold"], options["mistakes"])
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))


def check_corruptions(corruptions: Any) -> None:
    """Raise UserError for what `corrupt` could not do, before anything is scored."""
    if not isinstance(corruptions, dict) or not set(corruptions) <= set(KINDS):
        raise UserError(f"evaluate.corruptions in params.yaml takes lists of strengths, of {', '.join(KINDS)}")
    for kind, strengths in corruptions.items():
        low, high = LIMITS[kind]
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


def draw(folder: Path, scores: dict[str, np.ndarray], images: np.ndarray, threshold: float, mistakes: int) -> None:
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

    draw_mistakes(folder / "mistakes.png", scores, images, said_fake, mistakes)


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


def draw_mistakes(
    path: Path,
    scores: dict[str, np.ndarray],
    images: np.ndarray,
    said_fake: np.ndarray,
    number: int,
) -> None:
    """A contact sheet of the `number` most confident mistakes, half of each kind."""
    is_fake, p_fake, logit = scores["label"] == FAKE, scores["p_fake"], scores["logit"]
    caught_wrongly = np.flatnonzero(said_fake & ~is_fake)
    missed = np.flatnonzero(~said_fake & is_fake)
    blocks = [  # by logit: it still differs where the probability is rounded to 1
        ("REAL, taken for FAKE", caught_wrongly[np.argsort(-logit[caught_wrongly], kind="stable")]),
        ("FAKE, taken for REAL", missed[np.argsort(logit[missed], kind="stable")]),
    ]
    heading, caption = 34, 42
    shown = [order[: number // 2] for _, order in blocks]
    rows = [-(-len(order) // COLUMNS) for order in shown]
    height = sum(heading + max(1, row) * (ENLARGED + caption) for row in rows)
    sheet = Image.new("RGB", (COLUMNS * TILE, height), "white")
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(18), ImageFont.load_default(13)
    top = 0
    for (title, order), chosen, row in zip(blocks, shown, rows, strict=True):
        of_kind = int((is_fake if title.startswith("FAKE") else ~is_fake).sum())
        text = f"{title}: {len(order):,} of {of_kind:,} images"
        if len(chosen) < len(order):
            text += f", the {len(chosen)} most confident"
        pen.text((8, top + 8), text, "black", large)
        top += heading
        for place, index in enumerate(chosen):
            left, y = place % COLUMNS * TILE, top + place // COLUMNS * (ENLARGED + caption)
            tile = Image.fromarray(images[index]).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + (TILE - ENLARGED) // 2, y))
            number_of_class = int(scores["object_class"][index])
            kind = f" {OBJECT_CLASSES[number_of_class]}" if number_of_class >= 0 else ""
            middle = left + TILE // 2
            actual = CLASSES[int(scores["label"][index])]
            pen.text((middle, y + ENLARGED + 2), f"{actual}{kind}", "black", small, "ma")
            p = p_fake[index]
            percent = "> 99.99%" if p > 0.9999 else "< 0.01%" if p < 0.0001 else f"{p:.2%}"
            pen.text((middle, y + ENLARGED + 18), f"P(FAKE) {percent}", "black", small, "ma")
        top += max(1, row) * (ENLARGED + caption)
    sheet.save(path, format="png", optimize=True)


if __name__ == "__main__":
    run(main)
