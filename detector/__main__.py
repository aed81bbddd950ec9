"""Ask a trained detector about pictures from the shell: `python -m detector --help`."""

import argparse
import gc
import io
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from detector.cores import keep_freed_memory
from detector.errors import UserError, run
from detector.files import atomic_write
from detector.limit import LIMIT
from detector.output import (
    COLUMNS,
    ON_CLAIMS,
    Row,
    as_csv,
    as_json,
    as_table,
    error_row,
    one_line,
    prediction_row,
    with_bar,
)
from detector.released import DEFAULT
from detector.written import MADE_BY, drawing_to_write, without_formulas

if TYPE_CHECKING:
    from PIL import Image

    from detector.detector import Detector

EXAMPLES = f"""examples:
  dvc pull models/resnet18_imagenet             the released model, once, in a clone
  python -m detector fetch resnet18_imagenet --from SOURCE
                                                the same elsewhere
  python -m detector photo.jpg
  python -m detector photo.jpg --model models/exported
  python -m detector photo.jpg --explain evidence.png
  python -m detector holiday/ *.png --csv > answers.csv
  python -m detector holiday/ --report report.html
  curl -s https://example.org/photo.jpg | python -m detector - --json
  python -m detector adapt --help               fit it to your own pictures
  python -m detector drift --help               are these pictures still what it was trained on?
  python -m detector fetch --help               bring a model; nothing else downloads anything

Exit status 1 when one of the pictures could not be read. Files in a folder that are no pictures, by suffix and
content, are counted on stderr and change no status. In a clone, `make serve` answers on a page as well, and `make
browser` builds that page without a service.
{LIMIT}
"""
MOST = 20  # drawings on one sheet; larger files may not open


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        choose(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def choose(arguments: Sequence[str]) -> None:
    match arguments[:1]:  # a picture or a folder of such a name is ./adapt, ./drift, ./fetch
        case ["adapt"]:
            from detector.adapt import main as adapt

            adapt(arguments[1:])
        case ["drift"]:
            from detector.drift import main as drift

            drift(arguments[1:])
        case ["fetch"]:
            from detector.fetch import main as fetch

            fetch(arguments[1:])
        case _:
            ask(arguments)


def ask(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m detector",
        description="Ask a trained detector whether pictures are FAKE (AI-generated) or REAL.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="+", metavar="picture", help="a file, a folder, or - for standard input")
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="default: %(default)s")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list with an object a picture")
    form.add_argument("--csv", action="store_true", help=", ".join(COLUMNS))
    parser.add_argument("--explain", metavar="PNG", help=f"draw where the evidence lies, in {MOST} pictures at most")
    form.add_argument("--report", metavar="HTML", help="a page that holds all of it, and the CSV beside it")
    options = parser.parse_args(arguments)
    if options.explain and options.report:
        parser.error("--report draws the evidence itself: leave --explain out")
    drawing = drawing_to_write(options.explain) if options.explain else None

    # An answer for one picture is mostly the start of this process. numpy's BLAS computes nothing here, but its threads
    # would wait in a loop for work, on the cores that open the model. And what is imported is no garbage.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    keep_freed_memory()
    gc.disable()

    from detector.pool import DecodingPool  # --help does without

    pool = DecodingPool()
    pool.start()  # it imports its decoders while this process imports the rest and opens the model

    from detector.detector import Detector
    from detector.sources import find_pictures, passed_over

    detector = Detector.load(options.model, pool=pool)
    gc.enable()
    print(one_line(f"{options.model}: {detector.title}"), file=sys.stderr)
    files, problems, others = find_pictures(options.pictures)
    if others:
        print(passed_over(others), file=sys.stderr)
    if options.explain and len(files) > MOST:
        raise UserError(f"{len(files)} pictures: --explain draws {MOST} at most")
    unread, claims = 0, 0

    def note(row: Row) -> None:
        nonlocal unread, claims
        claims += len(row["claims"])
        if row["error"] is not None:
            unread += 1
            say(one_line(f"error: {row['file']}: {row['error']}"), sys.stderr)

    if options.report:
        from detector.report import write_report

        print(write_report(Path(options.report), detector, problems, files, note), file=sys.stderr)
        sys.exit(1 if unread else 0)
    drawings: list[Image.Image] = []
    answers = explanation_rows(detector, files, drawings) if options.explain else prediction_rows(detector, files)
    write = as_json if options.json else as_csv if options.csv else as_table(files)

    def noted() -> Iterator[Row]:
        for row in chain((error_row(*problem) for problem in problems), answers):
            note(row)
            yield row

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    for line in write(noted()):
        say(without_formulas(line) if options.csv else line, sys.stdout)
    sys.stdout.flush()
    if drawing and drawings:
        from PIL.PngImagePlugin import PngInfo

        from detector.explain import stack_drawings

        made_by = PngInfo()
        made_by.add_text("Software", MADE_BY)
        with atomic_write(drawing) as new:
            stack_drawings(drawings).save(new, "PNG", pnginfo=made_by)
    if not options.json and not options.csv:
        if claims:
            print(ON_CLAIMS, file=sys.stderr)
        print(one_line(detector.limit), file=sys.stderr)
    if unread:
        sys.exit(1)


def say(line: str, file: TextIO) -> None:
    """Print a line; above the progress bar, where there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=file)
    else:
        print(line, file=file)


def prediction_rows(detector: "Detector", files: Sequence[str]) -> Iterator[Row]:
    pictures = (sys.stdin.buffer if file == "-" else file for file in files)
    for file, prediction in zip(with_bar(files), detector.stream(pictures), strict=True):
        if isinstance(prediction, UserError):
            yield error_row(file, str(prediction))
        else:
            yield prediction_row(file, prediction, detector.sha256)


def explanation_rows(detector: "Detector", files: Sequence[str], drawings: "list[Image.Image]") -> Iterator[Row]:
    """Yield what `prediction_rows` does, and append the drawing of each explanation to `drawings`."""
    for file in files:
        try:
            explanation = detector.explain(sys.stdin.buffer if file == "-" else file)
        except UserError as error:
            yield error_row(file, str(error))
        else:
            drawings.append(explanation.drawing)
            yield prediction_row(file, explanation.prediction, detector.sha256)


def command() -> None:
    """`ai-art-detector`, once the package is installed."""
    run(main)


if __name__ == "__main__":
    command()
