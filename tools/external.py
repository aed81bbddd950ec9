"""Measure a released model on the data sets of `evaluate.external`, and write it into the record of its run.

    dvc pull models/resnet18
    python -m tools.external models/resnet18 resnet18-seed0     then: make leaderboard

It is for runs that were published before the stage `external` was there, or before a data set was: `make publish`
writes the same for the run of the work tree.
"""

import argparse
import json
from pathlib import Path

from detector import Detector
from detector.errors import UserError, run
from detector.files import atomic_write
from stages.external.__main__ import external_rows, external_summary
from stages.params import load_params
from tools.record import PUBLISHED, RunRecord


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.external", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the folder of an exported model")
    parser.add_argument("name", help="of its record in metrics/published, without .json")
    arguments = parser.parse_args()
    path = PUBLISHED / f"{arguments.name}.json"
    if not path.exists():
        raise UserError(f"{path} does not exist: metrics/published has the names")
    published, detector = RunRecord.read(path), Detector.load(arguments.model)
    of_model = (detector.record.model, detector.record.seed, detector.record.test["accuracy"])
    if of_model != (published.model, published.seed, published.test("accuracy")):
        raise UserError(
            f"{arguments.model} is not the model of {path}: {of_model[0]}, seed {of_model[1]}, test accuracy "
            f"{of_model[2]} there"
        )
    rows = external_rows(detector, load_params())
    summary = external_summary(rows)
    metrics = published.metrics.model_dump() | {"external": summary, "external_sources": rows}
    record = RunRecord.make(**published.model_dump() | {"metrics": metrics})
    with atomic_write(path) as new:
        new.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
    print(", ".join(f"{name} {value:.4f}" for name, value in summary.items()))


if __name__ == "__main__":
    run(main)
