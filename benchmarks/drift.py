"""How often `python -m detector drift` is wrong: false alarms, and what it finds.

    python -m benchmarks.drift --fake flow TEST.parquet --fake gan TEST.parquet > benchmarks/results/drift.md

After `dvc repro prepare` and `dvc pull` of the model. Samples of 50, 200 and 1,000 pictures are drawn from the test
split, untouched, corrupted, or of one object class only; and from half its photographs, half fakes of another
generator (`--fake`, tables as those of CIFAKE: columns `image` and `label`). Each picture is scored once.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.heading import heading, model_fact
from detector import Detector
from detector.drift import LEVEL
from detector.errors import run
from detector.images import decode
from detector.labels import FAKE, REAL, probability
from detector.reference import Reference
from detector.released import DEFAULT
from detector.two_sample import Rows, TwoSampleTest, concatenate
from stages.data import OBJECT_CLASSES, Split, load_split
from stages.evaluate.corruptions import corruption
from stages.intervals import wilson_interval
from stages.params import load_params

SIZES = (50, 200, 1000)
CORRUPTED = 2000  # test images of which each corruption is made
BLOCK = 500  # images scored at a time


@dataclass(frozen=True)
class Kind:
    """Pictures that samples are drawn from. is_right: bool (N), whether the detector knows each for what it is."""

    name: str
    rows: Rows
    is_right: np.ndarray

    def part(self, name: str, places: np.ndarray) -> "Kind":
        """Return some of the pictures, bool (N)."""
        return Kind(name, self.rows.take(np.flatnonzero(places)), self.is_right[places])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEFAULT, help="(default: %(default)s)")
    parser.add_argument("--fake", nargs=2, action="append", default=[], metavar=("NAME", "TEST"))
    parser.add_argument("--untouched", type=int, default=1000, metavar="N", help="samples (default: %(default)s)")
    parser.add_argument("--others", type=int, default=50, metavar="N", help="samples a kind (default: %(default)s)")
    options = parser.parse_args()
    detector = Detector.load(options.model)
    reference = Reference.read(options.model, detector.record)
    test = TwoSampleTest(reference.rows)
    split = load_split("data/test")

    pictures = f"{len(reference.rows):,} pictures of its validation split"
    print(heading("Drift", model_fact(detector.title, detector.sha256), f"compared with {pictures}"))
    print(f"Shares of samples, in %, that `python -m detector drift` calls drifted, at its level of {LEVEL:.0%}.\n")
    columns = " | ".join(f"{size:,} pictures" for size in SIZES)
    print(f"| pictures | accuracy | {columns} |\n| --- | ---: |{' ---: |' * len(SIZES)}")
    for kind in kinds(detector, reference, split, dict(options.fake)):
        count = options.untouched if kind.name == "untouched" else options.others
        print(table_row(test, kind, count), flush=True)
    print(f"\nUntouched: {options.untouched:,} samples of each size, with 95 % intervals of the share; others:")
    print(f"{options.others:,}. Noise is given as its standard deviation (of 1), blur as sigma in pixels, JPEG as its")
    print("quality, rescale as to so many pixels of 32 and back.")


def table_row(test: TwoSampleTest, kind: Kind, count: int) -> str:
    """Return a row of the table. Samples that would be larger than what they are drawn from are left out."""
    cells = []
    for size in SIZES:
        if size > len(kind.rows):
            cells.append("")
            continue
        share = alarms(test, kind.rows, size, count)
        cells.append(f"{100 * share:.1f}")
        if kind.name == "untouched":
            low, high = wilson_interval(round(share * count), count)
            cells[-1] = f"**{cells[-1]}** ({100 * low:.1f} to {100 * high:.1f})"
    return f"| {kind.name} | {100 * kind.is_right.mean():.1f} | {' | '.join(cells)} |"


def kinds(detector: Detector, reference: Reference, test: Split, fakes: dict[str, str]) -> Iterator[Kind]:
    """Yield the kinds of pictures, the untouched test split first."""

    def score(name: str, images: np.ndarray, labels: np.ndarray) -> Kind:
        rows, right = [], []
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            scores = detector.score(block)
            rows.append(reference.rows_of(block, scores))
            said_fake = probability(scores.logits, detector.record.temperature) >= detector.record.threshold
            right.append(said_fake == (labels[start : start + BLOCK] == FAKE))
        return Kind(name, concatenate(rows), np.concatenate(right))

    untouched = score("untouched", test.images[:], test.labels)
    yield untouched
    yield untouched.part("photographs only", test.labels == REAL)
    yield untouched.part("fakes only", test.labels == FAKE)
    for number, name in enumerate(OBJECT_CLASSES):
        yield untouched.part(f"{name} only", test.object_class == number)
    for name, path in fakes.items():
        rows = pq.read_table(path).to_pylist()
        images = np.stack([decode(row["image"]["bytes"]) for row in rows if row["label"] == FAKE])
        others = score(name, images, np.full(len(images), FAKE))
        yield others
        photographs = untouched.part("", (test.labels == REAL) & (np.cumsum(test.labels == REAL) <= len(images)))
        both = concatenate([photographs.rows, others.rows])
        yield Kind(f"half photographs, half {name}", both, np.concatenate([photographs.is_right, others.is_right]))
    chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:CORRUPTED])
    for name, strengths in load_params()["evaluate"]["corruptions"].items():
        for strength in strengths:
            yield score(f"{name} {strength:g}", corruption(name, strength)(test.images[chosen]), test.labels[chosen])


def alarms(test: TwoSampleTest, rows: Rows, size: int, count: int) -> float:
    """Return the share of samples that are called drifted."""
    random = np.random.default_rng(size)
    samples = (rows.take(random.choice(len(rows), size, replace=False)) for _ in range(count))
    return float(np.mean([test(sample).p_value <= LEVEL for sample in samples]))


if __name__ == "__main__":
    run(main)
