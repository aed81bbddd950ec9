"""Adapt a released model to one's own pictures: `python -m detector adapt --help`.

No network is trained: a small head is fitted on frozen features (detector/features.py) and on the model's own logit.
"""

import argparse
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from detector.adapt_report import card, report
from detector.errors import UserError
from detector.files import atomic_write, file_sha256
from detector.places import model_folder
from detector.released import DEFAULT
from detector.written import require_folder

if TYPE_CHECKING:
    from detector.detector import Detector
    from detector.fitting import Held
    from detector.record import ExportedRecord

LEAST = 20  # pictures of each class, copies counted once
SELECTIVE_ACCURACY = 0.9  # 99.5 %, as of released models, takes 598 pictures without a mistake; this takes 29
OOD_SHARE = 0.99  # of the pictures, whose OOD score in cross-validation is within the threshold
EXAMPLES = """examples:
  dvc pull models/resnet18_imagenet models/pretrained    once: the released model, and the features' weights
  python -m detector adapt --real photos/ --fake generated/
  python -m detector photo.jpg --model models/adapted
  python -m detector adapt --real photos/ --fake generated/ --model models/vit_tiny --out models/mine

Pictures that are copies of each other stay on one side in cross-validation: by their pixels, or by their names, as
beach.jpg and beach_crop.png are. Exit status 1 where nothing was written.
"""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one class that could be read. pixels: uint8 (N, S, S, 3), as the detector sees them."""

    folder: Path
    files: list[Path]
    pixels: np.ndarray


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m detector adapt",
        description="Fit a detector to your own pictures: from 20 photographs and 20 fakes on, in less than a minute "
        "for 100 of each.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", required=True, type=Path, metavar="FOLDER", help="photographs; subfolders count")
    parser.add_argument("--fake", required=True, type=Path, metavar="FOLDER", help="images by generators")
    parser.add_argument(
        "--model", default=DEFAULT, type=Path, metavar="FOLDER", help="to start from (default: %(default)s)"
    )
    parser.add_argument(
        "--out", default="models/adapted", type=Path, metavar="FOLDER", help="to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    record = adapt(options.real, options.fake, options.model, options.out)
    print("\n".join(report(record)))
    print(f"{options.out} is ready: python -m detector photo.jpg --model {options.out}")


def adapt(real: Path, fake: Path, base_folder: Path, out: Path) -> "ExportedRecord":
    """Write the adapted model's folder `out`, and return its record. Skipped pictures are named on stderr.

    Raises UserError, with nothing written, for missing folders, too few pictures, a picture that is in both folders,
    and where the head is no better than chance.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("adapting needs scikit-learn: `pip install scikit-learn`")
    if out.exists():
        raise UserError(f"{out} exists: remove it, or name another folder with --out")
    if real.resolve() == fake.resolve():
        raise UserError(f"--real and --fake are the same folder, {real}: name one of photographs and one of fakes")
    require_folder(out.parent)
    from detector.detector import Detector

    base_folder = model_folder(base_folder)
    base = Detector.load(base_folder)
    if base.record.adapted is not None:
        raise UserError(f"{base_folder} is adapted already: start from {base.record.adapted.base}, with all pictures")
    reals, fakes = read_pictures(base, real), read_pictures(base, fake)
    refuse_same(reals, fakes)
    groups = group_ids(reals, fakes)
    for pictures, of_class, kind in ((reals, groups[: len(reals.files)], "photographs"),
                                     (fakes, groups[len(reals.files) :], "fakes")):  # fmt: skip
        if (different := len(np.unique(of_class))) < LEAST:
            raise UserError(
                f"{different} {kind} in {pictures.folder}, copies counted once: adapting takes {LEAST} at least"
            )
    with atomic_write(out) as folder:
        return write_adapted(folder, base, base_folder, reals, fakes, groups)


def read_pictures(base: "Detector", folder: Path) -> Pictures:
    """Read all pictures below a folder; name those that cannot be read on stderr, and how many they are."""
    from detector.sources import find_pictures, passed_over

    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --real and --fake take a folder of pictures each")
    names, problems, others = find_pictures([str(folder)])
    if others:
        print(f"{folder}: {passed_over(others)}", file=sys.stderr)
    files: list[str] = []
    pixels: list[np.ndarray] = []
    bar = tqdm(names, desc=f"reading {folder}", unit=" pictures", disable=None)
    for batch in base.preprocessed_batches(bar, files, problems):
        pixels += [one.pixels for one in batch]
    for name, reason in problems:
        print(" ".join(f"skipped: {name}: {reason}".split()), file=sys.stderr)
    if problems:
        print(f"{len(problems)} of {len(names)} skipped in {folder}", file=sys.stderr)
    side = base.record.input_size
    stacked = np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)
    return Pictures(folder, [Path(file) for file in files], stacked)


def refuse_same(reals: Pictures, fakes: Pictures) -> None:
    """Raises UserError where a photograph and a fake have the same pixels."""
    of_reals = {pixels.tobytes(): file for file, pixels in zip(reals.files, reals.pixels, strict=True)}
    for file, pixels in zip(fakes.files, fakes.pixels, strict=True):
        if (other := of_reals.get(pixels.tobytes())) is not None:
            raise UserError(f"{other} and {file} are the same picture: it is either REAL or FAKE, remove one")


