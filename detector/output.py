"""What `python -m detector` prints: a row for each picture, as a table, CSV or JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.detector import Prediction

COLUMNS = ["file", "verdict", "p_fake", "out_of_distribution", "notes", "claims", "error", "model_sha256"]
MANY = 100  # pictures, from which on there is a progress bar
WIDEST = 60  # characters of a file's name in the table; longer ones push the rest of their row

ON_CLAIMS = "What a file says is its own claim, not the detector's answer. That a file says nothing proves nothing."

FORMULA = re.compile(r"(?s)[=+\-@\t\r\n].")  # - alone is standard input

Row = dict[str, Any]  # a value for each of COLUMNS, None where there is none


def prediction_row(file: str, prediction: "Prediction", model_sha256: str) -> Row:
    claims = [vars(claim) for claim in prediction.claims]
    return {"file": file, **vars(prediction), "claims": claims, "error": None, "model_sha256": model_sha256}


def error_row(file: str, reason: str) -> Row:
    return {**dict.fromkeys(COLUMNS), "file": file, "notes": [], "claims": [], "error": one_line(reason)}


def as_table(files: Sequence[str]) -> Callable[[Iterable[Row]], Iterator[str]]:
    """A writer of the rows that have an answer; the others are on stderr."""
    width = min(WIDEST, max([len(one_line(file)) for file in files], default=0))

    def lines(rows: Iterable[Row]) -> Iterator[str]:
        yield f"{'file':{width}}  verdict   P(FAKE)  notes"
        for row in rows:
            if row["error"] is None:
                text = f"{one_line(row['file']):{width}}  {row['verdict']:7}  {percent(row['p_fake']):>8}"
                yield f"{text}  {'; '.join(row['notes'])}".rstrip()
                for claim in row["claims"]:
                    yield f"{'':{width}}  the file says: {with_source(claim)}"

    return lines


def as_csv(rows: Iterable[Row]) -> Iterator[str]:
    yield csv_line(COLUMNS)
    for row in rows:
        claims = "; ".join(with_source(claim) for claim in row["claims"])
        cells = {**row, "notes": "; ".join(row["notes"]), "claims": claims}
        yield csv_line([cells[name] for name in COLUMNS])


def csv_line(cells: Sequence[Any]) -> str:
    """Return a line without its end. Some releases of Python quote only those line breaks that end lines.

    A text that a spreadsheet would take for a formula, such as the name of a stranger's file, begins with ' instead.
    """
    line = io.StringIO()
    safe = [f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell for cell in cells]
    csv.writer(line, lineterminator="\r\n").writerow(safe)
    return line.getvalue().removesuffix("\r\n")


def as_json(rows: Iterable[Row]) -> Iterator[str]:
    """One list, written row by row."""
    before = "["
    for row in rows:
        yield before + json.dumps(row)
        before = ","
    yield "]" if before == "," else "[]"


def with_bar(files: Sequence[str]) -> Iterable[str]:
    """Return the files, with a progress bar where there are MANY."""
    if len(files) < MANY:
        return files
    from tqdm import tqdm

    return tqdm(files, unit=" pictures", disable=None)  # None: where stderr is no terminal


def with_source(claim: dict[str, Any]) -> str:
    """Return a claim in words. claim: the fields of a `Claim`."""
    credentials = "its signature fits the file" if claim["signed"] else "no signature that was found to fit the file"
    trust = credentials if claim["source"] == "C2PA" else "unsigned, anyone can write it"
    return f"{claim['says']} ({claim['source']}; {trust})"


def one_line(text: str) -> str:
    """Return a text in one line; what would steer a terminal, as in a stranger's file name, is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


def score(p_fake: float) -> str:
    """P(FAKE) without the % that odds have, and never rounded to certainty."""
    return "over 0.999" if p_fake > 0.999 else "under 0.001" if p_fake < 0.001 else f"{p_fake:.3f}"


def percent(p: float) -> str:
    """A probability as it is written under pictures: never rounded to certainty."""
    return "> 99.99%" if p > 0.9999 else "< 0.01%" if p < 0.0001 else f"{p:.2%}"
