"""Ask the exported detector about data sets that training never sees: what an answer is worth elsewhere.

    dvc repro external
    python -m stages.external       the same without DVC

The entries of `evaluate.external` are read as files and answered as people's pictures are: verdict FAKE, REAL or
UNSURE, and whether a picture is out of distribution. Nothing is chosen here. What is chosen before does not depend on
it, but for the kind of OOD score, which was picked with the sample in view (stages/export/ood.py).
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from detector.detector import Detector, Prediction
from detector.errors import UserError, run
from detector.files import atomic_write
from detector.labels import CLASSES, FAKE, REAL
from stages.device import claim
from stages.fingerprint import find_data
from stages.intervals import Interval, auroc_interval, share_interval
from stages.params import external_entries, load_params
from stages.prepare.sources import Pictures, read_splits

Row = dict[str, Any]  # of metrics/external_sources.json
Control = dict[str, list[str]]


def main() -> None:
    claim()
    rows = external_rows(Detector.load("models/exported"), load_params())
    summary = external_summary(rows)
    with (
        atomic_write("metrics/external.json") as summary_file,
        atomic_write("metrics/external_sources.json") as rows_file,
        atomic_write("plots/external") as plots,
    ):
        summary_file.write_text(json.dumps(summary, indent=2) + "\n")
        rows_file.write_text(json.dumps(rows, indent=2) + "\n")
        plots.mkdir()
        (plots / "sources.csv").write_text(plot_table(rows))
    print(", ".join(f"{name} {value:.4f}" for name, value in summary.items()) or "no external data set")


def external_rows(detector: Detector, params: dict[str, Any]) -> list[Row]:
    """Return a row for each source of each entry of `evaluate.external`, fakes first.

    An entry that the model was trained on, or whose data are not here, is left out, and a line says so.
    """
    rows: list[Row] = []
    for name, entry in external_entries(params).items():
        if name == detector.record.dataset:
            print(f"{name} is left out: the model was trained on it")
        elif find_data(name, entry) is None and entry["hub"] is None:
            print(f"{name} is left out: its data are not here")
        else:
            _, splits = read_splits(name, entry)
            rows += source_rows(name, splits, detector, entry["control"])
    return rows


def source_rows(
    name: str, splits: dict[str, Pictures], detector: Detector, control: Control | None = None
) -> list[Row]:
    """Return the rows of a data set: of its test split where it has one, else of all its pictures.

    control: by source, the entries of `datasets` whose images are of its kind. For a model that was trained on one of
    those the source is a control: there for the AUROC of the others, and not elsewhere.

    Each number is [value, low, high], with a 95 % interval. confidently_wrong: shares of images that get the wrong
    verdict, FAKE or REAL, and are not called out of distribution. auroc is that of a source of fakes against all REAL
    images of the same data set, which were treated alike; None where it has none. groups: how many groups of images
    that are not independent of each other there are; None where all are independent. Pictures that cannot be read are
    left out, and a line says so.
    """
    used = [splits["test"]] if "test" in splits else list(splits.values())
    is_fake = np.concatenate([pictures.labels for pictures in used]) == FAKE
    sources = np.array([pictures.source_names[number] for pictures in used for number in pictures.sources])
    grouped = np.concatenate([pictures.groups for pictures in used])  # 0: in no group
    alone = np.iinfo(np.uint64).max - np.arange(len(grouped), dtype=np.uint64)
    groups = np.where(grouped == 0, alone, grouped) if grouped.any() else None
    predictions = answers(name, used, detector)
    read = np.array([one is not None for one in predictions], bool)
    is_fake, sources, groups = is_fake[read], sources[read], None if groups is None else groups[read]
    p_fake = np.array([one.p_fake for one in predictions if one])
    verdict = np.array([one.verdict for one in predictions if one])
    is_far = np.array([one.out_of_distribution for one in predictions if one], bool)
    wrong = (verdict == np.where(is_fake, "REAL", "FAKE")) & ~is_far

    rows = []
    for fake in (True, False):
        for source in np.unique(sources[is_fake == fake]):
            rows_of = (sources == source) & (is_fake == fake)
            of_groups = None if groups is None else groups[rows_of]

            def share(what: np.ndarray, rows_of: np.ndarray = rows_of, of_groups: Any = of_groups) -> Interval:
                return share_interval(what[rows_of], of_groups)

            row = {
                "dataset": name,
                "source": str(source),
                "class": CLASSES[FAKE if fake else REAL],
                "control": detector.record.dataset in (control or {}).get(str(source), ()),
                "images": int(rows_of.sum()),
                "groups": None if of_groups is None else len(np.unique(of_groups)),
            }
            if fake:
                compared = rows_of | ~is_fake
                of_compared = None if groups is None else groups[compared]
                row["auroc"] = auroc_interval(p_fake[compared], is_fake[compared], of_compared)
            row["caught" if fake else "false_alarms"] = share(verdict == "FAKE")
            row["coverage"] = share(verdict != "UNSURE")
            row["out_of_distribution"] = share(is_far)
            row["confidently_wrong"] = share(wrong)
            rows.append(row)
    return rows


def answers(name: str, used: list[Pictures], detector: Detector) -> list[Prediction | None]:
    """Return what the detector says of each picture, as it says it to people; None of one that cannot be read.

    One that was not read is asked once more: on a machine that stood still, a decoder's time runs out.
    """
    named = [(pictures, number) for pictures in used for number in range(len(pictures))]

    def ask(which: Sequence[int]) -> Iterator[tuple[int, Prediction | UserError]]:
        stream = detector.stream(named[i][0].read(named[i][1]) for i in which)
        return zip(which, tqdm(stream, name, len(which), disable=None), strict=True)

    said = dict(ask(range(len(named))))
    if unread := [i for i, prediction in said.items() if isinstance(prediction, UserError)]:
        said |= ask(unread)
    if unread := [i for i in unread if isinstance(said[i], UserError)]:
        pictures, number = named[unread[0]]
        reason = f"{pictures.name(number)}: {said[unread[0]]}"
        print(f"{len(unread)} pictures of {name} are left out, as they cannot be read: {reason}")
    return [None if isinstance(one, UserError) else one for one in said.values()]


def external_summary(rows: list[Row]) -> dict[str, float]:
    """Return metrics/external.json: means over rows, each of which counts as much as any other of its class, and
    controls not at all.

    What is confidently wrong is the mean of both classes' means: who always says the same gets a half. It is left out
    where a class is missing.
    """
    rows, means = [row for row in rows if not row["control"]], {}
    for name in ("auroc", "caught", "false_alarms"):
        if values := [row[name][0] for row in rows if row.get(name)]:
            means[f"{name}_elsewhere"] = fmean(values)
    wrong = [[row["confidently_wrong"][0] for row in rows if row["class"] == c] for c in CLASSES]
    if all(wrong):
        means = {"confidently_wrong_elsewhere": fmean(fmean(values) for values in wrong), **means}
    return {name: round(value, 6) for name, value in means.items()}


def plot_table(rows: list[Row]) -> str:
    """Return plots/external/sources.csv: what is confidently wrong, by source."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "confidently_wrong", "low", "high", "count"))
    for row in rows:
        writer.writerow((f"{row['dataset']}: {row['source']}", *row["confidently_wrong"], row["images"]))
    return text.getvalue()


if __name__ == "__main__":
    run(main)
