"""Contact sheets: enlarged test images with their label and P(FAKE)."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.explain import enlarge, overlay
from detector.labels import CLASSES, FAKE
from detector.output import percent
from stages.data import OBJECT_CLASSES, MappedImages

COLUMNS, TILE, ENLARGED = 8, 128, 96  # tiles in a row, pixels
HEADING, CAPTION, GAP = 34, 42, 4  # pixels

Tile = tuple[list[Image.Image], list[str]]  # pictures one below the other, lines of text below them


def draw_mistakes(
    path: Path, scores: dict[str, np.ndarray], images: np.ndarray | MappedImages, threshold: float, number: int
) -> None:
    """Draw the `number` most confident mistakes, half of each kind."""
    is_fake, said_fake, logit = scores["label"] == FAKE, scores["p_fake"] >= threshold, scores["logit"]
    caught_wrongly = np.flatnonzero(said_fake & ~is_fake)
    missed = np.flatnonzero(~said_fake & is_fake)
    kinds = [  # by logit: it still differs where the probability is rounded to 1
        (
            "REAL, taken for FAKE",
            caught_wrongly[np.argsort(-logit[caught_wrongly], kind="stable")],
            int((~is_fake).sum()),
        ),
        ("FAKE, taken for REAL", missed[np.argsort(logit[missed], kind="stable")], int(is_fake.sum())),
    ]
    blocks = []
    for title, order, of_kind in kinds:
        shown = order[: number // 2]
        text = f"{title}: {len(order):,} of {of_kind:,} images"
        if len(shown) < len(order):
            text += f", the {len(shown)} farthest from {percent(threshold)}"
        blocks.append((text, [tile([enlarge(images[i], ENLARGED)], scores, i) for i in shown]))
    contact_sheet(path, blocks)


def draw_explained(
    path: Path,
    scores: dict[str, np.ndarray],
    images: np.ndarray | MappedImages,
    threshold: float,
    chosen: np.ndarray,
    maps: np.ndarray,
) -> None:
    """Draw hits and misses among the `chosen` images, with their occlusion maps, (N, h, w): the first of each kind, not
    the nicest."""
    is_fake, said_fake = scores["label"] == FAKE, scores["p_fake"] >= threshold
    of_image = dict(zip(chosen.tolist(), maps, strict=True))
    kinds = {
        "FAKE, and called FAKE": said_fake & is_fake,
        "REAL, and called REAL": ~said_fake & ~is_fake,
        f"Mistakes, FAKE being P(FAKE) from {percent(threshold)} on": said_fake != is_fake,
    }
    blocks = []
    for title, kind in kinds.items():
        shown = [i for i in chosen.tolist() if kind[i]][:COLUMNS]
        tiles = [
            tile([enlarge(images[i], ENLARGED), overlay(images[i], of_image[i], ENLARGED)], scores, i) for i in shown
        ]
        blocks.append((f"{title} (evidence for FAKE orange, for REAL blue)", tiles))
    contact_sheet(path, blocks)


def tile(pictures: list[Image.Image], scores: dict[str, np.ndarray], index: int) -> Tile:
    number_of_class = int(scores["object_class"][index])
    kind = f" {OBJECT_CLASSES[number_of_class]}" if number_of_class >= 0 else ""
    return pictures, [f"{CLASSES[int(scores['label'][index])]}{kind}", f"P(FAKE) {percent(scores['p_fake'][index])}"]


def contact_sheet(path: Path, blocks: list[tuple[str, list[Tile]]]) -> None:
    """Draw blocks of a heading and tiles, COLUMNS in a row."""

    def height_of(tiles: list[Tile]) -> int:
        return max([len(pictures) for pictures, _ in tiles], default=1) * (ENLARGED + GAP) - GAP + CAPTION

    rows = [max(1, -(-len(tiles) // COLUMNS)) for _, tiles in blocks]
    height = sum(HEADING + row * height_of(tiles) for row, (_, tiles) in zip(rows, blocks, strict=True))
    sheet = Image.new("RGB", (COLUMNS * TILE, height), "white")
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(18), ImageFont.load_default(13)
    top = 0
    for row, (heading, tiles) in zip(rows, blocks, strict=True):
        pen.text((8, top + 8), heading, "black", large)
        top += HEADING
        for place, (pictures, lines) in enumerate(tiles):
            left, y = place % COLUMNS * TILE, top + place // COLUMNS * height_of(tiles)
            for picture in pictures:
                sheet.paste(picture, (left + (TILE - ENLARGED) // 2, y))
                y += ENLARGED + GAP
            for line in lines:
                pen.text((left + TILE // 2, y - 2), line, "black", small, "ma")
                y += 16
        top += row * height_of(tiles)
    sheet.save(path, format="png", optimize=True)
