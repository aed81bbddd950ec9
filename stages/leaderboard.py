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
HEADER = ["Model", *COLUMNS.values(), "Training", "Hardware", "Seeds", "Commit"]


def main() -> None:
    before, start, rest = README.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: the lines {START} and {END}")
    runs = published_runs()
    written = "\n\n".join([table(runs), *comparisons(runs)])
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
    return sorted(runs.values(), key=lambda one: one["choices"])


def table(runs: list[dict[str, Any]]) -> str:
    """The Markdown table, the most accurate model first."""
    groups = [list(group) for _, group in groupby(runs, key=lambda one: one["choices"])]
    groups.sort(key=lambda group: -fmean(one["accuracy"] for one in group))
    lines = [HEADER, ["---"] * len(HEADER), *(row(group) for group in groups)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(group: list[dict[str, Any]]) -> list[str]:
    def number(name: str) -> str:
        if any(name not in one for one in group):
            return "-"  # published before it was measured
        scale, unit, digits = (1, "", 4) if name == "auroc" else (100, " %", 2)
        values = [scale * one[name] for one in group]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{spread}{unit}"

    minutes = fmean(one["seconds"] for one in group) / 60
    return [
        group[0]["model"],
        *(number(name) for name in COLUMNS),
        f"{minutes:.0f} min",
        ", ".join(sorted({one["device"] for one in group})),
        ", ".join(str(one["seed"]) for one in group),
        ", ".join(f"`{one['commit']}`" for one in group),
    ]


def comparisons(runs: list[dict[str, Any]]) -> list[str]:
    """A line for each two published models with the same seed, from the mistakes that their commits list."""
    wrong: dict[tuple[str, int], set[str]] = {}
    for one in runs:
        if command("git", "ls-tree", one["commit"], MISTAKES):
            lines = command("git", "show", f"{one['commit']}:{MISTAKES}").splitlines()[1:]
            wrong[one["model"], one["seed"]] = {line.split(",")[0] for line in lines}
    lines = []
    for (first, seed), (second, other_seed) in combinations(sorted(wrong), 2):
        if first != second and seed == other_seed:
            mine, theirs = len(wrong[second, seed] - wrong[first, seed]), len(wrong[first, seed] - wrong[second, seed])
            p = binomtest(mine, mine + theirs).pvalue if mine + theirs else 1.0
            lines.append(
                f"McNemar, seed {seed}: {mine} test images are right with {first} alone, {theirs} with {second} alone "
                f"(p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'})."
            )
    return lines


if __name__ == "__main__":
    run(main)
