"""The report of `python -m detector --report report.html`: one file that holds all it shows, and a CSV beside it.

It is written as the pictures are answered, each as a card, so that memory does not grow with their number.
"""

import base64
import hashlib
import io
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from detector.detector import BATCH
from detector.errors import UserError
from detector.explain import occlusion_maps, overlay
from detector.files import atomic_write
from detector.limit import closer
from detector.output import (
    COLUMNS,
    ON_CLAIMS,
    Row,
    as_csv,
    csv_line,
    error_row,
    prediction_row,
    score,
    with_bar,
    with_source,
)
from detector.preprocessed import Preprocessed, says_little
from detector.report_page import SCRIPT, STYLE
from detector.written import file_to_write, table_to_write, without_formulas

if TYPE_CHECKING:
    from detector.detector import Detector

THUMBNAIL = 128  # pixels of its longer side
# Pictures whose evidence is drawn: the first that are not called REAL, as those are what somebody will look into. A map
# takes 50 answers, so that those of 10,000 pictures would take as long as half a million of them.
DRAWN = 100


def write_report(
    path: Path,
    detector: "Detector",
    problems: Sequence[tuple[str, str]],
    files: Sequence[str],
    note: Callable[[Row], None],
) -> str:
    """Write the page, and the answers as CSV beside it: each whole, or as it was before. Return what was written.

    problems: names that are no picture files, each with the reason. note: called with each row. Raises UserError where
    the page's name does not end in .html, where either cannot be written, and where the place of the CSV, which nobody
    named, has a file that is none of this program's.
    """
    table = table_to_write(file_to_write(path, ".html", ".htm").with_suffix(".csv"), csv_line(COLUMNS))
    counts: Counter[str] = Counter()
    with (
        atomic_write(path) as new,
        atomic_write(table) as new_table,
        tempfile.TemporaryFile("w+", dir=path.parent, encoding="utf-8", errors="backslashreplace") as cards,
        new_table.open("w", encoding="utf-8", errors="backslashreplace", newline="") as lines,
    ):

        def rows() -> Iterator[Row]:
            for problem in problems:
                yield written(error_row(*problem))
            for row, images in answers(detector, files):
                yield written(row, *images)

        def written(row: Row, *images: Image.Image) -> Row:
            note(row)
            kind = kind_of(row)
            counts[kind] += 1
            counts["little"] += says_little(row["notes"])
            counts["claims"] += bool(row["claims"])
            cards.write(card(detector, row, kind, *images))
            return row

        lines.writelines(f"{without_formulas(line)}\r\n" for line in as_csv(rows()))
        with new.open("w", encoding="utf-8", errors="backslashreplace") as page:
            page.write(head(detector, counts))
            cards.seek(0)
            shutil.copyfileobj(cards, page)
            page.write(f"</ol>\n<script>{SCRIPT}</script>\n</body>\n</html>\n")
    return f"{path} and {table}: {sum(counts[kind] for kind in KINDS):,} pictures"


def answers(detector: "Detector", files: Sequence[str]) -> Iterator[tuple[Row, list[Image.Image]]]:
    """Yield a row for each picture, and what is shown of it: its thumbnail and, of the first DRAWN that are not called
    REAL, the evidence."""
    drawn = 0
    remaining = iter(with_bar(files))
    while names := list(islice(remaining, BATCH)):
        batch = detector.preprocess_all((sys.stdin.buffer if name == "-" else name for name in names), THUMBNAIL)
        predictions = iter(detector.predict_batch([one for one in batch if isinstance(one, Preprocessed)]))
        for name, one in zip(names, batch, strict=True):
            if isinstance(one, UserError):
                yield error_row(name, str(one)), []
                continue
            prediction = next(predictions)
            assert one.thumbnail is not None
            images = [Image.fromarray(one.thumbnail)]
            if prediction.verdict != "REAL" and drawn < DRAWN:
                drawn += 1
                images.append(evidence(detector, one.pixels))
            yield prediction_row(name, prediction, detector.sha256), images


def evidence(detector: "Detector", pixels: np.ndarray) -> Image.Image:
    """Return the occlusion map over what the model saw of a picture."""
    (occlusion_map,) = occlusion_maps(lambda images: detector.score(images, math.inf).logits, pixels[None])
    return overlay(pixels, occlusion_map, THUMBNAIL)


