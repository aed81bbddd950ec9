"""Write the table of published runs into README.md, from what `dvc exp show` says of their commits.

    make leaderboard

A run is published by a commit of its dvc.lock, metrics and plots whose message has the line `Published-run: <model>`.
Of runs with the same parameters but for the seed the table has the mean, and the standard deviation where there are
several. Runs of the same seed are compared image by image with McNemar's exact test (1947), which asks whether the
images that only one of two detectors gets right are shared out evenly.
"""

import json
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import binomtest

from detector.errors import UserError, replacing, run
from stages.sweep import DVC, command

README = Path("README.md")
MISTAKES = "plots/test/mistakes.csv"
START, END = "<!-- leaderboard: written by `make leaderboard` -->", "<!-- end of leaderboard -->"
COLUMNS = {  # metrics/test.json: heading
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "fake_recall": "FAKE recall",
    "real_recall": "REAL recall",
    "ece": "ECE",
    "accuracy_without_leaked": "Without leaked",
    "corrupted_accuracy": "Damaged",
}
HEADER = ["Model", *COLUMNS.values(), "Training", "Seeds", "Commit"]


def main() -> None:
    before, start, rest = README.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: the lines {START} and {END}")
    runs = published_runs()
    written = "\n\n".join([markdown(leaderboard(runs)), *comparisons(runs)])
    with replacing(README) as new:
        new.write_text(f"{before}{START}\n{written}\n{END}{after}")


def published_runs() -> list[dict[str, Any]]:
    """Parameters and metrics of each published run, flat, the newest of each model and seed."""
    commits = command("git", "log", "--grep", "^Published-run: ", "--format=%H").split()
    if not commits:
        raise UserError(
            "no commit has the line `Published-run: <model>`: the clone is shallow, or nothing is published"
        )
    runs: dict[Any, dict[str, Any]] = {}
    for commit in commits:
        shown = json.loads(command(DVC, "exp", "show", "--json", "--rev", commit, "--hide-workspace"))
        data = next(entry["data"] for entry in shown if entry["rev"] == commit)
        params = data["params"]["params.yaml"]["data"]
        train, test = (data["metrics"][f"metrics/{name}.json"]["data"] for name in ("train", "test"))
        choices = {key: params[key] for key in ("model", "dataset", "prepare", "train", "evaluate")}
        choices["entry"] = params["models"][params["model"]]
        one = {"choices": json.dumps(choices, sort_keys=True), "model": params["model"], "commit": commit[:7]}
        runs.setdefault((params["model"], params["seed"]), one | {"seed": params["seed"]} | train | test)
    return sorted(runs.values(), key=lambda one: (one["choices"], one["seed"]))


def leaderboard(runs: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each model, the most accurate first."""
    groups = [list(group) for _, group in groupby(runs, key=lambda one: one["choices"])]
    groups.sort(key=lambda group: -fmean(one["accuracy"] for one in group))
    return [HEADER, *(row(group) for group in groups)]


def markdown(rows: list[list[str]]) -> str:
    header, *others = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *others])


def row(group: list[dict[str, Any]]) -> list[str]:
    def number(name: str) -> str:
        if any(name not in one for one in group):
            return "-"  # published before it was measured
        scale, unit, digits = (1, "", 4) if name == "auroc" else (100, " %", 2)
        values = [scale * one[name] for one in group]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{spread}{unit}"

    seconds: dict[str, list[float]] = {}
    for one in group:
        seconds.setdefault(one["device"], []).append(one["seconds"])
    return [
        group[0]["model"],
        *(number(name) for name in COLUMNS),
        "; ".join(f"{fmean(times) / 60:.0f} min, {device}" for device, times in seconds.items()),
        ", ".join(str(one["seed"]) for one in group),
        ", ".join(f"`{one['commit']}`" for one in group),
    ]


def comparisons(runs: list[dict[str, Any]]) -> list[str]:
    """A table with a row for each two published models and a column for each seed, from their lists of mistakes."""
    wrong: dict[str, dict[int, set[str]]] = {}
    for one in runs:
        if command("git", "ls-tree", one["commit"], MISTAKES):
            lines = command("git", "show", f"{one['commit']}:{MISTAKES}").splitlines()[1:]
            wrong.setdefault(one["model"], {})[one["seed"]] = {line.split(",")[0] for line in lines}
    pairs = list(combinations(sorted(wrong), 2))
    seeds = sorted({seed for first, second in pairs for seed in wrong[first].keys() & wrong[second].keys()})
    if not seeds:
        return []
    rows = [["Images only one gets right", *(f"Seed {seed}" for seed in seeds)]]
    for first, second in pairs:
        both = wrong[first].keys() & wrong[second].keys()
        cells = [mcnemar(wrong[first][seed], wrong[second][seed]) if seed in both else "-" for seed in seeds]
        rows.append([f"{first} : {second}", *cells])
    return ["McNemar's exact test, image by image:", markdown(rows)]


def mcnemar(first_wrong: set[str], second_wrong: set[str]) -> str:
    """How many images only the first gets right, how many only the second, and the p-value."""
    first, second = len(second_wrong - first_wrong), len(first_wrong - second_wrong)
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return f"{first} : {second} (p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'})"


if __name__ == "__main__":
    run(main)
