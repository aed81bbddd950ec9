"""Write the tables of published runs into README.md and docs/leaderboard.md, from the records in metrics/published.

    make leaderboard

Runs with the same parameters but for the seed share a row: the mean, and the standard deviation where there are
several. Runs of the same seed are compared image by image.
"""

import argparse
import json
import math
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.labels import CLASSES
from tools.paired import compare_pairs, holm
from tools.record import PUBLISHED, Metrics, RunRecord

README, PAGE = Path("README.md"), Path("docs/leaderboard.md")
LATENCY = Path("benchmarks/results/latency.json")  # what benchmarks.latency measured of the released models
START, END = "<!-- leaderboard: written by `make leaderboard` -->", "<!-- end of leaderboard -->"
# The README's columns: heading by the key in metrics/test.json, or in metrics/external.json
SHORT = {
    "accuracy": "Test accuracy",
    "confidently_wrong_elsewhere": "Wrong elsewhere",
    "corrupted_accuracy": "Corrupted",
}
LONG = {  # metrics/test.json: heading
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "fake_recall": "FAKE recall",
    "real_recall": "REAL recall",
    "tpr_at_1_fpr": "TPR at 1 % FPR",
    "ece": "ECE",
    "coverage": "Coverage",
    "selective_accuracy": "Selective accuracy",
    "accuracy_without_leaked": "Without leaked",
    "corrupted_accuracy": "Corrupted",
    "rescaled_accuracy": "Rescaled",
    "confidently_wrong_elsewhere": "Confidently wrong elsewhere",
}
ELSEWHERE = {  # metrics/external_sources.json: heading
    "auroc": "AUROC",
    "caught": "caught",
    "false_alarms": "called FAKE",
    "coverage": "answered",
    "out_of_distribution": "out of distribution",
    "confidently_wrong": "confidently wrong",
}

WRONG = "confidently_wrong_elsewhere"
Table = list[list[str]]  # the first row is the header


def main() -> None:
    argparse.ArgumentParser(prog="make leaderboard", description=__doc__.partition("\n")[0]).parse_args()
    before, start, rest = README.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: the lines {START} and {END}")
    runs = published_runs()
    groups = [list(group) for _, group in groupby(runs, key=lambda record: record.recipe)]
    groups.sort(key=lambda group: -fmean(record.test("accuracy") for record in group))
    with atomic_write(README) as new_readme, atomic_write(PAGE) as new_page:
        new_readme.write_text(f"{before}{START}\n{markdown(short_table(groups))}\n{END}{after}")
        new_page.write_text(page(groups, runs))


def published_runs() -> list[RunRecord]:
    """Return the records, those of one recipe side by side and by seed. Raises UserError where there is none."""
    runs = [RunRecord.read(path) for path in sorted(PUBLISHED.glob("*.json"))]
    if not runs:
        raise UserError(f"{PUBLISHED} has no record: `make publish` writes one")
    if len({record.metrics.prepare["digest"] for record in runs}) > 1:
        raise UserError(f"{PUBLISHED} has runs of different data (metrics.prepare.digest): none can be compared")
    return sorted(runs, key=lambda record: (record.recipe, record.seed))


def short_table(groups: list[list[RunRecord]]) -> Table:
    """Return the README's table, a row for each recipe."""
    rows = [["Model", *SHORT.values(), "Parameters", "Training time"]]
    for group in groups:
        parameters = group[0].metrics.train["parameters"] / 1e6
        minutes = sorted({round(record.metrics.train["seconds"] / 60) for record in group})
        time = " to ".join(str(number) for number in dict.fromkeys((minutes[0], minutes[-1])))
        cells = [mean(group, name) for name in SHORT]
        rows.append([group[0].model, *cells, f"{parameters:.1f} million", f"{time} min"])
    return rows


