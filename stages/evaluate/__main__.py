"""Measure the trained detector: models/trained and data/test in, metrics and plots out.

    dvc repro evaluate
    python -m stages.evaluate       the same without DVC

Every test image is scored once, into metrics/test_scores.parquet, and all numbers and plots come from that table; then
once more for each corruption, into metrics/robustness.json. Nothing is chosen here: threshold, temperature and
abstention band were chosen on validation and are read from model.json.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from detector.cores import keep_freed_memory
from detector.errors import UserError, run
from detector.explain import occlusion_maps
from detector.files import atomic_write
from detector.labels import CLASSES, FAKE, is_answered, probability
from detector.record import ModelRecord
from stages.data import OBJECT_CLASSES, Split, load_split
from stages.device import claim
from stages.evaluate.corruptions import SUMMARIES, check_corruptions, corruption
from stages.evaluate.curves import write_csv, write_plots
from stages.evaluate.deletion import deletion_test
from stages.evaluate.sheets import draw_explained, draw_mistakes
from stages.evaluate.threads import Advance, in_threads
from stages.intervals import auroc_interval, wilson_interval
from stages.metrics import classification_metrics
from stages.model import evaluation_batch, load_model, predict_logits
from stages.params import load_params


def main() -> None:
    keep_freed_memory()
    claim()
    options = load_params()["evaluate"]
    for name in ("explained", "mistakes"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise UserError(f"evaluate.{name} is {options[name]!r} in params.yaml: 1 or more")
    check_corruptions(options["corruptions"])
    network, record = load_model("models/trained", "cuda" if torch.cuda.is_available() else "cpu")
    test = load_split("data/test")
    check_fit(record, test)

    def score(images: np.ndarray, margin: float = record.flip_tta_margin) -> np.ndarray:
        """Logits (N) of images uint8 (N, H, W, 3)."""
        return predict_logits(network, images, record.mean, record.std, margin)

    def score_test(change: Callable[[np.ndarray], np.ndarray], advance: Advance) -> np.ndarray:
        """Logits of all test images, each block of them changed first."""
        parts, batch_size = [], evaluation_batch(network, record.input_size)
        for start in range(0, len(test), batch_size):
            parts.append(score(change(test.images[start : start + batch_size])))
            advance(len(parts[-1]))
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
        return logits

    conditions = [
        (kind, level, strength)
        for kind, strengths in options["corruptions"].items()
        for level, strength in enumerate(strengths, start=1)
    ]
    changes = [lambda images: images, *(corruption(kind, strength) for kind, _, strength in conditions)]
    total = len(changes) * len(test)
    with tqdm(total=total, desc="test images", unit=" images", unit_scale=True, disable=None) as bar:
        logits, *corrupted = in_threads(score_test, changes, bar)
    scores: dict[str, np.ndarray] = {
        "index": np.arange(len(test), dtype=np.int32),
        "label": test.labels.astype(np.int8),
        "object_class": test.object_class.astype(np.int8),
        "leaked": test.leaked,
        "source": test.source,
        "logit": logits,
        "p_fake": probability(logits, record.temperature),
    }
    metrics = evaluation_metrics(scores, record)
    sources = source_metrics(scores, test.info.get("sources", ["unknown"]), record.threshold)
    if len(sources) > len(CLASSES):  # else each class has one, and fake_recall and real_recall say it
        metrics["sources"] = sources

    robustness = [robustness_row("none", 0, 0, scores["p_fake"], test, record)]
    for condition, of_condition in zip(conditions, corrupted, strict=True):
        p_fake = probability(of_condition, record.temperature)
        robustness.append(robustness_row(*condition, p_fake, test, record))
    for name, kinds in SUMMARIES.items():
        if values := [row["accuracy"] for row in robustness if row["corruption"] in kinds]:
            metrics[name] = round(fmean(values), 6)

    chosen = np.linspace(0, len(test) - 1, min(options["explained"], len(test))).astype(int)
    parts = np.array_split(chosen, min(20, len(chosen)))

    def explain(part: np.ndarray, advance: Advance) -> np.ndarray:
        """Occlusion maps of the test images of these numbers."""
        maps = occlusion_maps(partial(score, margin=math.inf), test.images[part])
        advance(len(part))
        return maps

    with tqdm(total=len(chosen), desc="explanations", unit=" images", disable=None) as bar:
        maps = np.concatenate(in_threads(explain, parts, bar))
    said_fake = scores["p_fake"] >= record.threshold
    metrics |= deletion_test(score, test.images[chosen], logits[chosen], maps, said_fake[chosen], record.temperature)

    # all or nothing: numbers of one model beside the plots of another would mislead
    with (
        atomic_write("metrics/test_scores.parquet") as scores_file,
        atomic_write("metrics/test.json") as metrics_file,
        atomic_write("metrics/robustness.json") as robustness_file,
        atomic_write("plots/test") as plots,
    ):
        table: dict[str, Any] = dict(scores)
        table["source"] = pa.DictionaryArray.from_arrays(scores["source"], test.info.get("sources", ["unknown"]))
        pq.write_table(pa.table(table), scores_file, compression="zstd")
        metrics_file.write_text(json.dumps(metrics, indent=2) + "\n")
        robustness_file.write_text(json.dumps(robustness, indent=2) + "\n")
        plots.mkdir()
        write_plots(plots, scores, record.threshold)
        columns = ("recall", "low", "high", "images")
        by_source = [(name, *(numbers[key] for key in columns)) for name, numbers in sources.items()]
        write_csv(plots / "sources.csv", ("source", "recall", "low", "high", "count"), by_source)
        draw_mistakes(plots / "mistakes.png", scores, test.images, record.threshold, options["mistakes"])
        draw_explained(plots / "explained.png", scores, test.images, record.threshold, chosen, maps)
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))


def check_fit(record: ModelRecord, test: Split) -> None:
    """Raise UserError where the model was not made for images of this size."""
    size, shape = record.input_size, test.images.shape[1:]
    if shape != (size, size, 3):
        raise UserError(
            f"the model takes {size}x{size} RGB images, data/test has "
            f"{'x'.join(map(str, shape))}: `dvc repro` makes both anew"
        )


def evaluation_metrics(scores: dict[str, np.ndarray], record: ModelRecord) -> dict[str, Any]:
    """Return metrics/test.json, from the table of scores."""
    is_fake, p_fake = scores["label"] == FAKE, scores["p_fake"]
    metrics: dict[str, Any] = dict(classification_metrics(is_fake, p_fake, record.threshold))
    if interval := auroc_interval(p_fake, is_fake):
        _, metrics["auroc_low"], metrics["auroc_high"] = interval
    correct = (p_fake >= record.threshold) == is_fake
    # training or validation has these images too: the model may simply remember them
    if not scores["leaked"].all():
        metrics["accuracy_without_leaked"] = float(correct[~scores["leaked"]].mean())
    answered = is_answered(p_fake, record.abstention_band)
    metrics["coverage"] = float(answered.mean())
    if answered.any():
        metrics["selective_accuracy"] = float(((p_fake > record.abstention_band[1]) == is_fake)[answered].mean())
    kind = scores["object_class"]
    known = [(float(correct[kind == number].mean()), OBJECT_CLASSES[number]) for number in np.unique(kind[kind >= 0])]
    if known:
        metrics["worst_accuracy"], metrics["worst_class"] = min(known)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}


def source_metrics(scores: dict[str, np.ndarray], names: list[str], threshold: float) -> dict[str, dict[str, float]]:
    """Return for each source: images, recall with its 95 % interval; of a FAKE one AUROC against all REAL images.

    A source whose images are of both classes has a recall alone.
    """
    is_fake, p_fake, source = scores["label"] == FAKE, scores["p_fake"], scores["source"]
    correct, found = (p_fake >= threshold) == is_fake, {}
    for number in np.unique(source):
        of_source = source == number
        right, images = int(correct[of_source].sum()), int(of_source.sum())
        low, high = wilson_interval(right, images)
        numbers = {"images": images, "recall": right / images, "low": low, "high": high}
        if is_fake[of_source].all():
            compared = of_source | ~is_fake
            numbers["auroc"] = roc_auc_score(is_fake[compared], p_fake[compared])
        found[names[number]] = {key: value if key == "images" else round(value, 6) for key, value in numbers.items()}
    return found


def robustness_row(
    kind: str, level: int, strength: float, p_fake: np.ndarray, test: Split, record: ModelRecord
) -> dict[str, Any]:
    """Return one row of metrics/robustness.json."""
    numbers = classification_metrics(test.labels == FAKE, p_fake, record.threshold)
    kept = {name: round(numbers[name], 6) for name in ("accuracy", "auroc", "fake_recall", "real_recall")}
    return {"corruption": kind, "level": level, "strength": strength, **kept}


if __name__ == "__main__":
    run(main)
