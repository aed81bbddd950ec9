"""Write the table of published runs into README.md, from what `dvc exp show` says of their commits.

    make leaderboard

A run is published by a commit of its dvc.lock, metrics and plots whose message has the line `Published-run: <model>`.
Of runs with the same parameters but for the seed the table has the mean, and the standard deviation where there are
several.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from detector.errors import UserError, replacing, run
from stages.sweep import command

README = Path("README.md")
START, END = "<!-- leaderboard: written by `make leaderboard` -->", "<!-- end of leaderboard -->"
HEADER = [
    *("Model", "Accuracy", "AUROC", "FAKE recall", "REAL recall", "ECE", "Without leaked"),
    *("Training", "Hardware", "Seeds", "Commit"),
]
SHARES = ["accuracy", "fake_recall", "real_recall", "ece", "accuracy_without_leaked"]


def main() -> None:
    before, start, rest = README.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: the lines {START} and {END}")
    with replacing(README) as new:
        new.write_text(f"{before}{START}\n{table(published_runs())}\n{END}{after}")


def published_runs() -> list[dict[str, Any]]:
    """Parameters and metrics of each published run, flat, the newest of each model and seed."""
    commits = command("git", "log", "--grep", "^Published-run: ", "--format=%H").split()
    if not commits:
        raise UserError(
            "no commit has the line `Published-run: <model>`: the clone is shallow, or nothing is published"
        )
    dvc = str(Path(sys.executable).with_name("dvc"))
    runs: dict[Any, dict[str, Any]] = {}
    for commit in commits:
        shown = json.loads(command(dvc, "exp", "show", "--json", "--rev", commit, "--hide-workspace"))
        data = next(entry["data"] for entry in shown if entry["rev"] == commit)
        params = data["params"]["params.yaml"]["data"]
        train, test = (data["metrics"][f"metrics/{name}.json"]["data"] for name in ("train", "test"))
        choices = {key: params[key] for key in ("model", "dataset", "train")}
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
        scale, unit, digits = (100, " %", 2) if name in SHARES else (1, "", 4)
        values = [scale * one[name] for one in group]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{spread}{unit}"

    names = ["accuracy", "auroc", "fake_recall", "real_recall", "ece", "accuracy_without_leaked"]
    minutes = fmean(one["seconds"] for one in group) / 60
    return [
        group[0]["model"],
        *(number(name) for name in names),
        f"{minutes:.0f} min",
        ", ".join(sorted({one["device"] for one in group})),
        ", ".join(str(one["seed"]) for one in group),
        ", ".join(f"`{one['commit']}`" for one in group),
    ]


if __name__ == "__main__":
    run(main)