KINDS = {"FAKE": "FAKE", "UNSURE": "UNSURE", "REAL": "REAL", "unread": "could not be read"}


def kind_of(row: Row) -> str:
    return "unread" if row["error"] is not None else str(row["verdict"])


def card(detector: "Detector", row: Row, kind: str, *images: Image.Image) -> str:
    """Return HTML of one picture: a thumbnail, then the evidence, if it was drawn. All that others wrote is escaped."""
    name = shown("standard input" if row["file"] == "-" else row["file"])
    little = " little" if says_little(row["notes"]) else ""
    number = "" if row["p_fake"] is None else f' data-score="{row["p_fake"]:.6f}"'
    parts = [f'<li class="{kind}{little}{" claims" if row["claims"] else ""}"{number}>']
    parts.append(f'<img src="{data_address(images[0])}" alt="">' if images else '<span class="none"></span>')
    parts.append(f"<div><h2>{name}</h2>")
    if kind == "unread":
        parts.append(f'<p class="reason">Could not be read: {shown(row["error"])}</p>')
    else:
        if little:
            parts.append('<p class="headline">The answer says little</p>')
        said = f"{shown(closer(kind, detector.scale))} Score {score(row['p_fake'])}."
        parts.append(f'<p class="verdict"><b>{kind}</b>: {said}</p>')
    parts += [f'<p class="note">{shown(note)}</p>' for note in row["notes"]]
    parts += [f'<p class="claim">The file says: {shown(with_source(claim))}</p>' for claim in row["claims"]]
    if len(images) > 1:
        drawing = f'<img src="{data_address(images[1])}" alt="the evidence, drawn over the picture">'
        parts.append(f"<details><summary>Where the evidence lies</summary>{drawing}</details>")
    return "".join([*parts, "</div></li>\n"])


def head(detector: "Detector", counts: Counter[str]) -> str:
    """Return HTML of everything above the cards."""
    total = sum(counts[kind] for kind in KINDS)
    chosen = {"": f"all {total:,}"} | {kind: f"{name} {counts[kind]:,}" for kind, name in KINDS.items() if counts[kind]}
    if counts["claims"]:
        chosen["claims"] = f"file says something {counts['claims']:,}"
    buttons = "".join(f'<button value="{kind}">{name}</button>' for kind, name in chosen.items())
    said = ", ".join([f"{counts[kind]:,} {name}" for kind, name in KINDS.items() if counts[kind]])
    little = f" Of {counts['little']:,} of them, the answer says little." if counts["little"] else ""
    claims = f"<p>{ON_CLAIMS}</p>" if counts["claims"] else ""
    real, fake = map(escape, detector.scale)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{total:,} pictures, answered by {shown(detector.record.model)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{total:,} pictures, answered by {shown(detector.record.model)}</h1>
<p class="limit">{shown(detector.limit)}</p>
<p><strong>{said or "none"}.</strong>{little}</p>
<p>The score lies between 0, like {real}, and 1, like {fake}.
It is not the probability that a picture is FAKE.
UNSURE is the verdict between {" and ".join(map(score, band(detector)))}.
The evidence is drawn for the first {DRAWN} pictures that are not called REAL, over what the model saw of them: orange
speaks for FAKE, blue for REAL, and the colours of two pictures do not compare. It shows where, not why.</p>
{claims}
<p class="soft">Model: {shown(detector.title)}. SHA-256 of its model.json: <code>{detector.sha256}</code>.
{release()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p>
<div class="controls" hidden>
<div id="show" role="group" aria-label="Show">{buttons}</div>
<div id="sort" role="group" aria-label="Sort by">Sort by <button value="place">order</button>
<button value="score">score</button> <button value="name">file</button></div>
</div>
<ol id="cards">
"""


def band(detector: "Detector") -> tuple[float, float]:
    return detector.record.abstention_band


def release() -> str:
    try:
        return f"ai-art-detector {version('ai-art-detector')}"
    except PackageNotFoundError:
        return "ai-art-detector, from its repository"


def policy() -> str:
    """Return the Content-Security-Policy: nothing but what the file itself holds."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; img-src data:; style-src {digest(STYLE)}; script-src {digest(SCRIPT)}; base-uri 'none'"


def shown(text: Any) -> str:
    """Return text as HTML in which what cannot be printed, such as marks that turn its direction, is spelt out."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)))


def data_address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=60, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
