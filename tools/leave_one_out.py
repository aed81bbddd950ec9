"""Train without each source of fakes in turn, and measure how many of its images the detector still catches.

What a detector is worth on fakes of a generator that it has never seen is measured on those: each of a data set's
sources of FAKE images is kept out of training and validation once (datasets.<name>.leave_out), and one more detector
is trained with all of them. All are measured on the same test split. The experiments go through DVC's queue.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.labels import FAKE, REAL
from stages.keeping import check_can_be_kept
from stages.leftovers import tidy
from stages.params import dataset_entry, load_params
from stages.prepare.sources import Pictures, open_source
from tools.machines import Run, grid
from tools.publish import find_experiment
from tools.shell import command
from tools.sweep import add_jobs, queue, run_queue, warn_of_untracked

RESULTS = Path("metrics/leave_one_out")
HEADINGS = {
    "left_out": "Left out",
    "auroc": "AUROC",
    "recall": "Caught (95 %)",
    "auroc_with": "AUROC, trained with it",
    "recall_with": "Caught, trained with it (95 %)",
    "accuracy_on_the_rest": "Accuracy on the rest",
    "experiment": "Experiment",
}
EXAMPLES = """examples:
  python -m tools.leave_one_out several -S model=quick
  python -m tools.leave_one_out several --jobs 2 -S model=quick -S seed=1
  python -m tools.leave_one_out several --experiments silky-bots dozen-gird oaten-tier   # the table of what has run
