"""Ask a detector: `from detector import Detector` and `python -m detector`, about every kind of picture people have."""

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import ExifTags, Image

from detector import Detector, Prediction
from detector.__main__ import main
from detector.errors import UserError
from detector.explain import occlusion_maps
from detector.files import file_sha256
from detector.images import decode
from detector.labels import probability
from detector.limit import LIMIT
from detector.pictures import preprocess
from detector.record import ExportedRecord, Fit, ModelRecord
from detector.session import score
from stages.export.__main__ import write_model
from stages.model import build, load_model, predict_logits
from tests.conftest import ROOT, somebody_without_a_name
from tests.models import TRAINED, exported, trained
from tests.serving import png_by_hand

ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    """Twenty 32x32 JPEGs of the sample, of both classes."""
    rows = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()
    return [row["image"]["bytes"] for row in rows[:10] + rows[-10:]]


@pytest.fixture(scope="module")
def rgb(jpegs: list[bytes]) -> np.ndarray:
    """uint8 (32, 32, 3)"""
    return decode(jpegs[0])


@pytest.fixture(scope="module")
def folder(jpegs: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of an untrained network that finds some of the JPEGs FAKE, some REAL, and is UNSURE of some."""
    torch.manual_seed(1)
    spec: dict[str, Any] = {"timm": "test_resnet", "args": {}, "stem": None}
    network: Any = build(spec)
    mean, std = TRAINED["mean"], TRAINED["std"]
    pixels = np.stack([decode(jpeg) for jpeg in jpegs])
    logits = predict_logits(network, pixels, mean, std)
    with torch.no_grad():
        network.get_classifier().bias -= float(np.median(logits))
    logits -= np.median(logits)
    margin, temperature = float(np.median(np.abs(logits))), float(logits.std())
    p_fake = probability(predict_logits(network, pixels, mean, std, margin), temperature)
    low, high = np.quantile(p_fake, [0.4, 0.6]).tolist()
    record = trained(flip_tta_margin=margin, temperature=temperature, abstention_band=(low, high))
    path = tmp_path_factory.mktemp("models") / "exported"
    rows = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()
    sample = np.stack([decode(row["image"]["bytes"]) for row in rows])
    write_model(path, network, record, sample, sample, "cifake", {})
    return path


@pytest.fixture(scope="module")
def weighing(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A model in which every pixel has a weight of its own: only the same pixels give the same answer."""
    path = tmp_path_factory.mktemp("models") / "weighing"
    path.mkdir()
    weights = np.random.default_rng(0).random(3 * 32 * 32) / 768 / 255
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.DOUBLE),
        helper.make_node("Flatten", ["numbers"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["logit"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["logit", "logit"], ["ood_score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weighing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("logit", "ood_score")],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path / "model.onnx")
    (path / "model.safetensors").write_bytes(b"")  # the weights are in the graph
    exported().write(path)
    return Detector.load(path)


def notes_if_seen_as(weighing: Detector, picture: Any, expected: np.ndarray, tolerance: float = 1e-7) -> str:
    seen, wanted = weighing.predict([picture, expected])
    assert seen.p_fake == pytest.approx(wanted.p_fake, abs=tolerance)
    assert wanted.notes == []
    return "; ".join(seen.notes)


def test_a_record_that_would_not_be_valid_is_refused_before_it_is_written() -> None:
    with pytest.raises(UserError, match=r"^the record would not be valid: .*threshold"):
        ModelRecord.make(**TRAINED | {"threshold": float("nan")})


def test_answers_on_jpegs_of_the_input_size_are_those_of_the_network(jpegs: list[bytes], folder: Path) -> None:
    network, record = load_model(folder)
    pixels = np.stack([decode(jpeg) for jpeg in jpegs])
    unflipped = predict_logits(network, pixels, record.mean, record.std)
    assert 0 < (np.abs(unflipped) < record.flip_tta_margin).sum() < len(jpegs), "some are to be flipped, some not"
    logits = predict_logits(network, pixels, record.mean, record.std, record.flip_tta_margin)
    predictions = Detector.load(folder).predict(jpegs)
    p_fake = probability(logits, record.temperature)
    assert [one.p_fake for one in predictions] == pytest.approx(p_fake.tolist(), abs=1e-5)
    low, high = record.abstention_band
    assert {one.verdict for one in predictions} == {"FAKE", "REAL", "UNSURE"}
    for one in predictions:
        assert one.verdict == ("REAL" if one.p_fake < low else "FAKE" if one.p_fake > high else "UNSURE")
        assert one.out_of_distribution == (one.notes != [])
    assert sum(one.out_of_distribution for one in predictions) <= 1


def test_a_picture_gets_one_answer_in_whatever_form(jpegs: list[bytes], weighing: Detector, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpegs[3])
    with path.open("rb") as file:
        forms: list[Any] = [jpegs[3], path, str(path), file, Image.open(path), decode(jpegs[3])]
        answers = weighing.predict(form for form in forms)
    p_fake = answers[-1].p_fake
    assert [answer.p_fake for answer in answers] == pytest.approx([p_fake] * len(forms), abs=1e-7)
    assert answers == [Prediction(answer.p_fake, answers[0].verdict, [], False, []) for answer in answers]
    assert weighing.predict(np.stack([decode(jpeg) for jpeg in jpegs])) == weighing.predict(jpegs)
    assert weighing.predict([]) == []


def test_photos_are_turned_upright(rgb: np.ndarray, weighing: Detector) -> None:
    image = Image.fromarray(rgb)
    stored = decode(encoded(image, "JPEG", quality=95))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        notes = notes_if_seen_as(weighing, encoded(image, "JPEG", quality=95, exif=exif), expected)
        assert ("upright" in notes) == (orientation > 1)
    p_fake = sorted(answer.p_fake for answer in weighing.predict(list(upright.values())))
    assert min(np.diff(p_fake)) > 1e-6, "the eight are not told apart, so nothing was compared"

    for form, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        turned = encoded(image, form, exif=exif, **options)
        assert "upright" in notes_if_seen_as(weighing, turned, np.rot90(rgb, -1)), form


def test_broken_exif_is_passed_over(rgb: np.ndarray, weighing: Detector) -> None:
    data = encoded(Image.fromarray(rgb), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert notes_if_seen_as(weighing, data, decode(data)) == ""


def test_a_pil_image_is_left_as_it_is(rgb: np.ndarray, weighing: Detector) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.open(io.BytesIO(encoded(Image.fromarray(rgb).resize((90, 60)), "PNG", exif=exif)))
    assert "upright" in "; ".join(weighing.predict([image])[0].notes)
    assert image.size == (90, 60)
    assert image.getexif()[ORIENTATION] == 6


def test_transparency_is_put_on_white_and_said(rgb: np.ndarray, weighing: Detector) -> None:
    alpha = np.full((32, 32, 1), 255, np.uint8)
    opaque = encoded(Image.fromarray(np.concatenate([rgb, alpha], axis=2)), "PNG")
    assert notes_if_seen_as(weighing, opaque, rgb) == ""

    alpha[:, :16] = 0
    on_white = rgb.copy()
    on_white[:, :16] = 255
    half_gone = encoded(Image.fromarray(np.concatenate([rgb, alpha], axis=2)), "PNG")
    assert "white" in notes_if_seen_as(weighing, half_gone, on_white)

    alpha[:] = 128
    on_white = (rgb * (128 / 255) + 127).round().astype(np.uint8)
    veiled = encoded(Image.fromarray(np.concatenate([rgb, alpha], axis=2)), "PNG")
    assert "white" in notes_if_seen_as(weighing, veiled, on_white, tolerance=2e-3)

    alpha[:, :16] = 0
    alpha[:, 16:] = 255
    grey = np.concatenate([rgb[..., :1], alpha], axis=2)
    on_white = np.where(alpha == 0, 255, np.stack([rgb[..., 0]] * 3, axis=2)).astype(np.uint8)
    assert "white" in notes_if_seen_as(weighing, encoded(Image.fromarray(grey, "LA"), "PNG"), on_white)

    palette = Image.fromarray(rgb).quantize(16)
    indices = np.asarray(palette)
    on_white = np.where(indices[..., None] == indices[5, 5], 255, np.asarray(palette.convert("RGB"))).astype(np.uint8)
    see_through = encoded(palette, "PNG", transparency=int(indices[5, 5]))
    assert "white" in notes_if_seen_as(weighing, see_through, on_white)


def test_sixteen_bits_keep_their_brightness(rgb: np.ndarray, weighing: Detector) -> None:
    grey = rgb[..., 1]
    deep = encoded(Image.fromarray(grey.astype(np.uint16) << 8 | 0x5A), "PNG")
    assert "16 bits made 8; grey made RGB" in notes_if_seen_as(weighing, deep, np.stack([grey] * 3, axis=2))

    rows = (rgb.astype(np.uint16) << 8 | 0x5A).astype(">u2")
    deep = png_by_hand(32, 32, 16, b"".join(b"\0" + row.tobytes() for row in rows))
    assert notes_if_seen_as(weighing, deep, rgb) == "16 bits made 8"

    scan = encoded(Image.fromarray(grey.astype(np.uint16) << 8 | 0x5A), "TIFF")
    assert "16 bits made 8; grey made RGB" in notes_if_seen_as(weighing, scan, np.stack([grey] * 3, axis=2))

    for kind_of_colour, channels, seen in ((6, rgb, rgb), (4, grey[..., None], np.stack([grey] * 3, axis=2))):
        alpha = np.full((32, 32, 1), 0xFFFF, np.uint16)
        rows = np.concatenate([channels.astype(np.uint16) << 8 | 0x5A, alpha], axis=2).astype(">u2")
        deep = png_by_hand(32, 32, 16, b"".join(b"\0" + row.tobytes() for row in rows), kind_of_colour)
        assert "16 bits made 8" in notes_if_seen_as(weighing, deep, seen)


def test_other_colours_become_rgb(rgb: np.ndarray, weighing: Detector) -> None:
    image = Image.fromarray(rgb)
    grey, bilevel, palette = image.convert("L"), image.convert("1"), image.quantize(16)
    cmyk = encoded(image.convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(cmyk)) as opened:
        assert opened.mode == "CMYK"
        from_cmyk = np.asarray(opened.convert("RGB"))
    assert np.abs(from_cmyk.astype(int) - rgb).mean() < 12, "the colours are inverted"
    for note, data, expected in (
        ("grey made RGB", encoded(grey, "PNG"), np.asarray(grey.convert("RGB"))),
        ("black and white made RGB", encoded(bilevel, "PNG"), np.asarray(bilevel.convert("RGB"))),
        ("palette made RGB", encoded(palette, "GIF"), np.asarray(palette.convert("RGB"))),
        ("CMYK made RGB", cmyk, from_cmyk),
        ("CMYK made RGB", encoded(image.convert("CMYK"), "TIFF"), rgb),
    ):
        assert notes_if_seen_as(weighing, data, expected) == note


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {"compression": "raw"})]
)
def test_of_an_animation_the_first_frame_is_looked_at(
    form: str, options: dict[str, Any], jpegs: list[bytes], weighing: Detector
) -> None:
    first, second = (Image.fromarray(decode(jpeg)) for jpeg in jpegs[:2])
    if form == "GIF":
        first, second = first.quantize(64), second.quantize(64)
    data = encoded(first, form, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as opened:
        opened.seek(1)  # there are two
    assert "frame 1 of several" in notes_if_seen_as(weighing, data, np.asarray(first.convert("RGB")))


def test_the_second_picture_that_phones_add_is_no_frame(jpegs: list[bytes], weighing: Detector) -> None:
    first, second = (Image.fromarray(decode(jpeg)) for jpeg in jpegs[:2])
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    assert notes_if_seen_as(weighing, data, decode(encoded(first, "JPEG", quality=95))) == ""


def test_notes_warn_the_more_a_picture_was_resized(weighing: Detector) -> None:
    sizes = [(48, 48), (128, 128), (1280, 1280), (24, 24), (16, 16), (64, 32), (320, 16)]
    notes = [answer.notes for answer in weighing.predict(Image.new("RGB", size) for size in sizes)]
    little, more, most, grown, grown_more, wide, both = notes
    assert little[0] == "48x48 made 32x32"
    assert [kind[1].split(":")[0] for kind in (little, more, most)] == [
        "1.5 times smaller",
        "4 times smaller",
        "40 times smaller",
    ]
    assert len({kind[1].split(":")[1] for kind in (little, more, most)}) == 3
    assert most[1].endswith("the answer says little")
    assert grown[1].startswith("1.33 times larger")
    assert grown_more[1].startswith("2 times larger")
    assert grown_more[1].endswith("the answer says little")
    assert wide[0] == "64x32 made 32x32, proportions not kept"
    assert len(wide) == 2
    assert [note.split(":")[0] for note in both[1:]] == ["10 times smaller", "2 times larger"]


def test_resizing_cuts_nothing_away_and_averages(weighing: Detector) -> None:
    plain = np.full((64, 320, 3), 100, np.uint8)
    left, right = plain.copy(), plain.copy()
    left[:, :20] = 255
    right[:, -20:] = 255
    answers = weighing.predict([plain, left, right])
    assert min(answers[1].p_fake, answers[2].p_fake) > answers[0].p_fake + 1e-3

    checks = np.indices((320, 320)).sum(axis=0) % 2 * 255
    checkered = np.stack([checks.astype(np.uint8)] * 3, axis=2)
    notes_if_seen_as(weighing, checkered, np.full((32, 32, 3), 128, np.uint8), tolerance=5e-3)


@pytest.mark.parametrize(
    ("fit", "expected"), [("stretch", (0, 0, 1, 1)), ("resize", (0.375, 0, 0.625, 1)), ("crop", (0.45, 0.3, 0.55, 0.7))]
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_what_the_model_sees_of_a_picture_is_known(
    fit: Fit, expected: tuple[float, float, float, float], is_turned: bool
) -> None:
    image = Image.new("RGB", (80, 320) if is_turned else (320, 80))
    exif = Image.Exif()
    if is_turned:
        exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert preprocess(file.getvalue(), 32, fit).seen_region == expected


def test_a_large_jpeg_is_seen_as_its_pixels_are(rgb: np.ndarray, weighing: Detector) -> None:
    large = Image.fromarray(rgb).resize((2050, 1537), Image.Resampling.BICUBIC)
    quick, whole = weighing.predict([encoded(large, "JPEG", quality=95), np.asarray(large)])
    assert quick.p_fake == pytest.approx(whole.p_fake, abs=1e-3)
    assert quick.notes == whole.notes
    assert quick.notes[0].startswith("2050x1537")


def float_tiff() -> bytes:
    """A TIFF of one pixel with 32 bits floating point for red, green and blue."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 146)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12), (339, 3, 3, 140)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return data + struct.pack("<6H3f", 32, 32, 32, 3, 3, 3, 0.1, 0.2, 0.3)


def unreadable(jpeg: bytes) -> dict[str, tuple[bytes, str]]:
    """File name: content, what is said of it."""
    image = Image.fromarray(decode(jpeg))
    cut = {
        f"cut.{form.lower()}": (encoded(picture, form)[:-60], "broken picture")
        for form, picture in (
            ("PNG", image),
            ("GIF", image),
            ("WEBP", image),
            ("TIFF", image),
            ("JPEG", image.convert("L")),
        )
    }
    return cut | {
        "cut.avif": (encoded(image, "AVIF")[:300], "broken picture, or AVIF of a kind that is not read"),
        "cut within.avif": (encoded(image, "AVIF")[:-10], "broken picture"),
        "floats.tiff": (float_tiff(), "broken picture, or TIFF of a kind that is not read, such as 32 bits a colour"),
        "bomb.png": (png_by_hand(30_000, 30_000, 8, b""), "more than 179 megapixels"),
        "cut.jpg": (jpeg[:-40], "broken picture"),
        "empty.png": (b"", "the file is empty"),
        "float.tiff": (encoded(Image.new("F", (32, 32)), "TIFF"), "32 bits a pixel, with no fixed white"),
        "large.png": (png_by_hand(11_000, 11_000, 8, b""), "11000x11000 is more than 25 megapixels"),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(16), "HEIC or a film, which cannot be read: save it as JPEG"),
        "strip.png": (png_by_hand(1, 70_000, 8, b""), "1x70000 is more than 65,535 pixels in a row"),
        "text.jpg": (b"no picture", "not a picture that can be read"),
    }


def test_python_is_told_which_picture_cannot_be_read_and_why(jpegs: list[bytes], weighing: Detector) -> None:
    for data, reason in unreadable(jpegs[0]).values():
        with pytest.raises(UserError) as told:
            weighing.predict([jpegs[0], data])
        assert str(told.value).startswith(f"picture 1: {reason}")
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"^gone\.jpg: No such file"):
        weighing.predict(["gone.jpg"])
    with pytest.raises(UserError, match=r"an address, no file: fetch it first, as in `curl"):
        weighing.predict(["https://example.org/photo.jpg"])
    with pytest.raises(UserError, match=r"uint8 \(height, width, 3\), this one is float64 \(32, 32, 3\)"):
        weighing.predict([np.zeros((32, 32, 3))])
    one: list[Any] = ["photo.jpg", jpegs[0], Path("photo.jpg"), Image.new("RGB", (32, 32)), decode(jpegs[0])]
    for picture in one:
        with pytest.raises(UserError, match=r"predict\(\[picture\]\)"):
            weighing.predict(picture)


def test_a_bomb_is_refused_without_being_unpacked(folder: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_by_hand(10_500, 10_500, 8, bytes(10_500 * 31_501)))  # 331 MB of pixels
    assert bomb.stat().st_size < 2e6
    code = """
import resource, sys
from detector import Detector
from detector.errors import UserError

detector = Detector.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    detector.predict([sys.argv[2]])
except UserError as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, sep="; ")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder, bomb], cwd=ROOT, capture_output=True, text=True, check=True
    )
    reason, megabytes = done.stdout.split("; ")
    assert reason == f"{bomb}: 10500x10500 is more than 25 megapixels"
    assert int(megabytes) < 20


def test_pictures_are_read_as_they_are_needed(jpegs: list[bytes], weighing: Detector) -> None:
    drawn = 0

    def pictures() -> Iterator[bytes]:
        nonlocal drawn
        for drawn in range(1, 501):
            yield b"" if drawn == 70 else jpegs[drawn % 20]

    answers = weighing.stream(pictures())
    first = next(answers)
    assert isinstance(first, Prediction)
    assert first.p_fake == pytest.approx(weighing.predict([jpegs[1]])[0].p_fake, abs=1e-7)
    assert drawn < 250
    rest = list(answers)
    assert [number for number, answer in enumerate(rest, start=2) if isinstance(answer, UserError)] == [70]
    assert len(rest) == 499


@pytest.fixture
def album(jpegs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five pictures, below the one where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a/z.JPG", "a/deep/er/c.jpeg", ".hidden.jpg", ".thumbnails/t.jpg", "a/readme.txt"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture" if name.endswith(".txt") else jpegs[0])
    Image.new("RGBA", (640, 320), (200, 0, 0, 100)).save("album/drawing.png")
    Image.new("L", (32, 32)).save("album/grey, old.tiff")
    return Path("album")


FOUND = ["album/a/deep/er/c.jpeg", "album/a/z.JPG", "album/b.jpg", "album/drawing.png", "album/grey, old.tiff"]


def ask(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    status: Any = 0
    try:
        main([*arguments, "--model", str(folder)])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_folder_gives_a_row_a_picture(album: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ask(capsys, folder, str(album))
    assert status == 0
    header, *rows = out.splitlines()
    assert header.split() == ["file", "verdict", "P(FAKE)", "notes"]
    assert [row[: header.index("verdict")].rstrip() for row in rows] == FOUND
    assert all(row[header.index("verdict") :].split()[0] in ("FAKE", "REAL", "UNSURE") for row in rows)
    assert all("%" in row for row in rows)
    assert "transparency put on white; 640x320 made 32x32, proportions not kept; 20 times smaller" in rows[3]
    other = "passed over: 1 file that is no picture (.txt)"
    assert err.splitlines() == [f"{folder}: tiny, 97.64 % right on validation", other, LIMIT]


def test_files_of_a_folder_are_told_by_their_content_or_counted(
    jpegs: list[bytes], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere, album = tmp_path / "elsewhere", tmp_path / "album"
    (elsewhere / "deep").mkdir(parents=True)
    album.mkdir()
    image = Image.fromarray(decode(jpegs[0]))
    for number, form in enumerate(("PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")):
        (album / f"{number}.{'part' if number % 2 else 'jxl'}").write_bytes(encoded(image, form))
    (album / "IMG_0001").write_bytes(jpegs[0])
    (elsewhere / "deep/f.jpg").write_bytes(jpegs[1])
    (album / "2024").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(album)  # a loop
    (album / "again").symlink_to(elsewhere)
    for name in ("notes.txt", "more.txt", "layers.psd", "README"):
        (album / name).write_bytes(b"8BPS or text")
    (album / "gone").symlink_to("nowhere")
    os.mkfifo(album / "pipe")

    status, out, err = ask(capsys, folder, str(album), "--json")
    assert status == 0
    names = [str(Path(row["file"]).relative_to(album)) for row in json.loads(out)]
    assert names == ["0.jxl", "1.part", "2.jxl", "2024/deep/f.jpg", "3.part", "4.jxl", "5.part", "IMG_0001"]
    assert err.splitlines()[1:] == ["passed over: 6 files that are no pictures (no suffix, .txt, .psd)"]


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\rb.jpg", 'a,"b\r\n.jpg'])
def test_a_name_with_a_line_break_is_one_row(
    name: str, jpegs: list[bytes], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(jpegs[0])
    status, out, _ = ask(capsys, folder, str(tmp_path), "--csv")
    (row,) = csv.DictReader(io.StringIO(out, newline=""))
    assert (status, row["file"]) == (0, str(tmp_path / name))


def test_the_name_of_a_strangers_file_does_not_steer_the_terminal(
    jpegs: list[bytes], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e\x1b[31mred.jpg").write_bytes(jpegs[0])
    (tmp_path / "f\x1b[2J\u202egpj.jpg").write_bytes(b"no picture")
    status, out, err = ask(capsys, folder, str(tmp_path))
    assert status == 1
    assert "e\\x1b[31mred.jpg" in out
    assert "f\\x1b[2J\\u202egpj.jpg" in err
    assert not {"\x1b", "\u202e"} & {*out, *err}


def test_a_spreadsheet_computes_nothing_of_a_csv(
    jpegs: list[bytes],
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    wide = "\uff1d1+1.jpg"
    names = ["+1.jpg", "=1+1.jpg", "@SUM(1).jpg", "=\n1.jpg", "\n=1.jpg", wide, "a=1.jpg", "a;=1+1;b.jpg"]
    for name in names:
        Path(name).write_bytes(jpegs[0])
    _, out, _ = ask(capsys, folder, *names, "--csv")
    found = [row["file"] for row in csv.DictReader(io.StringIO(out, newline=""))]
    assert found == [*(f"'{name}" for name in names[:6]), "a=1.jpg", "a;'=1+1;b.jpg"]
    _, out, _ = ask(capsys, folder, *names, "--json")
    assert [row["file"] for row in json.loads(out)] == names


def test_json_and_csv_say_what_python_is_told(album: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = Detector.load(folder).predict(FOUND)
    digest = file_sha256(folder / "model.json")
    status, out, err = ask(capsys, folder, str(album), "--json")
    assert status == 0
    assert json.loads(out) == [
        {"file": file, **vars(answer), "error": None, "model_sha256": digest}
        for file, answer in zip(FOUND, answers, strict=True)
    ]
    assert len(err.splitlines()) == 2

    status, out, err = ask(capsys, folder, str(album), "--csv")
    assert status == 0
    assert list(csv.DictReader(io.StringIO(out))) == [
        {
            "file": file,
            "verdict": answer.verdict,
            "p_fake": str(answer.p_fake),
            "out_of_distribution": str(answer.out_of_distribution),
            "notes": "; ".join(answer.notes),
            "claims": "",
            "error": "",
            "model_sha256": digest,
        }
        for file, answer in zip(FOUND, answers, strict=True)
    ]
    assert len(err.splitlines()) == 2


def test_what_cannot_be_read_does_not_stop_the_rest(
    jpegs: list[bytes], album: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = unreadable(jpegs[0])
    for name, (data, _) in broken.items():
        Path(name).write_bytes(data)
    Path("nothing").mkdir()
    names = ["nothing", *broken, "gone.jpg", str(album / "b.jpg")]
    reasons = ["no picture in this folder", *(reason for _, reason in broken.values()), "No such file or directory"]

    status, out, err = ask(capsys, folder, *names)
    assert status == 1
    assert len(out.splitlines()) == 2
    assert out.splitlines()[1].startswith("album/b.jpg")
    title, *errors, limit = err.splitlines()
    assert (title.startswith(str(folder)), limit) == (True, LIMIT)
    for line, name, reason in zip(errors, names[:-1], reasons, strict=True):
        assert line.startswith(f"error: {name}: {reason}")

    status, out, _ = ask(capsys, folder, *names, "--json")
    assert status == 1
    *failed, answered = json.loads(out)
    assert [row["file"] for row in failed] == names[:-1]
    assert all(row["error"].startswith(reason) for row, reason in zip(failed, reasons, strict=True))
    assert {row["verdict"] for row in failed} == {None}
    assert (answered["file"], answered["error"]) == ("album/b.jpg", None)

    status, out, _ = ask(capsys, folder, *names, "--csv")
    assert status == 1
    *failed, answered = list(csv.DictReader(io.StringIO(out)))
    assert all(row["error"].startswith(reason) for row, reason in zip(failed, reasons, strict=True))
    assert {row["verdict"] + row["p_fake"] for row in failed} == {""}
    assert (answered["file"], answered["error"]) == ("album/b.jpg", "")

    status, out, _ = ask(capsys, folder, "gone.jpg", "--json")
    assert (status, len(json.loads(out))) == (1, 1)


def test_occlusion_maps_are_always_made_with_flip_test_time_augmentation(jpegs: list[bytes], folder: Path) -> None:
    detector = Detector.load(folder)

    def both(images: np.ndarray) -> np.ndarray:
        return (score(detector.session, images, 0)[0] + score(detector.session, images[:, :, ::-1], 0)[0]) / 2

    for jpeg in jpegs[:3]:
        (expected,) = occlusion_maps(both, decode(jpeg)[None])
        assert detector.explain(jpeg).occlusion_map == pytest.approx(expected, abs=1e-5)


def test_explanations_are_drawn_below_each_other(
    album: Path, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    drawn = tmp_path / "evidence.png"
    _, out, _ = ask(capsys, folder, str(album), "--json", "--explain", str(drawn))
    answered = [row for row in json.loads(out) if row["error"] is None]
    with Image.open(drawn) as sheet:
        assert sheet.size[1] == len(answered) * (sheet.size[1] // len(answered)) > 300 * len(answered)
        assert np.asarray(sheet).std() > 30
    _, plain, _ = ask(capsys, folder, str(album), "--json")
    told = {row["file"]: row["p_fake"] for row in json.loads(plain)}
    assert {row["file"]: row["p_fake"] for row in answered} == pytest.approx(told, abs=1e-6)

    before = drawn.read_bytes()
    with pytest.raises(UserError, match="21 pictures: --explain draws 20 at most"):
        ask(capsys, folder, *[answered[0]["file"]] * 21, "--explain", str(drawn))
    assert drawn.read_bytes() == before


def test_a_drawing_replaces_nothing_of_mine(
    jpegs: list[bytes], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    Image.fromarray(decode(jpegs[1])).save(tmp_path / "mine.png")
    for name in ("one.jpg", "two.jpg", "mine/notes.png"):
        (tmp_path / name).write_bytes(jpegs[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for name, reason in (
        ("mine", "is a folder: name a file in it"),
        ("one.jpg", "name a file that ends in .png"),  # --explain *.jpg, and no name
        ("mine.png", "is there already and is no drawing of this program's"),  # --explain *.png
        ("mine/notes.png", "is there already and is no drawing"),
        ("one.jpg/sheet.png", "one.jpg is no folder"),
    ):
        with pytest.raises(UserError, match=reason):
            ask(capsys, folder, str(tmp_path / "two.jpg"), "--explain", str(tmp_path / name))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    for _ in range(2):  # a drawing of earlier is replaced
        assert ask(capsys, folder, str(tmp_path / "two.jpg"), "--explain", str(tmp_path / "new/sheet.png"))[0] == 0


def test_where_nothing_may_be_written_is_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    ship = "app/static/examples/ship.png"
    for option in (["--explain", str(closed / "new/evidence.png")], ["--report", str(closed / "report.html")]):
        command = [*somebody_without_a_name(), sys.executable, "-m", "detector", ship, "--model", str(folder), *option]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"error: {closed} may not be written to: name another folder" in done.stderr


def test_standard_input_is_one_picture(
    jpegs: list[bytes], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jpegs[4])))
    status, out, _ = ask(capsys, folder, "-", "--json")
    (row,) = json.loads(out)
    (answer,) = Detector.load(folder).predict([jpegs[4]])
    assert (status, row["file"], row["p_fake"]) == (0, "-", answer.p_fake)


def test_a_missing_model_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.onnx.*dvc pull models/NAME.*dvc repro export"):
        main(["photo.jpg", "--model", str(tmp_path)])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file: a model is the folder"):
        Detector.load(tmp_path / "file")
    with pytest.raises(UserError, match=r"there is no folder /.*/nowhere/resnet18\).*dvc pull models/NAME"):
        Detector.load("nowhere/resnet18")
    (tmp_path / "released.dvc").touch()
    with pytest.raises(UserError, match=rf": `dvc pull {tmp_path}/released` fetches it$"):
        Detector.load(tmp_path / "released")


def refuse(folder: Path) -> str:
    with pytest.raises(UserError) as told:
        Detector.load(folder)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_broken_model_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.safetensors", "model.json"):
        copy = Path(shutil.copytree(folder, tmp_path / name))
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
        assert refuse(copy).startswith(f"{copy / name} is not ")
    # with a model.json written for it
    copy = tmp_path / "model.onnx"
    ExportedRecord.read(copy).write(copy)
    assert refuse(copy).startswith(f"{copy}/model.onnx cannot be opened: ")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("temperature", 0, "temperature is 0: Input should be greater than 0"),
        ("temperature", float("nan"), "temperature is nan: Input should be a finite number"),
        ("temperature", "1", "temperature is '1': Input should be a valid number"),
        ("threshold", 1.5, "threshold is 1.5: Input should be less than or equal to 1"),
        ("abstention_band", [0.6, 0.4], "abstention_band: its lower end 0.6 is above its upper end 0.4"),
        ("abstention_band", [0.6], "it lacks abstention_band.1"),
        ("classes", ["REAL", "FAKE"], "classes.0 is 'REAL': Input should be 'FAKE'"),
        ("flip_tta_margin", -1, "flip_tta_margin is -1: Input should be greater than or equal to 0"),
        ("input_size", 32.5, "input_size is 32.5: Input should be a valid integer"),
        ("sha256", {"model.onnx": "?"}, "sha256.model.onnx is '?': String should match pattern"),
        ("out_of_distribution", {}, "it lacks out_of_distribution.threshold, out_of_distribution.validation_share"),
        ("flip_tta_margin", None, "it lacks flip_tta_margin"),
    ],
)
def test_a_model_json_with_a_wrong_value_is_told_in_one_line(
    key: str, value: object, told: str, folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    content = {**json.loads((copy / "model.json").read_text()), key: value}
    if value is None:
        del content[key]
    (copy / "model.json").write_text(json.dumps(content))
    assert refuse(copy).startswith(f"{copy}/model.json is not valid: {told}")


def test_a_model_that_is_not_exported_is_told_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    trained().write(copy)
    assert "model.json is not valid: it lacks dataset, test, out_of_distribution" in refuse(copy)


def test_pictures_far_from_the_training_images_are_called_out_of_distribution(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    plain = np.broadcast_to(np.array([[[[200, 30, 90]]]], np.uint8), (1, 32, 32, 3))
    answers = Detector.load(folder).predict(np.concatenate([noise, plain]))
    for answer in answers:
        assert answer.out_of_distribution
        assert "out of distribution (far from the training images)" in answer.notes[-1]
        assert answer.notes[-1].endswith("the answer says little")


def test_threads_may_share_a_detector(jpegs: list[bytes], folder: Path) -> None:
    detector = Detector.load(folder, threads=1)
    expected = detector.predict(jpegs)
    with ThreadPoolExecutor(4) as pool:
        preprocessed = list(pool.map(detector.preprocess, jpegs))
        answers = list(pool.map(lambda start: detector.predict_batch(preprocessed[start : start + 5]), range(0, 20, 5)))
    assert [answer.p_fake for part in answers for answer in part] == pytest.approx([a.p_fake for a in expected])
    assert [answer.verdict for part in answers for answer in part] == [a.verdict for a in expected]
    assert detector.predict_batch([]) == []


def test_to_ask_takes_neither_torch_nor_scipy(folder: Path, jpegs: list[bytes]) -> None:
    code = f"""
import sys
from detector import Detector
Detector.load({str(folder)!r}).predict([sys.stdin.buffer.read()])
print({{"torch", "timm", "sklearn", "scipy", "dvc"}} & sys.modules.keys())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=jpegs[0], capture_output=True)
    assert (said.returncode, said.stdout) == (0, b"set()\n"), said.stderr


def test_the_command_itself(jpegs: list[bytes], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpegs[0][:-40])
    command = [sys.executable, "-m", "detector", "-", str(tmp_path / "cut.jpg"), "--model", str(folder)]
    done = subprocess.run(command, cwd=ROOT, input=jpegs[0], capture_output=True)
    assert done.returncode == 1
    title, error, limit = done.stderr.decode().splitlines()
    assert (title, limit) == (f"{folder}: tiny, 97.64 % right on validation", LIMIT)
    assert error.startswith(f"error: {tmp_path / 'cut.jpg'}: broken picture")
    assert len(done.stdout.splitlines()) == 2


def test_help_comes_at_once_and_names_the_limit() -> None:
    code = """
import sys
from detector.__main__ import main
try:
    main(["--help"])
finally:
    assert not {"onnxruntime", "PIL", "numpy"} & sys.modules.keys()
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert LIMIT in said.stdout
    assert "python -m detector photo.jpg" in said.stdout
