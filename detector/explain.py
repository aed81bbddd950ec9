"""Attribution: which parts of a picture an answer depends on, and a drawing of it that people can look at.

The method is occlusion (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks"): one part of
the picture after the other is inpainted, and the attribution of the part is how far the logit of FAKE falls. It needs
nothing but the network's scores, so it works for every network, without torch and without gradients. Grad-CAM, tried
beside it, marks parts that matter less: docs/research.md.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.sizes import images_at_a_time

GRID, SQUARE = 8, 2  # cells in a row and in a column: of the picture, and of the square that is inpainted at a time
# Of each neighbour of an inpainted pixel: offset (row, column), and weight in the mean.
NEIGHBOURS = [
    ((row, column), 1 / 6 if row == 0 or column == 0 else 1 / 12)
    for row, column in product((-1, 0, 1), repeat=2)
    if row or column
]

IMAGES, COPIES = 20, 1000  # of 32 px: how many are explained, and how many copies are inpainted, at a time

SIDE, GAP, HEAD, FOOT = 336, 16, 76, 74  # pixels: of each picture, between, above and below
FAKE_COLOUR, REAL_COLOUR = np.array([230, 97, 0]), np.array([30, 110, 220])  # told apart by colour-blind people too
INK, PAPER, MUTED = "#1b1b1b", "#ffffff", "#595959"


def occlusion_maps(score: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Return the attribution of each cell of each image: float32 (N, GRID, GRID), positive for FAKE, negative for REAL.

    It is the mean fall of the logit over the squares that contain the cell, each inpainted in turn.

    score: uint8 (M, S, S, 3) -> logits of FAKE (M), each with flip test-time augmentation: if only some were flipped,
    a difference could be the flip's. It is called with 50 copies of each image, for IMAGES images of 32 px at a time,
    or as many pixels. images: uint8 (N, S, S, 3), S at least GRID.
    """
    step = images_at_a_time(IMAGES, images.shape[1])
    parts = [images[start : start + step] for start in range(0, len(images), step)]
    logits = np.concatenate([score(copies_for_map(part)) for part in parts]).astype(np.float64)
    logits = logits.reshape(len(images), -1)
    falls = logits[:, :1] - logits[:, 1:]
    return (np.tensordot(falls, SQUARES, 1) / SQUARES.sum(0)).astype(np.float32)


def copies_for_map(images: np.ndarray) -> np.ndarray:
    """Return of each image, uint8 (N, S, S, 3), itself and a copy for each of SQUARES: uint8 (50 N, S, S, 3)."""
    return np.concatenate([part for image in images for part in (image[None], inpaint(image, SQUARES))])


def squares() -> np.ndarray:
    """Return every square of SQUARE x SQUARE cells: bool (N, GRID, GRID)."""
    places = range(GRID - SQUARE + 1)
    all_of_them = np.zeros((len(places) ** 2, GRID, GRID), bool)
    for number, (row, column) in enumerate(product(places, places)):
        all_of_them[number, row : row + SQUARE, column : column + SQUARE] = True
    return all_of_them


SQUARES = squares()


