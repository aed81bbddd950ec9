"""Write the table of published runs into README.md, from the records in metrics/published.

    make leaderboard

Runs with the same parameters but for the seed share a row: the mean, and the standard deviation where there are
several. Runs of the same seed are compared image by image with McNemar's exact test (1947), which asks whether the
images that only one of two detectors gets right are shared out evenly.
"""

import argparse
from collections import Counter
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import binomtest

from detector.errors import UserError, run
from detector.files import atomic_write
from tools.record import PUBLISHED, RunRecord

README = Path("README.md")
START, END = "<!-- leaderboard: written by `make leaderboard` -->", "<!-- end of leaderboard -->"
COLUMNS = {  # metrics/test.json: heading
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "fake_recall": "FAKE recall",
    "real_recall": "REAL recall",
    "ece": "ECE",
    "accuracy_without_leaked": "Without leaked",
    "corrupted_accuracy": "Corrupted",
}
HEADER = ["Model", *COLUMNS.values(), "Training", "Seeds", "Commit"]


def main() -> None:
    argparse.ArgumentParser(prog="make leaderboard", description=__doc__.partition("\n")[0]).parse_args()
    before, start, rest = README.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: the lines {START} and {END}")
    runs = published_runs()
    written = "\n\n".join([markdown(leaderboard(runs)), *comparisons(runs)])
    with atomic_write(README) as new:
        new.write_text(f"{before}{START}\n{written}\n{END}{after}")


def published_runs() -> list[RunRecord]:
    """Return the records, those of one recipe side by side and by seed. Raises UserError where there is none."""
    runs = [RunRecord.read(path) for path in sorted(PUBLISHED.glob("*.json"))]
    if not runs:
        raise UserError(f"{PUBLISHED} has no record: `make publish` writes one")
    return sorted(runs, key=lambda record: (record.recipe, record.seed))


def leaderboard(runs: list[RunRecord]) -> list[list[str]]:
    """Return the header and a row for each recipe, the most accurate first."""
    groups = [list(group) for _, group in groupby(runs, key=lambda record: record.recipe)]
    groups.sort(key=lambda group: -fmean(float(record.metrics.test["accuracy"]) for record in group))
    return [HEADER, *(row(group) for group in groups)]


def markdown(rows: list[list[str]]) -> str:
    header, *others = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *others])


def row(group: list[RunRecord]) -> list[str]:
    def number(name: str) -> str:
        if any(name not in record.metrics.test for record in group):
            return "-"  # published before it was measured
        scale, unit, digits = (1, "", 4) if name == "auroc" else (100, " %", 2)
        values = [scale * float(record.metrics.test[name]) for record in group]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{spread}{unit}"

    seconds: dict[str, list[float]] = {}
    for record in group:
        seconds.setdefault(record.machine, []).append(record.metrics.train["seconds"])
    return [
        group[0].model,
        *(number(name) for name in COLUMNS),
        "; ".join(f"{fmean(times) / 60:.0f} min, {machine}" for machine, times in seconds.items()),
        ", ".join(str(record.seed) for record in group),
        ", ".join(f"`{record.commit[:7]}`" for record in group),
    ]


def comparisons(runs: list[RunRecord]) -> list[str]:
    """Return a table with a row for each two recipes and a column for each seed, from their mistakes."""
    recipes = {record.recipe: record.model for record in runs}
    wrong = {(record.recipe, record.seed): set(record.mistakes) for record in runs}
    pairs = list(combinations(sorted(recipes, key=lambda recipe: (recipes[recipe], recipe)), 2))
    counts = Counter(record.seed for record in runs)
    seeds = sorted(seed for seed, count in counts.items() if count > 1)
    if not seeds:
        return []
    rows = [["Images only one gets right", *(f"Seed {seed}" for seed in seeds)]]
    for first, second in pairs:
        both = [seed for seed in seeds if {(first, seed), (second, seed)} <= wrong.keys()]
        cells = [mcnemar(wrong[first, seed], wrong[second, seed]) if seed in both else "-" for seed in seeds]
        rows.append([f"{recipes[first]} : {recipes[second]}", *cells])
    return ["McNemar's exact test, image by image:", markdown(rows)]


def mcnemar(first_wrong: set[int], second_wrong: set[int]) -> str:
    """Return how many images only the first gets right, how many only the second, and the p-value."""
    first, second = len(second_wrong - first_wrong), len(first_wrong - second_wrong)
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return f"{first} : {second} (p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'})"


if __name__ == "__main__":
    run(main)
