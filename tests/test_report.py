"""What `prepare` says of the data before training: traits of each picture, shortcuts, and contact sheets."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from detector.errors import UserError
from detector.images import decode
from detector.labels import FAKE, REAL
from stages.prepare import traits as traits_module
from stages.prepare.sheets import WIDTH, draw_examples, draw_near_duplicates, drawable
from stages.prepare.shortcuts import Shortcut, alarm_lines, auroc_and_errors, shortcuts, shortcuts_table
from stages.prepare.traits import (
    FILE_FIELDS,
    PIXEL_FIELDS,
    TRAITS,
    FileTraits,
    file_traits,
    jpeg_header,
    pixel_traits,
)
from tests.test_prepare import encoded, picture

SAMPLE = Path(__file__).parent.parent / "data/sample"


@pytest.fixture(scope="module")
def sample() -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """The embedded sample's files, pixels (N, 32, 32, 3) and labels (N)."""
    tables = [pq.read_table(SAMPLE / f"{split}.parquet") for split in ("train", "test")]
    files = [row["bytes"] for table in tables for row in table["image"].to_pylist()]
    labels = np.array([label for table in tables for label in table["label"].to_pylist()])
    return files, np.stack([decode(data) for data in files]), labels


def as_traits(files: list[bytes], images: np.ndarray) -> np.ndarray:
    known: dict[bytes, FileTraits] = {}
    table = np.zeros(len(files), TRAITS)
    table[FILE_FIELDS] = [file_traits(data, known) for data in files]
    table[PIXEL_FIELDS] = pixel_traits(images)
    return table


# Traits


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    return tags


def with_text() -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "a cat, steps 20")
    return chunks


@pytest.mark.parametrize(
    ("mode", "kind", "how", "expected"),
    [
        ("RGB", "JPEG", {"quality": 75}, ("JPEG", "quality 75", "4:2:0", "none")),
        ("RGB", "JPEG", {"quality": 91, "subsampling": 0}, ("JPEG", "quality 91", "4:4:4", "none")),
        ("L", "JPEG", {"quality": 60}, ("JPEG", "quality 60", "grey", "none")),
        ("RGB", "JPEG", {"qtables": [[7] * 64, [9] * 64]}, ("JPEG", "tables ", "4:2:0", "none")),
        ("RGB", "JPEG", {"exif": exif(), "icc_profile": b"x" * 200}, ("JPEG", "quality 75", "4:2:0", "exif+icc")),
        ("RGB", "JPEG", {"comment": b"hello"}, ("JPEG", "quality 75", "4:2:0", "text")),
        ("RGB", "JPEG", {"xmp": b"<x/>"}, ("JPEG", "quality 75", "4:2:0", "xmp")),
        ("RGBA", "PNG", {}, ("PNG", "-", "-", "none")),
        ("RGB", "PNG", {"pnginfo": with_text()}, ("PNG", "-", "-", "text")),
        ("RGB", "WEBP", {"exif": exif()}, ("WEBP", "-", "-", "exif")),
        ("RGB", "TIFF", {}, ("TIFF", "-", "-", "none")),
        ("RGB", "BMP", {}, ("BMP", "-", "-", "none")),
    ],
)
def test_a_file_tells_how_it_was_made(mode: str, kind: str, how: dict[str, Any], expected: tuple[str, ...]) -> None:
    data = encoded(picture(1, (40, 24), mode), kind, **how)
    known: dict[bytes, FileTraits] = {}
    for _ in range(2):  # the second time from `known`, where that has it
        found = file_traits(data, known)
        assert found[:3] == (40, 24, len(data))
        assert found.encoder.startswith(expected[1])
        assert (found.format, found.chroma, found.metadata) == (expected[0], *expected[2:])
    row = np.zeros(1, TRAITS)
    row[FILE_FIELDS] = [found]
    assert row["metadata"][0].decode() == expected[3]
    assert row["encoder"][0].decode() == found.encoder


def test_what_is_known_is_right_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[bytes, FileTraits] = {}
    small, large = (encoded(picture(seed, size)) for seed, size in ((1, (32, 32)), (2, (48, 32))))
    assert [file_traits(data, known)[:3] for data in (small, large, small)] == [
        (32, 32, len(small)),
        (48, 32, len(large)),
        (32, 32, len(small)),
    ]
    assert len(known) == 2
    file_traits(encoded(picture(1), icc_profile=b"x" * 5000), known)  # long: of one picture
    file_traits(encoded(picture(1), "PNG"), known)
    assert len(known) == 2
    monkeypatch.setattr(traits_module, "MOST_KNOWN", 3)
    for number in range(9):
        file_traits(encoded(picture(1), comment=str(number).encode()), known)
    assert len(known) == 3


