"""Contact sheets of the data, plots/data: examples of each source, and near-duplicates side by side."""

import importlib.util
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.labels import CLASSES

WIDTH = 830  # pixels; what a page of the documentation shows, and GitHub
TILE, GAP, MARGIN = 96, 6, 10  # pixels; three times CIFAKE's 32
COLUMNS = (WIDTH - 2 * MARGIN + GAP) // (TILE + GAP)
HEADING, CAPTION = 20, 15  # pixels, the sizes of the letters; a phone shows them at half of it
MOST_SOURCES = 12  # of a class that are drawn, those with the most pictures


def draw_examples(
    path: Path,
    read: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    sources: np.ndarray,
    source_names: list[str],
) -> None:
    """Draw a row of images of each source of each class, under the class, the source and the number of its images.

    read: indices, int64 (K) -> images, uint8 (K, S, S, 3), RGB. labels, sources: integers (N), into CLASSES and
    source_names. The same images give the same file, and those of a source are taken evenly from all of it.
    """
    rows, left_out = [], []
    for label, class_name in enumerate(CLASSES):
        counts = np.bincount(sources[labels == label], minlength=len(source_names))
        most_first = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
        for source in most_first[:MOST_SOURCES]:
            of_source = np.flatnonzero((labels == label) & (sources == source))
            shown = of_source[np.unique(np.linspace(0, len(of_source) - 1, COLUMNS).astype(int))]
            name = drawable(source_names[source], f"source {source + 1}")
            heading = class_name if name == class_name else f"{class_name}: {name}"
            rows.append((heading, f"{len(of_source):,}", read(shown)))
        if len(most_first) > MOST_SOURCES:
            left_out.append(f"{len(most_first) - MOST_SOURCES} more of {class_name}")

    row_height = HEADING + 2 * GAP + TILE + GAP
    height = 2 * MARGIN + len(rows) * row_height + (HEADING + GAP if left_out else 0)
    sheet, pen = blank(height)
    y = MARGIN
    for heading, count, shown in rows:
        count_width = font(CAPTION).getlength(count)
        pen.text((WIDTH - MARGIN - count_width, y + HEADING - CAPTION), count, "dimgrey", font(CAPTION))
        room = WIDTH - 2 * MARGIN - count_width - 2 * GAP
        pen.text((MARGIN, y), shorten(heading, font(HEADING), room), "black", font(HEADING))
        for column, image in enumerate(shown):
            sheet.paste(tile(image), (MARGIN + column * (TILE + GAP), y + HEADING + 2 * GAP))
        y += row_height
    if left_out:
        pen.text((MARGIN, y), f"Sources that are not shown: {', '.join(left_out)}", "dimgrey", font(CAPTION))
    sheet.save(path, "PNG", optimize=True)


def draw_near_duplicates(path: Path, one: np.ndarray, other: np.ndarray, captions: list[str], title: str) -> None:
    """Draw pairs of images side by side, each over its caption, such as "train / test".

    one, other: uint8 (P, S, S, 3), RGB, P >= 0. title: such as "590 pairs of near-duplicates".
    """
    pair_width, pair_height = 2 * TILE + 2 * GAP, TILE + CAPTION + 3 * GAP
    in_row = (WIDTH - 2 * MARGIN + GAP) // pair_width
    top = MARGIN + HEADING + 2 * GAP
    sheet, pen = blank(top + -(-len(one) // in_row) * pair_height + MARGIN)
    pen.text((MARGIN, MARGIN), shorten(title, font(HEADING), WIDTH - 2 * MARGIN), "black", font(HEADING))
    for k, (left, right, caption) in enumerate(zip(one, other, captions, strict=True)):
        x, y = MARGIN + k % in_row * pair_width, top + k // in_row * pair_height
        sheet.paste(tile(left), (x, y))
        sheet.paste(tile(right), (x + TILE, y))  # without a gap: what differs is easier to see
        text = shorten(drawable(caption, f"pair {k + 1}"), font(CAPTION), 2 * TILE)
        pen.text((x, y + TILE + GAP // 2), text, "black", font(CAPTION))
    sheet.save(path, "PNG", optimize=True)


def blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (WIDTH, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def tile(image: np.ndarray) -> Image.Image:
    """Return an image, uint8 (S, S, 3), at TILE x TILE: its pixels enlarged, or the whole reduced."""
    method = Image.Resampling.NEAREST if TILE % len(image) == 0 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(image)).resize((TILE, TILE), method)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek and Cyrillic. Pillow's own font has ASCII alone.

    Laid out by Pillow's basic engine, the same on each system: the better one is not in every build.
    """
    package = importlib.util.find_spec("matplotlib")  # importing it would take 0.4 s
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def drawable(name: str, instead: str) -> str:
    """Return a name as it can be drawn: where letters are lacking (Chinese, Arabic...), `instead` and what remains."""
    name = unicodedata.normalize("NFC", name)
    if all(map(has_glyph, name)) and name.strip():
        return name
    parts = "".join(character if has_glyph(character) else "\n" for character in name).split("\n")
    remains = " … ".join(part.strip() for part in parts if any(map(str.isalnum, part)))
    return f"{instead} ({remains})" if remains else instead


@cache
def has_glyph(character: str) -> bool:
    """Whether a character can be drawn from left to right by itself. Arabic letters of the font would not be joined."""
    if not character.isprintable() or unicodedata.combining(character):
        return False
    if unicodedata.bidirectional(character) in ("R", "AL", "AN"):
        return False
    lacking = font(CAPTION).getmask("\uffff")  # no character: what the font draws for those that it lacks
    mask = font(CAPTION).getmask(character)
    return mask.size != lacking.size or bytes(mask) != bytes(lacking)


def shorten(text: str, letters: ImageFont.FreeTypeFont, room: float) -> str:
    """Cut a text's end off where it is wider than `room` pixels."""
    if letters.getlength(text) <= room:
        return text
    end = next(k for k in range(min(len(text), int(room)), -1, -1) if letters.getlength(text[:k] + "…") <= room)
    return text[:end] + "…"