def page(groups: list[list[RunRecord]], runs: list[RunRecord]) -> str:
    """Return docs/leaderboard.md: all metrics of each recipe, each run, and all pairs compared."""
    metrics = [["", *(group[0].model for group in groups)]]
    metrics += [
        [heading, *(f"{mean(group, name)}{interval(group, name)}" for group in groups)]
        for name, heading in LONG.items()
    ]
    rows = [["Model", "Seed", "Accuracy", "Wrong elsewhere", "Minutes", "On", "Commit"]]
    for record in (record for group in groups for record in group):
        versions = [f"{name} {version}" for name, version in record.versions.items()]
        rows.append(
            [
                record.model,
                str(record.seed),
                f"{100 * record.test('accuracy'):.3f} %{interval([record], 'accuracy')}",
                mean([record], WRONG),
                f"{record.metrics.train['seconds'] / 60:.0f}",
                ", ".join([record.machine, record.metrics.train["precision"], *versions]),
                f"`{record.commit[:7]}`",
            ]
        )
    parts = [
        "# Leaderboard",
        "`make leaderboard` writes this page from the records of published runs, `metrics/published/`. "
        "[Every metric is explained](reference/metrics.md). ±: standard deviation over the seeds. In brackets: the "
        "95 % interval of one run's value, of the drawing of test images alone (Wilson; of AUROC DeLong), its ends "
        "averaged over the seeds; TPR at 1 % FPR has none, as its threshold is read off test images too.",
        "## Metrics on the test split",
        markdown(metrics),
        "## Recall by source",
        "Share of the test images of a source that is put into their class: mean over the seeds, and the 95 % interval "
        "(Wilson), its ends averaged.",
        markdown(recall_by_source(groups)),
        *elsewhere(groups),
        "## How they were trained",
        "`dvc exp run -S model=NAME -S seed=SEED` trains a run anew, with `-S train.augment.corruption=0` where no "
        "image is corrupted, and scores each test image (`metrics/test_scores.parquet`); `params.yaml` has what is "
        "not said here. Of the runs below git keeps all metrics and which test images they get wrong, in "
        "`metrics/published/`, and the released models.",
        markdown(training(groups)),
        *asking(),
        "## Runs",
        markdown(rows),
        *comparisons(runs),
    ]
    return "\n\n".join(parts) + "\n"


def recall_by_source(groups: list[list[RunRecord]]) -> Table:
    """Return a row for each source of the test images; of both classes where each has one source."""
    of_models = [[sources_of(record) for record in group] for group in groups]
    names = list(dict.fromkeys(name for group in of_models for sources in group for name in sources))
    rows = [["", *(group[0].model for group in groups)]]
    for name in names:
        cells = [name]
        for group in of_models:
            found = [sources[name] for sources in group if name in sources]
            if not found:
                cells.append("-")
                continue
            recall, low, high = (100 * fmean(numbers) for numbers in zip(*found, strict=True))
            cells.append(f"{recall:.2f} % ({low:.2f} to {high:.2f})")
        rows.append(cells)
    return rows


def sources_of(record: RunRecord) -> dict[str, tuple[float, float, float]]:
    """Return the recall of each source of a run's test images, and the ends of its interval."""
    sources = record.metrics.test.get("sources")
    if isinstance(sources, dict):
        return {name: (numbers["recall"], numbers["low"], numbers["high"]) for name, numbers in sources.items()}
    keys = {name: f"{name.lower()}_recall" for name in CLASSES}
    return {name: (record.test(key), *ends) for name, key in keys.items() if (ends := record.interval(key))}


