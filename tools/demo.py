"""Show what `make demo` has trained: its accuracy in words, three answers with their evidence, what to type next."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow.parquet as pq
from dvc.api import DVCFileSystem
from PIL import Image

from detector import Detector
from detector.errors import UserError, run
from detector.explain import draw_explanation, stack_drawings
from detector.files import atomic_write
from detector.labels import CLASSES, FAKE, REAL
from detector.output import percent
from detector.written import file_to_write
from tools.shell import experiments, head

PICTURES = Path("data/sample/test.parquet")
NEXT = """Next:
  source .venv/bin/activate
  dvc exp run --temp -S dataset=sample -S model=small_resnet -S seed=1                      # change something
  make compare                                                                              # what it did
  dvc pull models/resnet18_imagenet && python -m detector photo.jpg                         # ask a real one"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("experiment", nargs="?", default="demo", help="default: %(default)s")
    parser.add_argument("--sheet", type=Path, default=Path("dvc_plots/demo.png"), help="default: %(default)s")
    options = parser.parse_args()
    path = file_to_write(options.sheet, ".png")
    wanted = (options.experiment, head())  # earlier commits may have one as well
    revisions = [revision for name, start, revision in experiments() if (name, start) == wanted]
    if not revisions:
        raise UserError(f"this commit has no experiment {options.experiment}: `make demo` runs one")
    files = DVCFileSystem(rev=revisions[0])
    test = json.loads(files.read_text("metrics/test.json"))
    counts = json.loads(files.read_text("metrics/prepare.json"))

    images = counts["test_fake"] + counts["test_real"]
    right, answered = round(images * test["accuracy"]), round(images * test["coverage"])
    print(f"\nThe demo's detector is right on {right} of {images} test images, {test['accuracy']:.1%}.")
    if answered:
        print(
            f"It answers FAKE or REAL for {answered} of them, and {test['selective_accuracy']:.1%} of these answers "
            "are right; for the others it says UNSURE."
        )
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        try:
            files.get("models/exported", str(model), recursive=True)
        except FileNotFoundError:
            raise UserError(
                f"the model of {options.experiment} is not here: `dvc exp pull` fetches it, or run it again"
            ) from None
        sheet = stack_drawings(list(drawings(Detector.load(model))))
    with atomic_write(path) as new:
        sheet.save(new, "PNG")
    print(f"Three of its answers, with the evidence for them: {path}")
    print("It knows seven photographs and the images of one tiny generator: of other pictures it can say nothing.\n")
    print(NEXT)


def drawings(detector: Detector) -> Iterator[Image.Image]:
    """Draw a FAKE test image, a REAL one, and the first that is not answered or answered wrongly."""
    rows = pq.read_table(PICTURES).to_pylist()
    predictions = detector.predict([row["image"]["bytes"] for row in rows])
    names = [CLASSES[row["label"]] for row in rows]
    missed = (i for i, one in enumerate(predictions) if one.verdict != names[i])
    first = (next(i for i, row in enumerate(rows) if row["label"] == label) for label in (FAKE, REAL))
    for i in islice(chain(first, missed), 3):
        heading = f"a {names[i]} image: {predictions[i].verdict}, P(FAKE) {percent(predictions[i].p_fake)}"
        pixels = detector.preprocess(rows[i]["image"]["bytes"]).pixels
        yield draw_explanation(pixels, detector.explain(pixels).occlusion_map, heading)


if __name__ == "__main__":
    run(main)
