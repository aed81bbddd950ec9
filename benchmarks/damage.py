"""One flipped bit in a picture file: who notices?

    python -m benchmarks.damage > benchmarks/results/damage.md

One photograph-like picture is encoded in several formats. Of each file, copies are made with one flipped bit anywhere,
and a released model is asked about each.
"""

import argparse
import io
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.heading import heading, model_fact
from detector import Detector
from detector.errors import UserError, run
from detector.released import DEFAULT

MOVED = 0.005  # of P(FAKE), from which on a flip counts
SIZE = (640, 480)
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG, quality 90": ("JPEG", {"quality": 90}),
    "PNG": ("PNG", {}),
    "WebP, quality 80": ("WEBP", {"quality": 80}),
    "AVIF": ("AVIF", {}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF, uncompressed": ("TIFF", {"compression": "raw"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--copies", type=int, default=400, metavar="N", help="of each file (default: %(default)s)")
    arguments = parser.parse_args()

    detector = Detector.load(arguments.model)
    fact, copies = model_fact(detector.title, detector.sha256), arguments.copies
    print(heading("One flipped bit", fact, versions=("pillow", "simplejpeg")))
    print(f"{copies} copies a file, each with one flipped bit anywhere. Shares of all copies;")
    print("`most` is the largest change of P(FAKE) without a word.\n")
    print("| File | bytes | refused | a note | not a word | and P(FAKE) moved by more than 0.005 | most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, (name, (form, options)) in enumerate(FORMATS.items()):
        file = io.BytesIO()
        picture().save(file, form, **options)
        refused, noted, moves = ask_about_copies(detector, file.getvalue(), copies, number)
        moved = sum(move > MOVED for move in moves)
        counts = " | ".join(f"{count / copies:.1%}" for count in (refused, noted, len(moves), moved))
        print(f"| {name} | {file.tell():,} | {counts} | {max(moves, default=0):.3f} |", flush=True)


def picture() -> Image.Image:
    """Return smooth shapes with a little noise, as photographs have."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 4, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8))


def ask_about_copies(detector: Detector, data: bytes, count: int, seed: int) -> tuple[int, int, list[float]]:
    """Return how many copies are refused, how many have a note that the whole file has not, and by how much P(FAKE)
    moves in the others."""
    (whole,) = detector.predict([data])
    rng = np.random.default_rng(seed)
    refused, noted, moves = 0, 0, []
    for _ in range(count):
        copy = bytearray(data)
        copy[int(rng.integers(len(copy)))] ^= 1 << int(rng.integers(8))
        (answer,) = detector.stream([bytes(copy)])
        if isinstance(answer, UserError):
            refused += 1
        elif any(note.startswith(("damaged file", "its colours")) for note in answer.notes):
            noted += 1
        else:
            moves.append(abs(answer.p_fake - whole.p_fake))
    return refused, noted, moves


if __name__ == "__main__":
    run(main)
