"""A data set in, packed splits out: data/{train,val,test}.safetensors and metrics/prepare.json.

dvc repro prepare
python -m stages.prepare        the same without DVC
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detector.errors import UserError, run
from detector.files import atomic_write
from stages.params import load_params
from stages.prepare.decoding import decode_split
from stages.prepare.packing import write_split
from stages.prepare.report import data_report, print_summary, print_warnings
from stages.prepare.sources import open_source
from stages.prepare.validation import validation_mask


def main() -> None:
    params = load_params()
    dataset, choices = params["dataset"], params["prepare"]
    check_choices(dataset, choices)
    kind, encoded = open_source(dataset, choices["revision"])

    count = sum(len(split.names) for split in encoded.values())
    with tqdm(total=count, desc="decode", unit=" images", unit_scale=True, disable=None) as bar:
        train = decode_split(encoded.pop("train"), bar)
        test = decode_split(encoded.pop("test"), bar)

    in_val = validation_mask(train, choices["val_fraction"], choices["seed"])
    leaked = np.isin(test.hashes, train.hashes)
    report = data_report(dataset, train, test, in_val, leaked)

    # All four are written before the first takes its place: a full disk leaves the earlier ones as they were.
    with contextlib.ExitStack() as stack:

        def out(path: str) -> Path:
            return stack.enter_context(atomic_write(path))

        write_split(out("data/train.safetensors"), dataset, "train", train, ~in_val)
        write_split(out("data/val.safetensors"), dataset, "val", train, in_val)
        write_split(out("data/test.safetensors"), dataset, "test", test, np.ones(len(leaked), bool), leaked)
        out("metrics/prepare.json").write_text(json.dumps(report, indent=2) + "\n")
    print_summary(kind, report)
    print_warnings(dataset, report)


def check_choices(dataset: object, choices: dict[str, Any]) -> None:
    if dataset not in ("cifake", "sample"):
        raise UserError(f"dataset is {dataset!r} in params.yaml; it can be cifake or sample")
    fraction, seed = choices["val_fraction"], choices["seed"]
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"prepare.val_fraction is {fraction!r} in params.yaml; it must lie between 0 and 1")
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"prepare.seed is {seed!r} in params.yaml; it must be an integer, 0 or more")


if __name__ == "__main__":
    run(main)
