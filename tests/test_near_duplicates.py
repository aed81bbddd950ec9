"""Near-copies of a picture are found by hash and pixels, and nothing else is."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detector.images import decode
from stages.prepare.near_duplicates import MOST_PARTNERS, candidates, near_duplicates
from stages.prepare.splitting import group_ids
from stages.prepare.traits import perceptual_hashes
from tests.test_prepare import encoded, picture

SAMPLE = Path(__file__).parent.parent / "data/sample"


def near_copies(image: np.ndarray) -> dict[str, np.ndarray]:
    size, picture = len(image), Image.fromarray(image)
    edge, bicubic = 0.02 * size, Image.Resampling.BICUBIC
    reduced = picture.resize((round(0.9 * size),) * 2, bicubic).resize((size, size), bicubic)
    cut = picture.resize((size, size), bicubic, box=(edge, edge, size - edge, size - edge))
    brighter = Image.fromarray((image.astype(np.int16) + 8).clip(0, 255).astype(np.uint8))
    return {
        "quality 50": decode(encoded(picture, quality=50)),
        "resized": decode(encoded(reduced)),
        "cropped": decode(encoded(cut)),
        "brighter": decode(encoded(brighter)),
    }


@pytest.mark.parametrize("size", [24, 31, 32, 128])
def test_a_hash_stays_when_a_picture_is_encoded_or_brightened(size: int) -> None:
    images = np.stack([np.asarray(picture(seed, (size, size))) for seed in range(50)])
    hashes = perceptual_hashes(images)
    again = np.stack([decode(encoded(Image.fromarray(image), quality=90, subsampling=0)) for image in images])
    assert not (hashes & np.uint64(1)).any()
    changed = np.bitwise_count(hashes ^ perceptual_hashes(again // 2 + 60))
    assert changed.mean() < 4
    assert np.bitwise_count(hashes[1:] ^ hashes[:-1]).mean() == pytest.approx(31.5, abs=2)


def test_planted_near_copies_are_found_and_nothing_else() -> None:
    rows = pq.read_table(SAMPLE / "train.parquet")["image"].to_pylist()
    images = np.stack([decode(row["bytes"]) for row in rows])
    chosen = np.random.default_rng(0).choice(len(images), 100, replace=False)
    kinds: dict[str, list[np.ndarray]] = {}
    for i in chosen:
        for kind, copy in near_copies(images[i]).items():
            kinds.setdefault(kind, []).append(copy)
    for kind, least in (("quality 50", 0.95), ("resized", 0.95), ("brighter", 0.95), ("cropped", 0.85)):
        every = np.concatenate([images, np.stack(kinds[kind])])
        pairs = near_duplicates(perceptual_hashes(every), identity(every), every.__getitem__)
        planted = {(int(i), len(images) + k) for k, i in enumerate(chosen)}
        found = set(map(tuple, pairs.tolist()))
        assert len(found & planted) >= least * len(planted), kind
        assert len(found - planted) <= 10, kind  # the sample itself has 4
        assert (pairs[:, 0] < pairs[:, 1]).all()


def identity(images: np.ndarray) -> np.ndarray:
    return np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)[1].ravel()


def test_identical_flat_and_dark_pictures_are_no_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(np.asarray(picture(1))[None], 50, 0)
    flat = np.repeat(rng.integers(0, 256, (50, 1, 1, 3), np.uint8), 32 * 32, 1).reshape(-1, 32, 32, 3)
    dark = rng.integers(0, 4, (500, 32, 32, 3), np.uint8)
    sky = np.linspace(120, 200, 32)[:, None, None] + rng.normal(0, 2, (200, 32, 32, 3))
    images = np.concatenate([same, flat, dark, sky.astype(np.uint8)])
    assert len(near_duplicates(perceptual_hashes(images), identity(images), images.__getitem__)) == 0


def test_neither_the_same_layout_nor_the_same_detail_makes_a_copy() -> None:
    rng = np.random.default_rng(0)
    layouts = [np.asarray(picture(seed).resize((4, 4)).resize((32, 32)), np.float64) for seed in (1, 2)]
    details = rng.normal(0, 25, (2, 32, 32, 3))
    images = np.stack([layout + detail for layout in layouts for detail in details]).clip(0, 255).astype(np.uint8)
    same = np.zeros(5, np.uint64)  # each pair is a candidate
    copy = decode(encoded(Image.fromarray(images[2]), quality=95, subsampling=0))[None]
    pairs = near_duplicates(same, np.arange(5), np.concatenate([images, copy]).__getitem__)
    assert pairs.tolist() == [[2, 4]]


def test_a_crowd_of_near_copies_stays_bounded_and_connected() -> None:
    rng = np.random.default_rng(0)
    crowd = (np.asarray(picture(5))[None] + rng.integers(-2, 3, (2000, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    pairs = near_duplicates(perceptual_hashes(crowd), np.arange(2000), crowd.__getitem__)
    assert len(pairs) <= MOST_PARTNERS * 2000
    assert np.bincount(group_ids(2000, pairs)).max() > 1950


def test_candidates_are_the_pairs_that_differ_in_few_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 500, np.uint64)
    bits = [rng.choice(64, 5, replace=False) for _ in range(100)]
    near = hashes[:100] ^ np.array([sum(1 << int(bit) for bit in five) for five in bits], np.uint64)
    assert candidates(np.append(hashes, near)).tolist() == [[i, 500 + i] for i in range(100)]
    for few in (0, 1):
        assert candidates(hashes[:few]).shape == (0, 2)


def test_groups_are_what_pairs_connect() -> None:
    assert group_ids(6, np.array([[0, 4], [2, 3], [3, 4]])).tolist() == [0, 1, 0, 0, 0, 2]
    assert group_ids(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]