def group_ids(reals: Pictures, fakes: Pictures) -> np.ndarray:
    """Return a number for each picture, int64 (N), photographs first: the same for those that belong together.

    Those are copies by their pixels (detector/copies.py), and files of one folder of which one's name continues the
    other's in words: beach.jpg, beach.png, beach_crop.png, beach-small-2.jpg. A number alone, as in download (1).png,
    tells pictures apart. Subfolders tell sources, which new pictures will share: they are no groups.
    """
    from scipy.sparse.csgraph import connected_components

    from detector.copies import DETAIL, WHOLE, unit_thumbnails

    whole, detail = unit_thumbnails(np.concatenate([reals.pixels, fakes.pixels]))
    linked = (whole @ whole.T >= WHOLE) & (detail @ detail.T >= DETAIL)
    places: dict[tuple[Path, str], int] = {}
    files = [*reals.files, *fakes.files]
    for place, file in enumerate(files):
        first = places.setdefault((file.parent, file.stem), place)
        linked[place, first] = True
    for place, file in enumerate(files):
        for end in re.finditer(r"[ _.(-]+", file.stem):
            start = file.stem[: end.start()]
            if (file.parent, start) in places and re.search(r"[^\W\d_]", file.stem[end.end() :]):
                linked[place, places[file.parent, start]] = True
    return connected_components(linked, directed=False)[1].astype(np.int64)


def write_adapted(
    folder: Path, base: "Detector", base_folder: Path, reals: Pictures, fakes: Pictures, groups: np.ndarray
) -> "ExportedRecord":
    """Fit the head, measure it, write the model's folder. Raises UserError where it is no better than chance."""
    from detector.calibration import choose_abstention_band
    from detector.features import write_extractor
    from detector.fitting import FOLDS, SHARES, cross_validate, fit_head, independent
    from detector.head import extract
    from detector.labels import probability
    from detector.record import ExportedRecord
    from detector.session import open_session

    folder.mkdir()
    write_extractor(folder)
    extractor = open_session(folder / "features.onnx")
    pixels = np.concatenate([reals.pixels, fakes.pixels])
    is_fake = np.repeat([False, True], [len(reals.files), len(fakes.files)])
    features = []
    with tqdm(total=len(pixels), desc="features", unit=" pictures", disable=None) as bar:
        for batch in extract(extractor, pixels):
            features.append(batch)
            bar.update(len(batch))
    logits = base.logits(pixels)
    numbers = np.column_stack([np.concatenate(features), logits])
    with tqdm(total=FOLDS * len(SHARES), desc="cross-validation", unit=" heads", disable=None) as bar:
        held = cross_validate(numbers, is_fake, groups, bar.update)
    curve = learning_curve(held, is_fake, groups)
    low, high = curve[-1]["auroc_interval"]
    if low <= 0.5:
        raise UserError(
            f"no better than chance: AUROC {curve[-1]['auroc']:.2f} in cross-validation, 95 % interval {low:.2f} to "
            f"{high:.2f}; more pictures may help, but the best generators leave no trace that these features see"
        )
    p_fake, counted = probability(held.logits[-1], 1), independent(is_fake, groups)
    head = fit_head(numbers, is_fake, groups)
    head.write(folder)
    for name in ("model.onnx", "model.safetensors"):
        shutil.copy(base_folder / name, folder)
    fields: dict[str, Any] = base.record.model_dump() | {
        "test": {},
        "temperature": 1.0,  # the head's logits are divided by it already
        "threshold": 0.5,  # one chosen on so few pictures is up to half a point worse (docs/research.md)
        "abstention_band": choose_abstention_band(p_fake[counted], is_fake[counted], SELECTIVE_ACCURACY),
        "validation": {
            "loss": float(np.logaddexp(0, np.where(is_fake, -1, 1) * held.logits[-1]).mean()),
            "accuracy": curve[-1]["accuracy"],
            "auroc": curve[-1]["auroc"],
        },
        "out_of_distribution": {
            "threshold": float(np.quantile(held.ood_scores, OOD_SHARE)),
            "validation_share": OOD_SHARE,
        },
        "adapted": {
            "base": text_of(base_folder),
            "base_sha256": file_sha256(base_folder / "model.json"),
            "real_folder": text_of(reals.folder),
            "fake_folder": text_of(fakes.folder),
            "real": len(reals.files),
            "fake": len(fakes.files),
            "groups": int(groups.max()) + 1,
            "selective_accuracy": SELECTIVE_ACCURACY,
            "cross_validation": tuple(curve),
            **gain(held, is_fake, groups),
        },
    }
    record = ExportedRecord.make(**fields)
    (folder / "README.md").write_text(card(record))
    record.write(folder)
    return record


def text_of(folder: Path) -> str:
    """Return a folder's own name, of which some bytes may be no text."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def learning_curve(held: "Held", is_fake: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Return the fields of a CrossValidation for each share of the pictures."""
    from detector.fitting import accuracy_interval, auroc, auroc_interval

    fakes, reals = (len(np.unique(groups[of_class])) for of_class in (is_fake, ~is_fake))
    curve = []
    for pictures, logits in zip(held.pictures, held.logits, strict=True):
        accuracy, area = float(((logits >= 0) == is_fake).mean()), auroc(logits, is_fake)
        curve.append(
            {
                "pictures": pictures,
                "accuracy": accuracy,
                "accuracy_interval": accuracy_interval(accuracy, len(np.unique(groups))),
                "auroc": area,
                "auroc_interval": auroc_interval(area, fakes, reals),
            }
        )
    return curve


def gain(held: "Held", is_fake: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return by how much accuracy rises from half of the pictures to all, on the same pictures, and its standard
    error."""
    half, whole = ((logits >= 0) == is_fake for logits in held.logits[-2:])
    rises = whole.astype(float) - half
    return {"gain": float(rises.mean()), "gain_error": float(rises.std() / np.sqrt(len(np.unique(groups))))}
