"""What training and evaluation do to images, beside what the libraries do that people's images go through."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from stages.data import MappedImages, load_split
from stages.evaluate.corruptions import corruption as evaluated_corruption
from stages.train import corruption
from stages.train.augment import Read, batches, on_device, reader
from tests.conftest import Project


@pytest.fixture
def photographs(project: Project) -> np.ndarray:
    """Moved by a few pixels, away from the grid of the JPEG blocks that they come from: there, steps of twice the size
    would round halves up or down by chance."""
    images = load_split(project.path / "data/test").images[:200]
    return np.ascontiguousarray(np.roll(images, (3, 5), (1, 2)))


def corrupt(images: np.ndarray, kind: str, strength: float) -> np.ndarray:
    """As `evaluate` does, in blocks."""
    change = evaluated_corruption(kind, strength)
    return np.concatenate([change(block) for block in np.array_split(images, range(1000, len(images), 1000))])


def read(images: torch.Tensor) -> Read:
    return reader(MappedImages([images.numpy()]), torch.device("cpu"))


def as_planes(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def as_images(planes: torch.Tensor) -> np.ndarray:
    return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in levels of 0 to 255."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_a_split_moves_to_a_device_as_it_is() -> None:
    rng = np.random.default_rng(0)
    shards = [rng.integers(0, 256, (rows, 130, 130, 3), np.uint8) for rows in (90, 90, 20)]  # more than a block each
    moved = on_device(MappedImages(shards), torch.device("cpu"))
    assert moved.shape == (200, 130, 130)
    assert (moved.view(torch.uint8).view(200, 130, 130, 4)[..., :3].numpy() == np.concatenate(shards)).all()


def test_every_image_is_met_once_an_epoch_flipped_and_translated() -> None:
    images = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    options = {"flip": True, "translate": 2, "corruption": 0}
    met, variants = [], set()
    for x, y in batches(read(images), torch.arange(40.0), 8, 10, options, generator):
        for image, target in zip(x, y.int().tolist(), strict=True):
            met.append(target)
            padded = nn.functional.pad(images[target].permute(2, 0, 1).float(), (2, 2, 2, 2), mode="reflect")
            candidates = {
                (down, right, flip): crop.flip(2) if flip else crop
                for down in range(5)
                for right in range(5)
                for flip in (False, True)
                for crop in [padded[:, down : down + 8, right : right + 8]]
            }
            same = [name for name, c in candidates.items() if torch.equal(c, image.permute(2, 0, 1).float())]
            assert len(same) == 1
            variants.add(same[0])
    assert sorted(met) == list(range(40))
    assert len(variants) > 20

    plain = {"flip": False, "translate": 0, "corruption": 0}
    for x, y in batches(read(images), torch.arange(40.0), 8, 10, plain, generator):
        assert torch.equal(x, images[y.long()])


def test_a_share_of_each_batch_is_corrupted_and_the_rest_is_not(photographs: np.ndarray) -> None:
    images = torch.from_numpy(photographs)
    options = {"flip": False, "translate": 0, "corruption": 0.4}
    for x, y in batches(read(images), torch.arange(200.0), 32, 50, options, torch.Generator().manual_seed(0)):
        assert x.dtype == torch.uint8
        changed = (x != images[y.long()]).flatten(1).any(1)
        assert 18 <= changed.sum() <= 20  # 20, of which a mild blur may leave a flat image as it was
        assert not changed[20:].any()


@pytest.mark.parametrize("batch_size", [62, 63])
def test_all_images_of_a_batch_can_be_corrupted(photographs: np.ndarray, batch_size: int) -> None:
    """Also where a batch has no four equal parts."""
    options = {"flip": False, "translate": 0, "corruption": 1}
    images = torch.from_numpy(photographs)
    for x, y in batches(read(images), torch.arange(200.0), 32, batch_size, options, torch.Generator().manual_seed(0)):
        changed = (x != images[y.long()]).flatten(1).any(1)
        assert changed[:60].sum() > 55


def test_a_batch_of_crops_has_the_same_rows_and_columns_of_all_its_images(photographs: np.ndarray) -> None:
    images = torch.from_numpy(photographs)
    options = {"flip": False, "translate": 0, "corruption": 0}
    corners = [(top, left) for top in range(9) for left in range(9)]
    met = set()
    for x, y in batches(read(images), torch.arange(200.0), 32, 10, options, torch.Generator().manual_seed(0), crop=24):
        whole = images[y.long()]
        met |= {(t, left) for t, left in corners if torch.equal(x, whole[:, t : t + 24, left : left + 24])}
    assert 10 < len(met) <= 20  # of 20 batches


def test_corruption_is_repeatable(photographs: np.ndarray) -> None:
    options = {"flip": True, "translate": 2, "corruption": 1}
    pixels, targets = read(torch.from_numpy(photographs)), torch.zeros(200)
    one, other = (list(batches(pixels, targets, 32, 50, options, torch.Generator().manual_seed(3))) for _ in range(2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
def test_the_loss_of_jpeg_is_that_of_libjpeg(photographs: np.ndarray, quality: int) -> None:
    tables = torch.tensor([corruption.LUMA, corruption.CHROMA, corruption.CHROMA]).view(3, 1, 8, 1, 8)
    qualities = torch.full((len(photographs),), float(quality))
    ours = as_images(
        corruption.jpeg_roundtrip(
            as_planes(photographs),
            qualities,
            corruption.cosine_transform(),
            tables,
            corruption.TO_YCC,
            corruption.FROM_YCC,
        )
    )
    theirs = corrupt(photographs, "jpeg", quality)
    assert difference(ours, theirs) < 1.2 < 0.35 * difference(photographs, theirs)


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_blur_is_that_of_scipy(photographs: np.ndarray, sigma: float) -> None:
    matrices = corruption.blur_matrix(32, sigma).expand(len(photographs), 32, 32)
    ours = as_images(corruption.along_both_sides(as_planes(photographs), matrices))
    assert difference(ours, corrupt(photographs, "blur", sigma)) < 0.05


@pytest.mark.parametrize("size", [12, 24])
def test_rescaling_is_that_of_pillow(photographs: np.ndarray, size: int) -> None:
    matrices = corruption.rescale_matrix(32, size).expand(len(photographs), 32, 32)
    ours = as_images(corruption.along_both_sides(as_planes(photographs), matrices))
    assert difference(ours, corrupt(photographs, "rescale", size)) < 0.5


def test_noise_has_the_standard_deviation_that_is_asked_for() -> None:
    grey = np.full((50, 32, 32, 3), 128, np.uint8)
    assert corrupt(grey, "noise", 0.08).std() / 255 == pytest.approx(0.08, rel=0.01)
    noise, *_ = corruption.corruptions_for(32, torch.device("cpu"))
    noisy = noise(as_planes(grey), torch.Generator().manual_seed(0)) / 255
    spread = noisy.std((1, 2, 3))
    assert corruption.NOISE[0] * 0.9 < spread.min() < spread.max() < corruption.NOISE[1] * 1.1


@pytest.mark.parametrize(
    ("kind", "mild", "strong"), [("noise", 0.04, 0.1), ("blur", 0.4, 1), ("jpeg", 80, 40), ("rescale", 24, 12)]
)
def test_corruptions_repeat_and_grow_with_their_strength(
    photographs: np.ndarray, kind: str, mild: float, strong: float
) -> None:
    one, again, other = (corrupt(photographs, kind, strength) for strength in (mild, mild, strong))
    assert one.dtype == np.uint8
    assert one.shape == photographs.shape
    assert np.array_equal(one, again)
    assert 0 < difference(photographs, one) < difference(photographs, other)


def test_every_chunk_of_images_is_corrupted_alike(photographs: np.ndarray) -> None:
    many = np.concatenate([photographs] * 8)
    assert np.array_equal(corrupt(many, "jpeg", 50), np.concatenate([corrupt(photographs, "jpeg", 50)] * 8))
    noisy = corrupt(many, "noise", 0.1)
    assert not np.array_equal(noisy[:200], noisy[1000:1200])


def test_the_cosine_transform_keeps_lengths() -> None:
    assert math.isclose(float(corruption.cosine_transform().square().sum()), 8, rel_tol=1e-5)
