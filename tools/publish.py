"""Publish a run: write what it was and what it is worth as a record, metrics/published/<name>.json.

    make publish                the run of the work tree, after `dvc repro`; the name is <model>-seed<seed>
    make publish EXP=NAME       an experiment

The record has the parameters, all metrics, machine, versions, the commit whose code ran, a digest of that code, and
the indices of the test images that the detector got wrong. `make leaderboard` reads these records and nothing else.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from detector.errors import UserError, run
from detector.files import atomic_write
from tools.lockfile import check_results
from tools.record import PUBLISHED, AllMetrics, RunRecord
from tools.shell import check_up_to_date, command, find_experiment, head

CODE = ("stages", "detector", "dvc.yaml")  # what a run's numbers come from
VERSIONS = ("python", "torch", "timm")  # in metrics/train.json


def main() -> None:
    parser = argparse.ArgumentParser(prog="make publish", description="Write the record of a run.")
    parser.add_argument("experiment", nargs="?", help="its name in `dvc exp show`; without it, the work tree")
    name = parser.parse_args().experiment
    if name is None:
        check_up_to_date("card")
        changed = command("git", "status", "--porcelain", "--", *CODE)
        commit, read = head(), read_file
    else:
        commit, revision = find_experiment(name)
        changed = command("git", "diff", "--stat", commit, revision, "--", *CODE)

        def read(path: str) -> str:
            return command("git", "show", f"{revision}:{path}")

    if changed:
        raise UserError(f"{', '.join(CODE)} differ from commit {commit[:7]}: commit them and run it again")
    record = make_record(read, commit)
    if record.params["dataset"] != "cifake":
        raise UserError(f"the run was trained on {record.params['dataset']}: the leaderboard is of cifake")
    path = PUBLISHED / f"{name or f'{record.model}-seed{record.seed}'}.json"
    check_place(path, record)
    with atomic_write(path) as new:
        new.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
    print(f"{path}: {100 * record.test('accuracy'):.2f} % on the test split. Next: make leaderboard")


def read_file(path: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc repro` makes it") from None


def make_record(read: Callable[[str], str], commit: str) -> RunRecord:
    """Return the record of a run, from the files that `read` returns the text of. Raises UserError where they do not
    belong together."""
    code = check_results(read)
    params = YAML(typ="safe", pure=True).load(read("params.yaml"))
    model = params["model"]
    params["models"] = {model: params["models"][model]}
    metrics = {}
    for name, field in AllMetrics.model_fields.items():
        try:
            metrics[name] = json.loads(read(f"metrics/{name}.json"))
        except UserError:
            if field.is_required():
                raise
    if missing := [name for name in VERSIONS if name not in metrics["train"]]:
        raise UserError(f"metrics/train.json lacks {', '.join(missing)}: an earlier version of the code wrote it")
    mistakes = csv.DictReader(read("plots/test/mistakes.csv").splitlines())
    return RunRecord.make(
        commit=commit,
        code=code,
        machine=metrics["train"]["device"],
        versions={name: metrics["train"][name] for name in VERSIONS},
        params=params,
        metrics=metrics,
        mistakes=[int(row["index"]) for row in mistakes],
    )


def check_place(path: Path, record: RunRecord) -> None:
    """Raise UserError where another run has this name, or another name this run."""
    for other in PUBLISHED.glob("*.json"):
        earlier = RunRecord.read(other)
        is_same = (earlier.recipe, earlier.seed) == (record.recipe, record.seed)
        if other == path and not is_same:
            raise UserError(f"{path} is a run with other parameters: remove it, or give this experiment another name")
        if other != path and is_same:
            raise UserError(f"{other} is a run with the same parameters and seed: remove it first")


if __name__ == "__main__":
    run(main)
