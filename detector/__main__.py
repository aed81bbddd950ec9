"""Ask a trained detector about pictures from the shell: `python -m detector --help`."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from detector import LIMIT
from detector.errors import UserError, replacing, run

if TYPE_CHECKING:
    from PIL import Image

    from detector.ask import Detector

EXAMPLES = f"""examples:
  dvc pull -r released models/resnet18          the released model, once
  python -m detector photo.jpg
  python -m detector photo.jpg --model models/exported
  python -m detector photo.jpg --explain evidence.png
  python -m detector holiday/ *.png --csv > answers.csv
  curl -s https://example.org/photo.jpg | python -m detector - --json

Exit status 1 when one of the pictures could not be read.
{LIMIT}
"""
MOST = 20  # pictures of which drawings fit on a sheet that still opens
MANY = 100  # pictures, from which on there is a progress bar
COLUMNS = ["file", "verdict", "p_fake", "unlike", "notes", "error"]
WIDEST = 60  # characters of a file's name in the table; longer ones push the rest of their row

Row = dict[str, Any]  # file, verdict, p_fake, unlike, notes, error: None is what a row has not


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m detector",
        description="Ask a trained detector whether pictures are FAKE (AI-generated) or REAL.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="+", metavar="picture", help="a file, a folder, or - for standard input")
    parser.add_argument("--model", default="models/resnet18", metavar="FOLDER", help="default: %(default)s")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list with an object a picture")
    form.add_argument("--csv", action="store_true", help="file, verdict, p_fake, unlike, notes, error")
    parser.add_argument("--explain", metavar="PNG", help=f"draw where the evidence lies, in {MOST} pictures at most")
    options = parser.parse_args(arguments)

    from detector.ask import Detector  # --help does without

    detector = Detector.load(options.model)
    print(f"{options.model}: {detector.title}", file=sys.stderr)
    files, problems = find(options.pictures)
    if options.explain and len(files) > MOST:
        raise UserError(f"{len(files)} pictures: --explain draws {MOST} at most")
    drawings: list[Image.Image] = []
    answers = explained(detector, files, drawings) if options.explain else answered(detector, files)
    rows = chain((failed(*problem) for problem in problems), answers)
    write = as_json if options.json else as_csv if options.csv else as_table(files)
    unread = 0

    def reported() -> Iterator[Row]:
        nonlocal unread
        for row in rows:
            if row["error"] is not None:
                unread += 1
                tqdm.write(one_line(f"error: {row['file']}: {row['error']}"), file=sys.stderr)
            yield row

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        for line in write(reported()):
            tqdm.write(line)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if drawings:
        write_drawings(Path(options.explain), drawings)
    if not options.json and not options.csv:
        print(LIMIT, file=sys.stderr)
    if unread:
        sys.exit(1)


def find(names: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The picture files that names on the command line stand for, those in a folder sorted, and problems: name, reason.

    Hidden files and folders are passed over: thumbnails, and what macOS puts beside files on foreign disks.
    """
    from detector.pictures import SUFFIXES

    files: list[str] = []
    problems: list[tuple[str, str]] = []
    for name in names:
        if not os.path.isdir(name):  # noqa: PTH112 (Path.is_dir raises where it may not look)
            files.append(name)
            continue
        found: list[str] = []
        before = len(problems)
        for folder, below, inside in os.walk(name, onerror=lambda e: problems.append((e.filename, str(e.strerror)))):
            below[:] = [entry for entry in below if not entry.startswith(".")]
            shown = [Path(folder, entry) for entry in inside if not entry.startswith(".")]
            found += [str(path) for path in shown if path.suffix.lower() in SUFFIXES]
        if not found and len(problems) == before:
            problems.append((name, "no picture in this folder"))
        files += sorted(found)
    return files, problems


def answered(detector: "Detector", files: Sequence[str]) -> Iterator[Row]:
    pictures = (sys.stdin.buffer if file == "-" else file for file in files)
    few = len(files) < MANY
    bar = tqdm(files, unit=" pictures", disable=True if few else None)  # None: where stderr is no terminal
    for file, answer in zip(bar, detector.stream(pictures), strict=True):
        if isinstance(answer, UserError):
            yield failed(file, str(answer))
        else:
            yield {"file": file, **vars(answer), "error": None}


def explained(detector: "Detector", files: Sequence[str], drawings: "list[Image.Image]") -> Iterator[Row]:
    """As `answered`, and puts a drawing of each answer into `drawings`."""
    for file in files:
        try:
            explanation = detector.explain(sys.stdin.buffer if file == "-" else file)
        except UserError as error:
            yield failed(file, str(error))
        else:
            drawings.append(explanation.drawing)
            yield {"file": file, **vars(explanation.answer), "error": None}


def write_drawings(path: Path, drawings: "Sequence[Image.Image]") -> None:
    """One below the other, in the order of the answers."""
    from PIL import Image

    sheet = Image.new("RGB", (drawings[0].width, sum(drawing.height for drawing in drawings)))
    for number, drawing in enumerate(drawings):
        sheet.paste(drawing, (0, number * drawing.height))
    with replacing(path) as new:
        sheet.save(new, "PNG")


def failed(file: str, reason: str) -> Row:
    return {"file": file, "verdict": None, "p_fake": None, "unlike": None, "notes": [], "error": one_line(reason)}


def as_table(files: Sequence[str]) -> Callable[[Iterable[Row]], Iterator[str]]:
    """A writer of the rows that have an answer; the others are on stderr."""
    from detector.explain import percent

    width = min(WIDEST, max([len(one_line(file)) for file in files], default=0))

    def lines(rows: Iterable[Row]) -> Iterator[str]:
        yield f"{'file':{width}}  verdict   P(FAKE)  notes"
        for row in rows:
            if row["error"] is None:
                text = f"{one_line(row['file']):{width}}  {row['verdict']:7}  {percent(row['p_fake']):>8}"
                yield f"{text}  {'; '.join(row['notes'])}".rstrip()

    return lines


def as_csv(rows: Iterable[Row]) -> Iterator[str]:
    yield csv_line(COLUMNS)
    for row in rows:
        cells = {**row, "notes": "; ".join(row["notes"])}
        yield csv_line([cells[name] for name in COLUMNS])


def csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def as_json(rows: Iterable[Row]) -> Iterator[str]:
    """One list, written row by row."""
    before = "["
    for row in rows:
        yield before + json.dumps(row)
        before = ","
    yield "]" if before == "," else "[]"


def one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    run(main)
