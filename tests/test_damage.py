"""Damaged files: what their decoders notice is in the answer's notes, or the file is refused."""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.errors import UserError
from detector.images import decode
from detector.pictures import preprocess


def photo(size: tuple[int, int] = (96, 64), mode: str = "RGB") -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def notes_of(data: bytes) -> list[str]:
    return [note for note in preprocess(data, 32).notes if note.startswith("damaged file")]


def copies(data: bytes, count: int, first: int) -> Iterator[bytes]:
    """Copies with one flipped bit each, behind the first bytes."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        copy = bytearray(data)
        copy[int(rng.integers(first, len(copy)))] ^= 1 << int(rng.integers(8))
        yield bytes(copy)


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (photo(), {}),
        (photo(), {"progressive": True}),
        (photo(), {"keep_rgb": True}),
        (photo(mode="L"), {}),
        (photo(mode="CMYK"), {}),
        (photo((1100, 1030)), {"quality": 50}),  # decoded at half its size
    ],
)
def test_what_libjpeg_warns_of_is_noted(picture: Image.Image, options: dict[str, Any]) -> None:
    data = encoded(picture, "JPEG", **options)
    assert notes_of(data) == []
    assert notes_of(data + b"what some cameras put behind the end") == []

    filled = data[:-2] + bytes(20) + data[-2:]
    (note,) = notes_of(filled)
    assert "extraneous bytes before marker 0xd9" in note
    assert np.array_equal(preprocess(filled, 32).pixels, preprocess(data, 32).pixels)

    lost = data[: len(data) * 3 // 4] + bytes(9) + data[-2:]
    (note,) = notes_of(lost)
    assert note.endswith("part of the picture may be wrong")

    jpeg_notes: list[str] = []
    assert decode(filled, jpeg_notes).shape == (*picture.size[::-1], 3)
    assert len(jpeg_notes) == 1


def test_decoding_a_jpeg_smaller_gives_the_pixels_that_pillow_gives() -> None:
    for size, mode in (((1100, 1031), "RGB"), ((2075, 2049), "RGB"), ((1027, 1200), "L"), ((1031, 1026), "CMYK")):
        data = encoded(photo(size, mode), "JPEG", subsampling=size[0] % 3)
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (512, 512))
            assert image.size < size
            expected = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(preprocess(data, 32).pixels, np.asarray(expected))


def test_a_jpeg_of_a_few_pixels_is_decoded_at_its_size() -> None:
    for size in ((1, 1), (3, 2), (7, 7)):
        data = encoded(photo(size), "JPEG")
        with Image.open(io.BytesIO(data)) as image:
            expected = image.resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(preprocess(data, 32).pixels, np.asarray(expected))


def test_rare_chroma_is_no_damage() -> None:
    data = bytearray(encoded(photo(), "JPEG", quality=90))
    data[data.index(b"\xff\xc0") + 11] = 0x42  # 4x2, which simplejpeg does not know; the blocks then lie elsewhere
    assert notes_of(bytes(data)) == []


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (photo(), {}),
        (photo(mode="P"), {}),
        (photo(mode="RGBA"), {"compress_level": 0}),
        (Image.fromarray(np.arange(6144, dtype=np.uint16).reshape(64, 96)), {}),
    ],
)
def test_a_png_with_a_flipped_bit_among_its_pixels_is_refused(picture: Image.Image, options: dict[str, Any]) -> None:
    data = encoded(picture, "PNG", **options)
    assert notes_of(data) == []
    for copy in copies(data[:-12], 20, data.index(b"IDAT") + 4):
        with pytest.raises(UserError, match="broken picture"):
            preprocess(copy + data[-12:], 32)
        with pytest.raises(UserError, match="broken picture"):
            decode(copy + data[-12:])


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def test_a_png_that_is_damaged_beside_its_pixels_is_noted() -> None:
    data = encoded(photo(), "PNG")
    pixels, end = data[:-12], data[-12:]
    for extra in (chunk(b"tEXt", b"Comment\0hello", 1), chunk(b"tIME", bytes(7), 1) * 3, chunk(b"eXIf", b"MM", 0)):
        (note,) = notes_of(pixels + extra + end)
        assert "checksum" in note
    assert notes_of(pixels + chunk(b"tEXt", b"Comment\0hello") + end) == []
    assert notes_of(data + b"anything") == []
    for cut in (data[:-12], data[:-5], pixels + chunk(b"tIME", bytes(7))):
        (note,) = notes_of(cut)
        assert "it ends before" in note


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff's names cannot be found there")
def test_what_libtiff_complains_of_is_noted(capfd: pytest.CaptureFixture[str]) -> None:
    for size in ((300, 200), (200, 64), (640, 31)):
        data = encoded(photo(size, "1"), "TIFF", compression="group4")
        assert notes_of(data) == []
        noted = [notes_of(copy + data[-200:]) for copy in copies(data[:-200], 20, 8)]
        assert sum(notes != [] and "libtiff" in notes[0] for notes in noted) > 10, size
        assert notes_of(data) == [], "a complaint about one picture is noted with the next"
    data = encoded(photo(), "TIFF", compression="tiff_adobe_deflate")
    with pytest.raises(UserError, match="broken picture"):
        preprocess(data[:90] + bytes(9) + data[99:], 32)
    assert capfd.readouterr().err == ""
