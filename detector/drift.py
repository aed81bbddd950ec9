"""Is what arrives still what a model was trained on? `python -m detector drift --help`.

Pictures are compared with the validation split of the model, of which `export` keeps numbers (detector/reference.py),
by a permutation test (detector/two_sample.py). How often that is wrong: benchmarks/results/drift.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from detector.errors import UserError
from detector.files import atomic_write
from detector.places import model_folder
from detector.released import DEFAULT
from detector.written import file_to_write

if TYPE_CHECKING:
    from PIL import Image

    from detector.detector import Detector, Prediction
    from detector.preprocessed import Preprocessed
    from detector.reference import Reference
    from detector.two_sample import Rows, TwoSampleResult

    Scored = tuple[list[Prediction], Rows, list[Image.Image]]

LEVEL = 0.05  # of all tests together: so many of 100 folders of untouched pictures are called drifted
FOUND = 3  # the exit status
LEAST, MOST = 20, 1000  # pictures: fewer show hardly anything; of more, so many are drawn
THUMBNAIL = 96  # px at most
EXAMPLES = f"""examples:
  python -m detector drift arrived/
  python -m detector drift arrived/ --html drift.html
  python -m detector drift arrived/ --json --model models/exported

Exit status 0: no drift found; {FOUND}: drift; 1: it could not be told. Pictures that cannot be read are named and
skipped.
"""


@dataclass(frozen=True)
class Arrived:
    """The pictures of a folder that could be read. thumbnails: of what the detector saw, in the order of `files`."""

    files: list[str]
    predictions: "list[Prediction]"
    rows: "Rows"
    thumbnails: "list[Image.Image]"
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Finding:
    """One of the tests. medians: of the reference and of the pictures; None where there is no single number a picture,
    and for the flagged share the two shares."""

    key: str
    name: str
    distance: float
    by_chance: float
    p_value: float
    before: float | None
    now: float | None


@dataclass(frozen=True)
class Drift:
    """What `find_drift` found. findings: the features first, the share out of distribution last."""

    folder: str
    model: str
    arrived: Arrived
    reference: "Reference"
    result: "TwoSampleResult"
    findings: list[Finding]

    @property
    def is_found(self) -> bool:
        return self.result.p_value <= LEVEL


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m detector drift",
        description="Test whether the pictures of a folder are like those that a model was validated on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help=f"{LEAST} pictures or more; of more than {MOST}, {MOST} are drawn"
    )
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--html", metavar="FILE", help="write a report with pictures")
    parser.add_argument("--json", action="store_true", help="print an object")
    options = parser.parse_args(arguments)
    page_file = file_to_write(options.html, ".html", ".htm") if options.html else None

    from detector.drift_output import as_json, as_text

    drift = find_drift(options.folder, options.model)
    if page_file:
        from detector.drift_report import page

        with atomic_write(page_file) as new:
            new.write_text(page(drift), encoding="utf-8", errors="backslashreplace")
    print(json.dumps(as_json(drift)) if options.json else "\n".join(as_text(drift)))
    if drift.is_found:
        sys.exit(FOUND)


def find_drift(folder: str, model: str | Path) -> Drift:
    """Compare the pictures of a folder with the reference of a model. Skipped pictures are named on stderr.

    Raises UserError where the model has no reference, and for fewer than LEAST pictures.
    """
    from detector.detector import Detector
    from detector.reference import SCALARS, Reference
    from detector.two_sample import TwoSampleTest

    model = model_folder(model)
    detector = Detector.load(model)
    reference = Reference.read(model, detector.record)
    arrived = read_pictures(folder, detector, reference)
    rows, known = arrived.rows, reference.rows
    result = TwoSampleTest(known)(rows)
    names = {"features": "features (MMD)", **SCALARS, "out_of_distribution": "share out of distribution"}
    before = [None, *np.median(known.scalars, 0).tolist(), float(known.flagged.mean())]
    now = [None, *np.median(rows.scalars, 0).tolist(), float(rows.flagged.mean())]
    numbers = (result.distances.clip(0).tolist(), result.by_chance.tolist(), result.p_values.tolist(), before, now)
    findings = [Finding(*fields) for fields in zip(names, names.values(), *numbers, strict=True)]
    return Drift(folder, model.resolve().name, arrived, reference, result, findings)


def read_pictures(folder: str, detector: "Detector", reference: "Reference") -> Arrived:
    """Read and score the pictures below a folder, at most MOST of them, drawn with a fixed seed.

    Raises UserError for fewer than LEAST.
    """
    from detector.sources import find_pictures, passed_over
    from detector.two_sample import concatenate

    if not Path(folder).is_dir():
        raise UserError(f"{folder} is no folder: drift is told of a folder of pictures")
    names, skipped, others = find_pictures([folder])
    if others:
        print(f"{folder}: {passed_over(others)}", file=sys.stderr)
    if len(names) > MOST:
        print(f"{folder}: {MOST:,} of {len(names):,} pictures are drawn", file=sys.stderr)
        chosen = np.random.default_rng(0).choice(len(names), MOST, replace=False)
        names = [names[place] for place in np.sort(chosen)]
    files: list[str] = []
    scored: list[Scored] = []
    bar = tqdm(names, desc=f"reading {folder}", unit=" pictures", disable=None)
    for batch in detector.preprocessed_batches(bar, files, skipped):
        scored.append(score_batch(batch, detector, reference))
    for name, reason in skipped:
        print(" ".join(f"skipped: {name}: {reason}".split()), file=sys.stderr)
    if len(files) < LEAST:
        count = f"{len(files)} picture{'' if len(files) == 1 else 's'}"
        raise UserError(f"{count} of {folder} can be read: telling drift takes {LEAST} at least")
    predictions, rows, thumbnails = zip(*scored, strict=True)
    return Arrived(files, list(chain(*predictions)), concatenate(rows), list(chain(*thumbnails)), skipped)


def score_batch(batch: "list[Preprocessed]", detector: "Detector", reference: "Reference") -> "Scored":
    pixels = np.stack([one.pixels for one in batch])
    scores = detector.score(pixels)
    predictions = detector.predictions(scores, batch)
    return predictions, reference.rows_of(pixels, scores), [thumbnail(image) for image in pixels]


def thumbnail(pixels: np.ndarray) -> "Image.Image":
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