"""


def main() -> None:
    arguments = parse()
    params = load_params()
    if arguments.experiments:
        names = arguments.experiments
    else:
        check_can_be_kept(Path())
        tidy()
        sources = fake_sources(arguments.dataset, dataset_entry(params | {"dataset": arguments.dataset}))
        warn_of_untracked()
        names = run_queue(queue_all(arguments.dataset, sources, arguments.set_param), arguments.jobs)
    rows = table([read_experiment(name, arguments.dataset) for name in names])
    path = RESULTS / f"{arguments.dataset}.json"
    with atomic_write(path) as new:
        new.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\n{markdown(rows)}\n\n{path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.leave_one_out",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="an entry of `datasets` in params.yaml with two sources of FAKE images or more")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter of all these runs, one value each, as for `dvc exp run -S`",
    )
    parser.add_argument(
        "--experiments", nargs="+", metavar="NAME", help="train nothing: make the table of these, which have run"
    )
    add_jobs(parser)
    return parser.parse_args()


def fake_sources(name: str, entry: dict[str, Any]) -> list[str]:
    """Return the sources of FAKE images of an entry of `datasets`. Raises UserError where there are fewer than two, and
    where a run without one of them would fail, or could not be measured."""
    _, splits = open_source(name, entry)

    def sources(pictures: Pictures, label: int) -> set[str]:
        return {pictures.source_names[number] for number in np.unique(pictures.sources[pictures.labels == label])}

    fakes = {split: sources(pictures, FAKE) for split, pictures in splits.items()}
    of_fakes = set().union(*fakes.values())
    if len(of_fakes) < 2:
        raise UserError(
            f"datasets.{name} has one source of FAKE images, {', '.join(of_fakes)}: to leave one out takes two. Does "
            f"datasets.{name}.source say what a source is?"
        )
    of_photographs = set().union(*(sources(pictures, REAL) for pictures in splits.values()))
    if both := ", ".join(sorted(of_fakes & of_photographs)):
        raise UserError(f"datasets.{name}: {both} has images of both classes: give its photographs another source")
    if missing := ", ".join(sorted(of_fakes - fakes.get("test", of_fakes))):
        raise UserError(f"datasets.{name}: its test split has no images of {missing} to measure with: move some there")
    for split in ("train", "val"):
        if len(fakes.get(split, of_fakes)) == 1:
            (last,) = fakes[split]
            raise UserError(
                f"datasets.{name}: without {last} its {split} split has no FAKE images: move some of others there"
            )
    return sorted(of_fakes)


def queue_all(dataset: str, sources: list[str], overrides: list[str]) -> dict[str, Run]:
    """Queue a run without each source, and one with all. Return {name: run}."""
    runs: list[Run] = []
    for left_out in ([], *([source] for source in sources)):
        quoted = ",".join("'" + source.replace("\\", "\\\\").replace("'", "\\'") + "'" for source in left_out)
        # ++: whether the entry has the key or not
        mine = [f"dataset={dataset}", f"++datasets.{dataset}.leave_out=[{quoted}]"]
        one = grid([*mine, *overrides])
        if len(one) != 1:
            raise UserError(f"-S {' -S '.join(overrides)} makes a grid of {len(one)} runs: give one value each")
        runs += one
    return queue(runs)


def read_experiment(name: str, dataset: str) -> dict[str, Any]:
    """Return of an experiment that has run: its name, the source that was left out ("" none), metrics/test.json, and
    all other parameters."""
    _, revision = find_experiment(name)
    params = YAML(typ="safe", pure=True).load(command("git", "show", f"{revision}:params.yaml"))
    test = json.loads(command("git", "show", f"{revision}:metrics/test.json"))
    left_out = params["datasets"].get(dataset, {}).get("leave_out", [])
    if params["dataset"] != dataset or len(left_out) > 1 or "sources" not in test:
        raise UserError(f"experiment {name} was not trained on {dataset} without one source, or with all of them")
    if unknown := [source for source in left_out if "auroc" not in test["sources"].get(source, {})]:
        raise UserError(f"experiment {name}: its test split has no images of {unknown[0]}, or some of both classes")
    params["datasets"][dataset]["leave_out"] = None
    return {"experiment": name, "left_out": "".join(left_out), "test": test, "params": params}


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each source that was left out: what became of its images, without it and with it, and the
    accuracy on the images of all other sources. The first row is the run with all. Shares are 0 to 1."""
    with_all = [one for one in runs if not one["left_out"]]
    if len(with_all) != 1:
        raise UserError(f"{len(with_all)} of the experiments were trained with all sources: it must be one")
    for one in runs:
        if one["params"] != with_all[0]["params"]:
            names = f"{one['experiment']} and {with_all[0]['experiment']}"
            raise UserError(f"{names} differ in more parameters than the source that is left out: `make compare`")
    accuracy = with_all[0]["test"]["accuracy"]
    rows = [{"left_out": "", "accuracy": accuracy, "experiment": with_all[0]["experiment"]}]
    for one in sorted(runs, key=lambda one: one["left_out"]):
        if source := one["left_out"]:
            without, trained_with = one["test"]["sources"][source], with_all[0]["test"]["sources"][source]
            rest = [numbers for name, numbers in one["test"]["sources"].items() if name != source]
            right = sum(numbers["images"] * numbers["recall"] for numbers in rest)
            rows.append(
                {
                    "left_out": source,
                    **without,
                    **{f"{key}_with": value for key, value in trained_with.items() if key != "images"},
                    "accuracy_on_the_rest": round(right / sum(numbers["images"] for numbers in rest), 6),
                    "experiment": one["experiment"],
                }
            )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    def share(row: dict[str, Any], end: str) -> str:
        numbers = [100 * row[f"{key}{end}"] for key in ("recall", "low", "high")]
        return "{:.1f} % ({:.1f} to {:.1f})".format(*numbers)

    lines = [f"| {' | '.join(HEADINGS.values())} |", "| --- " * len(HEADINGS) + "|"]
    for row in rows:
        if row["left_out"]:
            cells = [row["left_out"], f"{row['auroc']:.4f}", share(row, ""), f"{row['auroc_with']:.4f}"]
            cells += [share(row, "_with"), f"{100 * row['accuracy_on_the_rest']:.2f} %", row["experiment"]]
        else:
            cells = ["none", "", "", "", "", f"{100 * row['accuracy']:.2f} % (of all)", row["experiment"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