def test_a_thumbnail_in_the_metadata_is_not_taken_for_the_picture() -> None:
    thumbnail = encoded(picture(1, (8, 8)), quality=30)
    header = jpeg_header(encoded(picture(2), quality=90, comment=thumbnail))
    assert header.count(b"\xff\xda") == 1
    assert header != jpeg_header(encoded(picture(2), quality=80, comment=thumbnail))


def test_broken_files_are_one_line() -> None:
    whole = encoded(picture(1))
    for data in (b"", b"\xff\xd8", b"hello", whole[:40], b"\xff\xd8" + b"\xff\xe0\x00\x00" * 9):
        with pytest.raises(UserError):
            file_traits(data, {})


def test_pixel_traits_are_means_and_the_share_of_equal_neighbours() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (1203, 9, 9, 3), np.uint8) * 255
    found = pixel_traits(images)
    means = images.mean((1, 2))
    for channel, name in enumerate(("red", "green", "blue")):
        assert found[name] == pytest.approx(means[:, channel], abs=1e-3)
    assert found["flat"] == pytest.approx((images[:, :, 1:] == images[:, :, :-1]).all(-1).mean((1, 2)), abs=1e-6)
    assert pixel_traits(np.full((1, 8, 8, 3), 255, np.uint8)).tolist() == [(255, 255, 255, 1)]


# Shortcuts


def no_association(n: int, rng: np.random.Generator) -> np.ndarray:
    """TRAITS (n) of pictures of many makers, the same in both classes; many encoders are of one picture."""
    table = np.zeros(n, TRAITS)
    table["width"], table["height"] = rng.choice([512, 640, 1024], n), rng.choice([512, 480, 768], n)
    table["bytes"] = rng.lognormal(11, 1, n)
    table["format"] = rng.choice([b"JPEG", b"JPEG", b"PNG"], n)
    table["encoder"] = [f"tables {number}".encode() for number in (10 * rng.pareto(1, n)).astype(int).clip(0, 9999)]
    table["chroma"] = rng.choice([b"4:2:0", b"4:4:4"], n)
    table["metadata"] = rng.choice([b"none", b"exif", b"exif+icc"], n, p=[0.9, 0.07, 0.03])
    for name in PIXEL_FIELDS:
        table[name] = rng.normal(120, 30, n)
    for name in ("encoder", "chroma"):
        table[name][table["format"] == b"PNG"] = b"-"
    return table


@pytest.mark.parametrize(("n", "repeats"), [(10, 200), (20, 200), (60, 200), (500, 50), (20_000, 3)])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_without_an_association_there_is_no_alarm(n: int, repeats: int, share: float) -> None:
    rng = np.random.default_rng(n)
    for _ in range(repeats):
        found = shortcuts(no_association(n, rng), rng.random(n) < share)
        assert alarm_lines(found, "mine") == []
        assert all(0 <= s.low <= s.auroc <= s.high <= 1 for s in found)


def planted(name: str, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    table, fake = no_association(n, rng), np.arange(n) % 2 == 0
    if name == "format":
        table["format"] = np.where(fake, b"PNG", b"JPEG")
        table["encoder"][fake] = table["chroma"][fake] = b"-"
    elif name == "encoder":
        table["encoder"][fake & (table["encoder"] != b"-") & (rng.random(n) < 0.7)] = b"quality 75"
    elif name == "chroma":
        table["chroma"][(table["chroma"] != b"-") & fake] = b"4:4:4"
    elif name == "metadata":
        table["metadata"][~fake] = b"exif"
    elif name == "aspect":
        table["height"][fake] = table["width"][fake]
        table["width"][~fake], table["height"][~fake] = rng.permuted([[512] * 200, [700] * 200], axis=0)
    elif name == "size":
        table["width"][fake], table["height"][fake] = 600, 500
    elif name == "bytes per pixel":
        table["bytes"][fake] *= 20
    else:
        table[name][fake] += 60 if name != "flat" else 90
    return table, fake


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("format", "FAKE is all PNG, REAL all JPEG"),
        ("encoder", "quality 75: 73 % of FAKE, 0 % of REAL"),
        ("chroma", "4:4:4"),
        ("metadata", "FAKE is 88 % no metadata, REAL all exif"),
        ("aspect", "square: 100 % of FAKE, 0 % of REAL"),
        ("size", "600x500: 100 % of FAKE, 0 % of REAL"),
        ("bytes per pixel", "median bytes per pixel"),
        ("red", "median red"),
        ("flat", "median flat"),
    ],
)
def test_a_planted_shortcut_is_found_and_said_in_one_line(name: str, said: str) -> None:
    found = shortcuts(*planted(name))
    by_name = {shortcut.name: shortcut for shortcut in found}
    assert by_name[name].auroc > 0.7
    assert by_name[name].advice is not None
    lines = alarm_lines(found, "mine")
    assert len(lines) == 1, lines
    assert said in by_name[name].says
    assert name in lines[0]
    assert "<name>" not in lines[0]
    assert ("datasets.mine.reencode" in lines[0]) == (name in ("format", "encoder", "chroma", "metadata"))