def inpaint(pixels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return copies of a picture, uint8 (N, S, S, 3), each with some of its cells, bool (N, GRID, GRID), filled from
    their surroundings. A copy must keep one cell at least.

    From the border inwards each pixel becomes the weighted mean of its known neighbours (after Rong et al. 2022, "A
    Consistent and Efficient Evaluation Strategy for Attribution Methods"). Of what was tried only this moves answers
    neither to FAKE nor to REAL: a flat patch or a blur leans to FAKE.
    """
    step = images_at_a_time(COPIES, len(pixels))
    return np.concatenate([_inpaint(pixels, cells[start : start + step]) for start in range(0, len(cells), step)])


def _inpaint(pixels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """All copies at once. Each round looks at the missing pixels alone, not at whole pictures: 50 times as fast at 224
    px."""
    size = len(pixels)
    wide = size + 2  # nothing is known outside the picture
    cell = np.arange(size) * GRID // size
    kept = np.zeros((len(cells), wide, wide), bool)
    kept[:, 1:-1, 1:-1] = ~cells[:, cell][:, :, cell]
    inside = np.pad(np.ones((size, size), bool), 1)
    copies = kept[..., None] * np.pad(pixels, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    missing = np.flatnonzero(inside & ~kept)
    known, filled = kept.reshape(-1, 1).astype(np.float32), copies.reshape(-1, 3)  # a row for each pixel

    def around(values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Weighted sum over the neighbours of the pixels in the rows `places`."""
        parts = (weight * values[places + row * wide + column] for (row, column), weight in NEIGHBOURS)
        return sum(parts, np.zeros(1, np.float32))

    while len(missing):
        weights = around(known, missing)
        at_border = weights[:, 0] > 0
        border = missing[at_border]
        filled[border] = around(filled, border) / weights[at_border]
        known[border] = 1
        missing = missing[~at_border]
    return copies[:, 1:-1, 1:-1].round().astype(np.uint8)


def draw_explanation(pixels: np.ndarray, occlusion_map: np.ndarray, heading: str) -> Image.Image:
    """Draw the enlarged picture, beside it the same in grey under its occlusion map, a heading and a legend.

    pixels: uint8 (S, S, 3), what the detector scored. occlusion_map: float32 (h, w), positive for FAKE, negative for
    REAL. The strongest attribution of this picture has the full colour: colours of two pictures do not compare.
    """
    sheet = Image.new("RGB", (2 * SIDE + 3 * GAP, HEAD + SIDE + FOOT), PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(26), ImageFont.load_default(15)
    pen.text((GAP, 12), heading, INK, large)
    pen.text((GAP, 50), f"as the detector saw it, {pixels.shape[1]}x{pixels.shape[0]}", MUTED, small)
    pen.text((SIDE + 2 * GAP, 50), "where it found its evidence", MUTED, small)
    sheet.paste(enlarge(pixels), (GAP, HEAD))
    sheet.paste(overlay(pixels, occlusion_map), (SIDE + 2 * GAP, HEAD))

    top = HEAD + SIDE + 14
    ramp = colours(np.linspace(-1, 1, SIDE, dtype=np.float32)[None].repeat(14, 0))
    sheet.paste(Image.fromarray(over(np.full((14, SIDE, 3), 200.0), *ramp)), (SIDE + 2 * GAP, top))
    pen.text((SIDE + 2 * GAP, top + 20), "for REAL", INK, small)
    pen.text((SIDE + 2 * GAP + SIDE // 2, top + 20), "none", INK, small, "ma")
    pen.text((SIDE + 2 * GAP + SIDE, top + 20), "for FAKE", INK, small, "ra")
    pen.text((GAP, top), "It shows where, not why, and is", MUTED, small)
    pen.text((GAP, top + 20), "no proof that the answer is right.", MUTED, small)
    return sheet


def stack_drawings(drawings: Sequence[Image.Image]) -> Image.Image:
    """Put drawings of one width below each other."""
    sheet = Image.new("RGB", (drawings[0].width, sum(drawing.height for drawing in drawings)))
    for number, drawing in enumerate(drawings):
        sheet.paste(drawing, (0, number * drawing.height))
    return sheet


def enlarge(pixels: np.ndarray, side: int = SIDE) -> Image.Image:
    """Return the picture at side x side. Its pixels are drawn as squares where each gets two or more; a larger picture
    would lose or double some of them, and is resampled."""
    crisp = side >= 2 * len(pixels)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC)


def overlay(pixels: np.ndarray, occlusion_map: np.ndarray, side: int = SIDE) -> Image.Image:
    """Return the enlarged picture in grey, coloured by its occlusion map."""
    scaled = occlusion_map.astype(np.float32) / (float(np.abs(occlusion_map).max()) or 1)
    smooth = Image.fromarray(scaled).resize((side, side), Image.Resampling.BICUBIC)
    grey = np.asarray(enlarge(pixels, side).convert("L").convert("RGB"), np.float64)
    return Image.fromarray(over(80 + grey * 0.6, *colours(np.asarray(smooth))))


def colours(attribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attribution (H, W), -1 to 1 -> its colour (H, W, 3) and its opacity (H, W, 1)."""
    colour = np.where(attribution[..., None] > 0, FAKE_COLOUR, REAL_COLOUR)
    return colour, 0.9 * np.abs(attribution[..., None]).clip(0, 1)


def over(background: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return (background * (1 - opacity) + colour * opacity).round().clip(0, 255).astype(np.uint8)
