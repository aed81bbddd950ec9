"""What `python -m detector` prints: a row for each picture, as a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.detector import Prediction

COLUMNS = ["file", "verdict", "p_fake", "out_of_distribution", "notes", "error", "model_sha256"]
WIDEST = 60  # characters of a file's name in the table; longer ones push the rest of their row

Row = dict[str, Any]  # a value for each of COLUMNS, None where there is none


def prediction_row(file: str, prediction: "Prediction", model_sha256: str) -> Row:
    return {"file": file, **vars(prediction), "error": None, "model_sha256": model_sha256}


def error_row(file: str, reason: str) -> Row:
    return {**dict.fromkeys(COLUMNS), "file": file, "notes": [], "error": one_line(reason)}


def as_table(files: Sequence[str]) -> Callable[[Iterable[Row]], Iterator[str]]:
    """A writer of the rows that have an answer; the others are on stderr."""
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
    """Return a line without its end. Some releases of Python quote only those line breaks that end lines."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def as_json(rows: Iterable[Row]) -> Iterator[str]:
    """One list, written row by row."""
    before = "["
    for row in rows:
        yield before + json.dumps(row)
        before = ","
    yield "]" if before == "," else "[]"


def one_line(text: str) -> str:
    return " ".join(text.split())


def percent(p: float) -> str:
    """A probability as it is written under pictures: never rounded to certainty."""
    return "> 99.99%" if p > 0.9999 else "< 0.01%" if p < 0.0001 else f"{p:.2%}"