def test_the_sample_is_quiet(sample: tuple[list[bytes], np.ndarray, np.ndarray]) -> None:
    files, images, labels = sample
    found = shortcuts(as_traits(files, images), labels == FAKE)
    assert alarm_lines(found, "sample") == []
    assert {shortcut.name: shortcut.auroc for shortcut in found}["encoder"] == 0.5
    rows = shortcuts_table(found)
    assert rows[0] == (found[0].name, found[0].auroc, found[0].low, found[0].high)


def test_a_class_without_pictures_is_no_alarm() -> None:
    table = no_association(30, np.random.default_rng(0))
    for fakes in (0, 1, 3, 30):
        found = shortcuts(table, np.arange(30) < fakes)
        assert {(s.auroc, s.low, s.high) for s in found} == {(0.5, 0.0, 1.0)}
        assert isinstance(found[0], Shortcut)


def test_the_auroc_and_its_errors() -> None:
    rng = np.random.default_rng(0)
    fake = np.arange(300) < 100
    drawn = [np.round(rng.normal(fake * 0.5, 1), 1) for _ in range(300)]
    results = np.array([auroc_and_errors(values, fake) for values in drawn])
    assert results[0, 0] == pytest.approx(roc_auc_score(fake, drawn[0]))
    assert results[:, 1].mean() == pytest.approx(results[:, 0].std(), rel=0.1)
    nulls = np.array([auroc_and_errors(np.round(rng.normal(size=300)), fake) for _ in range(500)])
    assert nulls[:, 2].mean() == pytest.approx(nulls[:, 0].std(), rel=0.1)
    values = np.round(rng.normal(size=300))
    auroc, _, null_error = auroc_and_errors(values, fake)
    scipys = mannwhitneyu(values[fake], values[~fake], use_continuity=False, method="asymptotic").pvalue
    assert 2 * norm.sf(abs(auroc - 0.5) / null_error) == pytest.approx(scipys)


# Contact sheets


@pytest.mark.parametrize("size", [32, 128])
def test_sheets_are_drawn_for_any_names_and_the_same_each_time(size: int, tmp_path: Path) -> None:
    images = np.stack([np.asarray(picture(seed, (size, size))) for seed in range(40)])
    names = ["写真 flickr", "مجموعة", "Стабильная", "été", "long " * 99, "", "two\nlines", "unused"]
    labels, sources = np.arange(40) % 2, np.arange(40) % 7
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        draw_examples(path, images.__getitem__, labels, sources, names)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as whole:
        assert whole.width == WIDTH
    real = images[labels == REAL]
    draw_examples(tmp_path / "one.png", real.__getitem__, labels[labels == REAL], sources[labels == REAL], names)
    with Image.open(tmp_path / "one.png") as half:
        assert half.height < whole.height
    draw_examples(tmp_path / "many.png", images.__getitem__, labels, np.arange(40), [f"source {k}" for k in range(40)])
    draw_near_duplicates(tmp_path / "pairs.png", images[:9], images[9:18], ["train / test"] * 8 + names[:1], "9 pairs")
    draw_near_duplicates(tmp_path / "none.png", images[:0], images[:0], [], "no near-duplicates")
    shown = np.asarray(Image.open(io.BytesIO((tmp_path / "pairs.png").read_bytes())))
    assert (shown != 255).any()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Stable Diffusion 1.4", "Stable Diffusion 1.4"),
        ("e\u0301te\u0301", "été"),
        ("Стабильная диффузия", "Стабильная диффузия"),
        ("写真", "source 3"),
        ("写真 flickr 画像 2024", "source 3 (flickr … 2024)"),
        ("مجموعة", "source 3"),
        ("a\nb", "source 3 (a … b)"),
        (" ", "source 3"),
    ],
)
def test_a_name_is_drawn_or_replaced(name: str, shown: str) -> None:
    assert drawable(name, "source 3") == shown
