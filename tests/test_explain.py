"""Explanations: they point to what a detector decides by, and a person can read them."""

import numpy as np
import pytest
from PIL import Image

from detector.explain import (
    FAKE_COLOUR,
    GAP,
    GRID,
    HEAD,
    REAL_COLOUR,
    SIDE,
    SQUARES,
    draw_explanation,
    inpaint,
    occlusion_maps,
)
from stages.evaluate.deletion import deletion_test

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 32, 32, 3), np.uint8)


def grain(images: np.ndarray) -> np.ndarray:
    """A detector that knows generated images by fine grain in the upper left quarter, photographs by grain in the lower
    right one: logits (N)."""

    def of(part: np.ndarray) -> np.ndarray:
        return part.astype(np.float64).std((1, 2, 3)) / 32

    return of(images[:, :16, :16]) - 1.2 * of(images[:, 16:, 16:])


def test_the_map_is_strong_where_the_detector_decides_and_says_for_what() -> None:
    occlusion_map = occlusion_maps(grain, IMAGES)
    assert occlusion_map.shape == (len(IMAGES), GRID, GRID)
    assert occlusion_map.dtype == np.float32
    half = GRID // 2
    assert (occlusion_map[:, : half - 1, : half - 1] > 0).all()
    assert (occlusion_map[:, half + 1 :, half + 1 :] < 0).all()
    assert np.allclose(occlusion_map[:, half + 1 :, : half - 1], 0)


def test_an_image_of_another_size_is_divided_too() -> None:
    assert occlusion_maps(grain, RANDOM.integers(0, 256, (1, 40, 40, 3), np.uint8)).shape == (1, GRID, GRID)


def test_what_is_hidden_is_filled_from_around_it_and_the_rest_stays() -> None:
    cells = np.zeros((1, GRID, GRID), bool)
    cells[0, 2, 5] = True
    (hidden,) = inpaint(IMAGES[0], cells)
    changed = (hidden != IMAGES[0]).any(2)
    assert changed[8:12, 20:24].all()
    assert changed.sum() == 16
    assert hidden[8:12, 20:24].std() < 0.6 * IMAGES[0].std()


def test_what_lies_between_two_colours_is_filled_with_both() -> None:
    image = np.full((32, 32, 3), 40, np.uint8)
    image[:, 16:] = 200
    cells = np.zeros((2, GRID, GRID), bool)
    cells[0, 3:5, 3:5] = cells[1, :4] = True
    middle, upper_half = inpaint(image, cells)
    assert middle[16, 12].max() < 70 < 170 < middle[16, 19].min()
    assert (np.diff(middle[16].astype(int), axis=0) >= 0).all()
    assert (upper_half[0, :4] == 40).all()
    assert (upper_half[0, -4:] == 200).all()


def test_hiding_says_nothing_of_the_hidden_pixels() -> None:
    cells = RANDOM.random((5, GRID, GRID)) < 0.25
    other = IMAGES[0].copy()
    pixels = cells[0].repeat(4, 0).repeat(4, 1)
    other[pixels] = 255 - other[pixels]
    assert (inpaint(IMAGES[0], cells[:1]) == inpaint(other, cells[:1])).all()


def test_every_cell_is_hidden_with_its_neighbours() -> None:
    assert SQUARES.sum((1, 2)).tolist() == [4] * 49
    assert SQUARES.any(0).all()


def test_hiding_what_matters_costs_more_than_hiding_anything() -> None:
    said_fake = grain(IMAGES) > 0
    falls = deletion_test(grain, IMAGES, grain(IMAGES), occlusion_maps(grain, IMAGES), said_fake, temperature=0.1)
    assert falls["deletion_important"] > 2 * falls["deletion_random"] > 0


@pytest.mark.parametrize(("sign", "colour"), [(1, FAKE_COLOUR), (-1, REAL_COLOUR)])
def test_the_drawing_marks_the_place_in_the_colour_of_its_side(sign: int, colour: np.ndarray) -> None:
    occlusion_map = np.zeros((GRID, GRID), np.float32)
    occlusion_map[1, 6] = sign * 0.3
    drawing = draw_explanation(np.full((32, 32, 3), 128, np.uint8), occlusion_map, "FAKE, P(FAKE) 97.12%")
    pixels = np.asarray(drawing).astype(int)
    left, cell = SIDE + 2 * GAP, SIDE // GRID

    def at(row: int, column: int) -> np.ndarray:
        return pixels[HEAD + row * cell + cell // 2, left + column * cell + cell // 2]

    assert np.abs(at(1, 6) - colour).max() < 40
    assert np.ptp(at(6, 1)) == 0  # grey: nothing there
    assert (pixels[HEAD + 10, GAP + 10] == 128).all()  # beside it the picture as it was
    assert pixels[12:40].min() < 60, "the heading is there"
    legend = pixels[HEAD + SIDE + 34 : HEAD + SIDE + 50, left : left + SIDE]
    assert max(legend[:, :40].min(), legend[:, SIDE // 2 - 15 : SIDE // 2 + 15].min(), legend[:, -40:].min()) < 100


def test_an_empty_map_is_drawn_as_none() -> None:
    drawing = draw_explanation(IMAGES[0], np.zeros((GRID, GRID), np.float32), "UNSURE")
    assert isinstance(drawing, Image.Image)
    place = np.asarray(drawing)[HEAD : HEAD + SIDE, SIDE + 2 * GAP : 2 * SIDE + 2 * GAP].astype(int)
    assert np.ptp(place, axis=2).max() == 0
