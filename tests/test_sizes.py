"""Images of 32 px get what they always got, to the byte; images of other sides get the same by their share."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from detector.errors import UserError
from detector.explain import SQUARES, draw_explanation, enlarge, inpaint, occlusion_maps
from detector.images import decode
from detector.sizes import images_at_a_time
from stages.data import MappedImages
from stages.evaluate.sheets import COLUMNS, draw_explained, draw_mistakes
from stages.export.ood import other_pictures
from stages.train import corruption
from stages.train.augment import batches, reader
from tests.conftest import ROOT
from tests.test_augment import as_images, as_planes, corrupt, difference

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(5).integers(0, 256, (60, 32, 32, 3), np.uint8)


KINDS = ["noise", "blur", "jpeg", "rescale"]  # as `corruptions_for` orders them


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def mosaics(side: int) -> np.ndarray:
    """Photographs and generated images of the sample beside each other, uint8 (20, side, side, 3): as much fine detail
    as at 32 px. Moved away from the grid of their JPEG blocks, as in test_augment.py."""
    rows = pq.read_table(ROOT / "data/sample/test.parquet")["image"].to_pylist()
    per_side = -(-side // 32) + 1
    chosen = np.random.default_rng(0).integers(0, len(rows), (20, per_side, per_side))
    tiles = np.stack([decode(rows[number]["bytes"]) for number in chosen.ravel()])
    grid = tiles.reshape(20, per_side, per_side, 32, 32, 3).swapaxes(2, 3).reshape(20, per_side * 32, per_side * 32, 3)
    return np.ascontiguousarray(grid[:, 3 : 3 + side, 5 : 5 + side])


@pytest.mark.parametrize(
    ("kind", "strength", "expected"),
    [
        ("noise", 0.04, "8c4fc529bab9f966"),
        ("noise", 0.1, "044747d311edc786"),
        ("blur", 0.4, "951f422d5f1a0355"),
        ("blur", 1.0, "fe4b5ec8ad58ada9"),
        ("blur", 16, "06ea00ac22ec5613"),
        ("jpeg", 80, "dd383c692a60c2f2"),
        ("jpeg", 40, "6328ba73a736cd8c"),
        ("rescale", 24, "aff3ca025f64b8aa"),
        ("rescale", 12, "4585fbe991388431"),
        ("rescale", 100, "12f716a3353db225"),
    ],
)
def test_at_32_px_evaluation_corrupts_as_before_sizes_were_free(kind: str, strength: float, expected: str) -> None:
    assert digest(corrupt(RANDOM, kind, strength)) == expected


@pytest.mark.parametrize(("number", "expected"), [(0, -75216.24), (1, -51648.73), (2, -74006.66), (3, -76646.95)])
def test_at_32_px_training_corrupts_as_before_sizes_were_free(number: int, expected: float) -> None:
    """A sum with fixed weights stands for the bytes: they differ in the last bit from processor to processor."""
    generator = torch.Generator().manual_seed(3)
    changed = corruption.corruptions_for(32, CPU)[number](as_planes(RANDOM), generator).numpy()
    weights = np.random.default_rng(1).standard_normal(changed.shape)
    assert float((weights * changed).sum()) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("crop", "expected"), [(None, -45150.8), (24, -45169.3)])
def test_at_32_px_a_batch_is_what_it_was_before_sizes_were_free(crop: int | None, expected: float) -> None:
    generator, options = torch.Generator().manual_seed(3), {"flip": True, "translate": 2, "corruption": 0.6}
    torch.manual_seed(1)
    epoch = batches(reader(MappedImages([RANDOM]), CPU), torch.arange(60), 32, 20, options, generator, crop)
    images, targets = (torch.cat(parts).numpy() for parts in zip(*epoch, strict=True))
    weights = np.random.default_rng(1).standard_normal(images.shape)
    assert targets[:10].tolist() == [46, 21, 53, 15, 4, 55, 30, 35, 45, 58]
    assert float((weights * images).sum()) == pytest.approx(expected, abs=30)  # a rounding may go the other way


@pytest.mark.parametrize("side", [64, 224])
def test_blur_and_rescaling_grow_with_the_side(side: int) -> None:
    images, times = mosaics(side)[:3], side / 32
    blurred = gaussian_filter(images.astype(float), (0, 0.6 * times, 0.6 * times, 0)).round()
    assert difference(corrupt(images, "blur", 0.6), blurred) == 0
    smaller = [Image.fromarray(image).resize((side // 2, side // 2), Image.Resampling.BICUBIC) for image in images]
    back = np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in smaller])
    assert np.array_equal(corrupt(images, "rescale", 16), back)


@pytest.mark.parametrize("side", [64, 224])
def test_noise_and_jpeg_do_not_depend_on_the_side(side: int) -> None:
    grey = np.full((4, side, side, 3), 128, np.uint8)
    assert corrupt(grey, "noise", 0.08).std() / 255 == pytest.approx(0.08, rel=0.02)
    (image,) = mosaics(side)[:1]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50, subsampling="4:2:0")
    assert np.array_equal(corrupt(image[None], "jpeg", 50)[0], decode(file.getvalue()))


@pytest.mark.parametrize("side", [34, 64, 66, 224])
def test_training_corrupts_any_even_side_as_the_libraries_do(side: int) -> None:
    images, times = mosaics(side)[:4], side / 32
    tables = torch.tensor([corruption.LUMA, corruption.CHROMA, corruption.CHROMA]).view(3, 1, 8, 1, 8)
    jpeg = corruption.jpeg_roundtrip(
        as_planes(images),
        torch.full((4,), 50.0),
        corruption.cosine_transform(),
        tables,
        corruption.TO_YCC,
        corruption.FROM_YCC,
    )
    lossy = corrupt(images, "jpeg", 50)
    assert difference(as_images(jpeg), lossy) < 1.2 < 0.35 * difference(images, lossy)
    # at the border, too, where blocks are filled up
    assert difference(as_images(jpeg)[:, -2:], lossy[:, -2:]) < 0.3 * difference(images[:, -2:], lossy[:, -2:])

    for matrix, kind, strength in (
        (corruption.blur_matrix(side, 0.7 * times), "blur", 0.7),
        (corruption.rescale_matrix(side, int(16 * times)), "rescale", 16),
    ):
        ours = as_images(corruption.along_both_sides(as_planes(images), matrix.expand(4, side, side)))
        assert difference(ours, corrupt(images, kind, strength)) < 0.5


def test_a_blur_wider_than_the_image_is_reflected_over_and_over() -> None:
    ours = corruption.blur_matrix(8, 6.0).numpy()
    np.testing.assert_allclose(ours, gaussian_filter1d(np.eye(8), 6.0, axis=0), atol=1e-5)


@pytest.mark.parametrize("side", [32, 224])
def test_training_blurs_as_much_of_a_large_image_and_rescales_to_seventeen_sizes(side: int) -> None:
    image = as_planes(mosaics(side)[:1]).expand(200, 3, side, side)
    random = torch.Generator().manual_seed(0)
    of_kind = dict(zip(KINDS, corruption.corruptions_for(side, CPU), strict=True))
    rescaled = {digest(one.numpy()) for one in of_kind["rescale"](image, random)}
    assert len(rescaled) == 17
    blurred = as_images(of_kind["blur"](image, random))
    strengths = [
        difference(corrupt(as_images(image[:1]), "blur", sigma), as_images(image[:1])) for sigma in corruption.BLUR
    ]
    found = [difference(one, as_images(image[:1])[0]) for one in blurred]
    assert (min(found), max(found)) == pytest.approx(strengths, rel=0.02)


def test_odd_sides_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"images of an even side .*, these have 33 px"):
        corruption.corruptions_for(33, CPU)


def test_batches_of_any_even_side_are_translated_corrupted_and_cropped() -> None:
    read = reader(MappedImages([mosaics(66)]), CPU)
    options = {"flip": True, "translate": 2, "corruption": 0.4}
    epoch = list(batches(read, torch.arange(20), 66, 10, options, torch.Generator().manual_seed(0), crop=50))
    assert [x.shape for x, _ in epoch] == [(10, 50, 50, 3)] * 2
    assert sorted(torch.cat([y for _, y in epoch]).tolist()) == list(range(20))


def test_memory_is_bounded_by_pixels() -> None:
    assert [images_at_a_time(1000, side) for side in (32, 64, 224, 512, 4096)] == [1000, 250, 20, 3, 1]


def grain(images: np.ndarray) -> np.ndarray:
    """A detector that sees fine grain in the upper left quarter as generated: logits (N)."""
    half = images.shape[1] // 2
    return images[:, :half, :half].astype(np.float32).std((1, 2, 3)) / 32


@pytest.mark.parametrize(
    ("side", "number", "asked"), [(32, 45, [1000, 1000, 250]), (64, 7, [250, 100]), (224, 2, [50, 50])]
)
def test_maps_of_any_side_ask_for_so_many_copies_that_memory_suffices(side: int, number: int, asked: list[int]) -> None:
    counts: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        counts.append(len(images))
        return grain(images)

    images = np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8)
    maps = occlusion_maps(counted, images)
    assert counts == asked
    assert maps.shape == (number, 8, 8)
    assert (maps[:, :3, :3] > 0).all()
    assert np.allclose(maps[:, 5:, 5:], 0)


@pytest.mark.parametrize(("side", "expected"), [(32, "9a7c291d2b25"), (64, "ee0706135e78"), (224, "d63d10e112ac")])
def test_inpainting_gives_the_bytes_that_looking_at_the_whole_picture_gave(side: int, expected: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    assert digest(inpaint(picture, SQUARES))[:12] == expected


def test_a_drawing_shows_squares_for_small_pictures_and_no_pattern_for_large_ones() -> None:
    small = np.asarray(enlarge(RANDOM[0]))
    assert np.array_equal(np.unique(small.reshape(-1, 3), axis=0), np.unique(RANDOM[0].reshape(-1, 3), axis=0))
    for side in (224, 512):
        board = np.indices((side, side)).sum(0) % 2 * 255
        drawn = np.asarray(enlarge(np.stack([board] * 3, 2).astype(np.uint8), 96))
        assert np.abs(drawn.astype(int) - 128).max() < 70, "a fine pattern became a coarse one"


@pytest.mark.parametrize("side", [64, 224, 512])
def test_explanations_and_sheets_of_any_side_are_drawn_alike(side: int, tmp_path: Path) -> None:
    images = mosaics(side)[:8]
    maps = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    assert draw_explanation(images[0], maps[0], "FAKE").size == draw_explanation(RANDOM[0], maps[0], "FAKE").size
    scores = {
        "label": np.arange(8) % 2,
        "object_class": np.full(8, -1),
        "logit": np.linspace(-3, 3, 8),
        "p_fake": np.linspace(0.1, 0.9, 8),
    }
    draw_mistakes(tmp_path / "mistakes.png", scores, images, 0.5, 4)
    draw_explained(tmp_path / "explained.png", scores, images, 0.5, np.arange(8), maps)
    draw_explained(tmp_path / "at_32.png", scores, RANDOM[:8], 0.5, np.arange(8), maps)
    with Image.open(tmp_path / "explained.png") as sheet, Image.open(tmp_path / "at_32.png") as at_32:
        assert sheet.size == at_32.size


def test_a_sheet_of_mistakes_shows_half_of_their_number_of_each_kind(tmp_path: Path) -> None:
    each = 8 * COLUMNS
    label = np.repeat([0, 1], each)
    scores = {"label": label, "object_class": np.full(2 * each, -1), "logit": np.zeros(2 * each)}
    scores["p_fake"] = np.where(label == 1, 0.9, 0.1)
    images = np.repeat(RANDOM[:1], 2 * each, axis=0)

    def height(number: int) -> int:
        draw_mistakes(tmp_path / "mistakes.png", scores, images, 0.5, number)
        with Image.open(tmp_path / "mistakes.png") as sheet:
            return sheet.height

    one_row, row = height(2), height(2 * COLUMNS + 2) - height(2)
    assert height(2 * COLUMNS) == one_row
    assert row > 0
    assert height(4 * COLUMNS + 2) == one_row + 2 * row


@pytest.mark.parametrize("side", [64, 224])
def test_other_pictures_have_the_side_of_the_test_images(side: int) -> None:
    found: Iterator[tuple[str, Any]] = other_pictures(MappedImages([mosaics(side)]))
    shapes = {kind: pictures.shape for kind, pictures in found}
    assert shapes == dict.fromkeys(("noise", "colour", "enlarged", "inverted"), (1000, side, side, 3))