def training(groups: list[list[RunRecord]]) -> Table:
    """Return what a reader has to know of each recipe before comparing its numbers with another's."""
    titles = ["Network, of timm", "Parameters", "Starts from", "Sees the images at", "Epochs, of them on crops"]
    columns = [["", *titles, "Corrupted in training"]]
    for first, *_ in groups:
        params, train = first.params, first.metrics.train
        corruption, (network,) = params["train"]["augment"]["corruption"], params["models"].values()
        columns.append(
            [
                first.model,
                f"`{network['timm']}`",
                f"{train['parameters']:,}",
                "ImageNet weights" if network["pretrained"] else "random weights",
                f"{network.get('input_size') or params['datasets'][params['dataset']]['image_size']} px",
                f"{network['epochs']}, {math.ceil(network['crop_epochs'] * network['epochs'])}",
                f"{100 * corruption:.0f} % of the images" if corruption else "none",
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def elsewhere(groups: list[list[RunRecord]]) -> list[str]:
    """Return a section about the data sets that training never sees, where a run was measured on them."""
    found: dict[tuple[str, str], dict[int, list[Any]]] = {}  # by row and column: [value, low, high] of each seed
    for column, group in enumerate(groups):
        for record in group:
            for source in record.metrics.external_sources or []:
                for key, heading in ELSEWHERE.items():
                    if numbers := source.get(key):
                        found.setdefault((source_title(source), heading), {}).setdefault(column, []).append(numbers)
    if not found:
        return []
    rows = [["", "", *(group[0].model for group in groups)]]
    before = ""
    for (name, heading), by_column in found.items():
        cells = [cell_elsewhere(by_column.get(column, []), heading) for column in range(len(groups))]
        rows.append([name if name != before else "", heading, *cells])
        before = name
    text = (
        "Data sets that training never sees (`evaluate.external`), answered as people's pictures are. AUROC: of a "
        "source of fakes against the photographs of the same data set, which went the same way. Confidently wrong: the "
        "wrong verdict, not UNSURE, and not called out of distribution. ±: standard deviation over the seeds. In "
        "brackets the 95 % interval of one run's value, its ends averaged over the seeds; the sample's is by "
        "photograph, and of its three photographs rather the range. A *control* is of the training data's kind, for "
        "the AUROC of the fakes beside it, and no mean counts it."
    )
    return ["## Elsewhere", text, markdown(rows)]


def source_title(source: Metrics) -> str:
    """Return what a row of metrics/external_sources.json is called."""
    return f"{source['dataset']}: {source['source']}{' (control)' if source.get('control') else ''}"


def cell_elsewhere(seeds: list[list[float]], heading: str) -> str:
    if not seeds:
        return "-"  # published before it was measured
    scale, unit, digits = (1, "", 3) if heading == "AUROC" else (100, " %", 1)
    values, lows, highs = ([scale * number for number in numbers] for numbers in zip(*seeds, strict=True))
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{unit} ({fmean(lows):.{digits}f} to {fmean(highs):.{digits}f})"


def asking() -> list[str]:
    """Return a section about the size and the speed of the released models, where they are measured."""
    if not LATENCY.exists():
        return []
    try:
        measured = json.loads(LATENCY.read_text())
    except json.JSONDecodeError:
        raise UserError(f"{LATENCY} is no JSON: `python -m benchmarks.latency > {LATENCY}` makes it anew") from None
    rows = [["Released model", "MB", "ms a picture", "Pictures/s, 64 at a time", "First answer, from the shell"]]
    for name, one in measured["models"].items():
        numbers = (one["megabytes"], one["milliseconds"], one["pictures_per_second"])
        rows.append([name, *(f"{number:g}" for number in numbers), f"{one['first_answer_seconds']:g} s"])
    text = (
        f"`python -m benchmarks.latency`, the sample's test images as JPEG files, {measured['machine']}, onnxruntime "
        f"{measured['onnxruntime']}, {measured['date']}."
    )
    return ["## Asking", text, markdown(rows)]


def markdown(rows: Table) -> str:
    header, *others = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *others])


def scale_of(name: str) -> tuple[int, str, int]:
    """Return by what a metric is multiplied to be shown, its unit, and how many digits it has then."""
    return (1, "", 4) if name in ("auroc", "average_precision") else (100, " %", 2)


def interval(group: list[RunRecord], name: str) -> str:
    """Return the ends of a metric's interval, averaged over runs, in brackets; nothing where one has none."""
    scale, _, digits = scale_of(name)
    ends = [found for record in group if (found := record.interval(name))]
    if not ends or len(ends) < len(group):
        return ""
    low, high = (scale * fmean(numbers) for numbers in zip(*ends, strict=True))
    return f" ({low:.{digits}f} to {high:.{digits}f})"


def mean(group: list[RunRecord], name: str) -> str:
    """Return the mean of a metric over runs, and its standard deviation where there are several. Of those of the test
    split every run has the metric, or none counts; elsewhere those count that were measured."""
    scale, unit, digits = scale_of(name)
    if name == WRONG:
        digits = 1
        values = [scale * measured[name] for record in group if name in (measured := record.metrics.external or {})]
    else:
        values = [scale * record.test(name) for record in group if name in record.metrics.test]
        values = values if len(values) == len(group) else []
    if not values:
        return "-"  # not measured: published before, or elsewhere without fakes or photographs
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{unit}"


def comparisons(runs: list[RunRecord]) -> list[str]:
    """Return a section with a row for each two recipes and a column for each seed, from their mistakes."""
    rows, p_values = compare_pairs(runs)
    if not p_values:
        return []
    text = (
        "How many images only the first of two detectors gets right, how many only the second, and the p-value of "
        f"McNemar's exact test. Of these {len(p_values)} tests {holm(p_values)} hold together at 5 %, those with the "
        "lowest p-values (Holm)."
    )
    return ["## Image by image", text, markdown(rows)]


if __name__ == "__main__":
    run(main)
