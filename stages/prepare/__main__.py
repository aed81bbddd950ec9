"""A data set in, packed splits out: data/train, data/val, data/test, metrics/prepare.json and plots/data.

    dvc repro prepare
    python -m stages.prepare        the same without DVC

It reports what a researcher should know before training: damaged and doubled pictures, and traits of the files that
tell the classes apart without a look at what they show.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detector.errors import UserError, run
from detector.files import atomic_write, check_space
from detector.labels import CLASSES, FAKE
from stages.params import dataset_entry, load_params
from stages.prepare.decoding import Decoded, decode_split
from stages.prepare.near_duplicates import near_duplicates
from stages.prepare.packing import pack
from stages.prepare.report import data_report, print_summary, print_warnings, write_plots
from stages.prepare.shortcuts import shortcuts
from stages.prepare.sources import open_source
from stages.prepare.splitting import cut_off, group_ids, links_of


def main() -> None:
    params = load_params()
    name, entry, choices = params["dataset"], dataset_entry(params), params["prepare"]
    check_choices(choices)
    kind, source = open_source(name, entry)

    count = sum(map(len, source.values()))
    # the pixels in the order in which they are decoded, and then in the splits
    check_space(Path(), 2 * count * entry["image_size"] ** 2 * 3, f"preparing the {count:,} images of {name}")
    with tqdm(total=count, desc="decode", unit=" images", unit_scale=True, disable=None) as bar:
        splits = [decode_split(one, entry, choices["skip_damaged"], Path("data"), bar) for one in source.values()]
    data = Decoded.join(splits)
    near = near_duplicates(data.perceptual_hashes, data.hashes, data.read)
    given = {split: data.split == number for number, split in enumerate(source)}
    parts = split_up(name, data, given, near, entry, choices)

    used = parts["train"] | parts["val"] | parts["test"]  # all but what the entry's leave_out keeps out
    near = near[used[near].all(axis=1)]
    leaked = np.isin(data.hashes[parts["test"]], data.hashes[used & ~parts["test"]])
    found = shortcuts(data.traits[used], data.labels[used] == FAKE)
    report = data_report(name, entry, data, given, parts, leaked, near, found)

    # All are written before the first takes its place: a full disk leaves the earlier ones as they were.
    with contextlib.ExitStack() as stack:

        def out(path: str) -> Path:
            return stack.enter_context(atomic_write(path))

        for part, rows in parts.items():
            info = {"dataset": name, "name": part, "fit": entry["fit"], "reencode": entry["reencode"]}
            pack(out(f"data/{part}"), info, data, rows, leaked if part == "test" else None)
        write_plots(out("plots/data"), data, parts, near, found)
        out("metrics/prepare.json").write_text(json.dumps(report, indent=2) + "\n")
    print_summary(kind, report)
    print_warnings(name, entry, report, data, found)


def check_choices(choices: dict[str, Any]) -> None:
    fraction, seed, skip = choices["val_fraction"], choices["seed"], choices["skip_damaged"]
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"prepare.val_fraction is {fraction!r} in params.yaml; it must lie between 0 and 1")
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"prepare.seed is {seed!r} in params.yaml; it must be an integer, 0 or more")
    if not isinstance(skip, bool):
        raise UserError(f"prepare.skip_damaged is {skip!r} in params.yaml; it must be true or false")


def split_up(
    name: str,
    data: Decoded,
    given: dict[str, np.ndarray],
    near: np.ndarray,
    entry: dict[str, Any],
    choices: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Return which images are train, val and test: bool (N) each.

    given: the splits that the data set has; they stay as they are. The others are cut off from its train split, so that
    copies, images of one group and, unless the entry says otherwise, near-duplicates are on one side. Last of all,
    images of the sources that the entry leaves out are taken from train and val: what stays is split as without that.
    """
    named = np.flatnonzero(data.groups)
    links = [links_of(data.hashes), named[links_of(data.groups[named])]]
    if entry["near_duplicates"] == "together":
        links.append(near)
    groups = group_ids(len(data), *links)
    strata = data.object_class.astype(np.int64) * len(data.source_names) + data.sources
    parts, rest = dict(given), given["train"].copy()
    # what is like an image of a val split that is given is no test image
    held = np.isin(groups, groups[given["val"]]) if "val" in given else np.zeros(len(data), bool)
    for part, what, fraction in (
        ("test", f"datasets.{name}.test_fraction", entry["test_fraction"]),
        ("val", "prepare.val_fraction", choices["val_fraction"]),
    ):
        if part not in parts:
            pool = np.flatnonzero(rest & ~held if part == "test" else rest)
            chosen = cut_off(data.labels[pool], strata[pool], groups[pool], fraction, choices["seed"], what)
            parts[part] = np.isin(np.arange(len(data)), pool[chosen])
            rest &= ~parts[part]
    left_out = np.isin(data.sources, left_out_numbers(name, data, entry["leave_out"]))
    kept = {"train": rest & ~left_out, "val": parts["val"] & ~left_out}
    for part, rows in kept.items():
        if lacking := [c for label, c in enumerate(CLASSES) if not (data.labels[rows] == label).any()]:
            raise UserError(
                f"datasets.{name}.leave_out leaves the {part} split without {' and '.join(lacking)} images: leave out "
                "fewer sources"
            )
    return {**kept, "test": parts["test"]}


def left_out_numbers(name: str, data: Decoded, sources: list[str]) -> list[int]:
    """Return the numbers of the sources that train and val do without. Raises UserError where the data lack one."""
    has = data.source_names
    if unknown := [source for source in sources if source not in has]:
        raise UserError(
            f"datasets.{name}.leave_out names {', '.join(unknown)}, and the sources are {', '.join(has)}: see "
            f"datasets.{name}.source"
        )
    return [has.index(source) for source in sources]


if __name__ == "__main__":
    run(main)
