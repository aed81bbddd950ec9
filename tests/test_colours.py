"""Colours are what a file says they mean: converted to sRGB with a note, or it is said that they are not."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from detector.colours import PRIMARIES, SRGB_CURVE, SRGB_PRIMARIES, matrix_profile
from detector.pictures import preprocess

PIXELS = np.random.default_rng(0).integers(60, 180, (32, 32, 3), np.uint8)  # also in sRGB's gamut where P3 is meant
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")
P3, BT2020 = PRIMARIES[12][1], PRIMARIES[9][1]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# What IEC 61966-2-1 and SMPTE EG 432-1 give, and ITU-R BT.2087 for BT.2020
TO_BT709 = {
    "P3": np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]),
    "BT.2020": np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    "BT.709": np.eye(3),
}


def linear(levels: np.ndarray) -> np.ndarray:
    share = levels / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def in_srgb(light: np.ndarray, primaries: str = "BT.709") -> np.ndarray:
    """Linear light to what sRGB has for it, 0 to 255."""
    light = np.clip(light @ TO_BT709[primaries].T, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes], image: Image.Image = PICTURE, **options: Any) -> bytes:
    """A PNG with some chunks before its pixels."""
    data = encoded(image, "PNG", **options)
    added = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    place = data.index(b"IDAT") - 4
    return data[:place] + added + data[place:]


def gamma(number: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(number * 100_000))


def chromaticities(primaries: tuple[float, ...]) -> tuple[bytes, bytes]:
    numbers = [round(number * 100_000) for number in (*primaries[6:], *primaries[:6])]
    return b"cHRM", struct.pack(">8I", *numbers)


def avif(primaries: int, transfer: int) -> bytes:
    data = encoded(PICTURE, "AVIF", quality=100, subsampling="4:4:4")
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :]


LOSSY = preprocess(avif(1, 13), 32).pixels


def close(data: bytes, expected: np.ndarray, note: str, tolerance: float = 2) -> None:
    one = preprocess(data, 32)
    assert one.notes == ([note] if note else [])
    assert one.pixels.dtype == np.uint8
    assert np.abs(one.pixels - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("data", "expected", "source"),
    [
        (png(gamma(0.55556)), in_srgb((PIXELS / 255) ** 1.8), "PNG's gAMA"),
        (png(gamma(1)), in_srgb(PIXELS / 255), "PNG's gAMA"),
        (png(chromaticities(P3)), in_srgb(linear(PIXELS), "P3"), "PNG's cHRM"),
        (png(gamma(1), chromaticities(BT2020)), in_srgb(PIXELS / 255, "BT.2020"), "PNG's gAMA and cHRM"),
        (png((b"cICP", bytes([12, 13, 0, 1]))), in_srgb(linear(PIXELS), "P3"), "Display P3"),
        (png((b"cICP", bytes([9, 8, 0, 1]))), in_srgb(PIXELS / 255, "BT.2020"), "BT.2020, linear light"),
        # cICP before iCCP before sRGB before gAMA
        (png((b"cICP", bytes([12, 13, 0, 1])), icc_profile=SRGB), in_srgb(linear(PIXELS), "P3"), "Display P3"),
        (avif(12, 13), in_srgb(linear(LOSSY), "P3"), "Display P3"),
        (avif(9, 1), in_srgb(linear(LOSSY), "BT.2020"), "BT.2020"),
        (avif(1, 4), in_srgb((LOSSY / 255) ** 2.2), "BT.709, gamma 2.2"),
    ],
)
def test_colours_that_a_png_or_avif_tells_are_converted(data: bytes, expected: np.ndarray, source: str) -> None:
    close(data, expected, f"colours converted to sRGB from {source}", 3)


@pytest.mark.parametrize(
    "data",
    [
        png(gamma(0.45455)),
        png(gamma(0.45455), chromaticities(SRGB_PRIMARIES)),
        png(gamma(1), (b"sRGB", b"\0")),
        png(gamma(1), icc_profile=SRGB),
        png((b"cICP", bytes([1, 13, 0, 1])), gamma(1)),
        png(icc_profile=matrix_profile(SRGB_PRIMARIES, SRGB_CURVE)),
        encoded(PICTURE, "TIFF", icc_profile=SRGB),
        encoded(PICTURE, "WEBP", lossless=True, icc_profile=SRGB),
    ],
)
def test_what_says_srgb_stays_as_it_is(data: bytes) -> None:
    close(data, PIXELS, "", 0)


def test_an_avif_or_a_jpeg_that_says_srgb_stays_as_it_is() -> None:
    for primaries, transfer in ((1, 13), (2, 2), (1, 1)):
        close(avif(primaries, transfer), LOSSY, "", 0)
    plain = encoded(PICTURE, "JPEG", quality=95)
    close(encoded(PICTURE, "JPEG", quality=95, icc_profile=SRGB), preprocess(plain, 32).pixels, "", 0)


def grey_profile(exponent: float) -> bytes:
    body = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, len(body), b"wtpt", 156 + len(body), len(white))
    return header(b"mntr", b"GRAY", b"XYZ ", table + body + white)


def cmyk_profile() -> bytes:
    """Inks that print as they are called, but for cyan, which prints red."""
    lab = {(0, 0, 0): (255, 128, 128), (1, 0, 0): (136, 208, 195)}  # 8 bits each; other mixtures are dark
    corners = np.ndindex(2, 2, 2, 2)
    colours = [lab.get(corner[:3], (60, 128, 128)) if corner[3] == 0 else (0, 128, 128) for corner in corners]
    identity = struct.pack(">9i", *np.eye(3, dtype=int).ravel().tolist())
    body = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4
    body += bytes(np.array(colours, np.uint8).ravel()) + bytes(range(256)) * 3
    return header(b"prtr", b"CMYK", b"Lab ", struct.pack(">I4sII", 1, b"A2B0", 144, len(body)) + body)


def header(kind: bytes, space: bytes, connection: bytes, rest: bytes) -> bytes:
    top = struct.pack(">I4xI4s4s4s12x4s", 128 + len(rest), 0x02100000, kind, space, connection, b"acsp")
    return top.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061).ljust(60, b"\0") + rest


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_an_icc_profile_is_applied(form: str, options: dict[str, Any]) -> None:
    wide = matrix_profile(BT2020, (0, 1.8))
    note = "colours converted to sRGB from a profile without a name"
    close(encoded(PICTURE, form, icc_profile=wide, **options), in_srgb((PIXELS / 255) ** 1.8, "BT.2020"), note, 3)


def test_the_profile_of_a_large_jpeg_is_applied_before_it_is_resized() -> None:
    """Black and white squares of a pixel look half as bright: in linear light, that is the level 127."""
    checks = (np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = Image.fromarray(np.stack([checks] * 3, axis=2))
    one = preprocess(encoded(picture, "PNG", icc_profile=matrix_profile(SRGB_PRIMARIES, (0, 1.0))), 32)
    assert np.abs(one.pixels.astype(int) - 127).max() <= 2

    wide = matrix_profile(P3, SRGB_CURVE)
    large = Image.new("RGB", (1100, 1040), (128, 100, 90))
    one = preprocess(encoded(large, "JPEG", quality=95, icc_profile=wide), 32)
    assert "colours converted to sRGB from" in one.notes[0]
    assert np.abs(one.pixels - in_srgb(linear(np.array([128, 100, 90])), "P3")).max() <= 3


def test_grey_and_cmyk_go_through_their_profile() -> None:
    grey = np.stack([np.asarray(GREY)] * 3, axis=2)
    for form in ("PNG", "TIFF"):
        one = preprocess(encoded(GREY, form, icc_profile=grey_profile(1.0)), 32)
        assert one.notes == ["grey made RGB", "colours converted to sRGB from a profile without a name"]
        assert np.abs(one.pixels - in_srgb(grey / 255)).max() <= 2
    one = preprocess(encoded(GREY, "PNG", icc_profile=matrix_profile(P3, SRGB_CURVE)), 32)
    assert np.abs(one.pixels.astype(int) - grey).max() <= 1, "a grey picture with a profile of RGB"

    for form, options in (("JPEG", {"quality": 95}), ("TIFF", {})):
        for inks, expected in (((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), None)):
            one = preprocess(
                encoded(Image.new("CMYK", (32, 32), inks), form, icc_profile=cmyk_profile(), **options), 32
            )
            assert one.notes == ["CMYK made RGB", "colours converted to sRGB from a profile without a name"]
            red, green, blue = one.pixels[16, 16].tolist()
            if expected is None:
                assert red > 200 > 60 > max(green, blue)
            else:
                assert np.abs(np.subtract((red, green, blue), expected)).max() <= 3


def test_transparency_keeps_its_rule() -> None:
    alpha = np.full((32, 32, 1), 255, np.uint8)
    alpha[:, :16] = 0
    veiled = Image.fromarray(np.concatenate([PIXELS, alpha], axis=2))
    expected = in_srgb(linear(PIXELS), "P3")
    expected[:, :16] = 255
    one = preprocess(encoded(veiled, "PNG", icc_profile=matrix_profile(P3, SRGB_CURVE)), 32)
    assert one.notes == ["colours converted to sRGB from a profile without a name", "transparency put on white"]
    assert np.abs(one.pixels - expected).max() <= 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(PICTURE, "PNG", icc_profile=b"no profile"), "(a profile without a name, which cannot be used)"),
        (encoded(PICTURE, "TIFF", icc_profile=SRGB[:200]), "cannot be used"),
        (encoded(PICTURE, "WEBP", lossless=True, icc_profile=grey_profile(1.8)), "cannot be used"),
        (encoded(PICTURE, "PNG", icc_profile=cmyk_profile()), "cannot be used"),
        (png((b"iCCP", b"name\0\0no zlib")), "a broken profile"),
        (png(gamma(0)), "gAMA 0"),
        (png(chromaticities((0.3,) * 8)), "cHRM"),
        (png((b"cICP", bytes([9, 16, 0, 1]))), "BT.2020 with PQ"),
        (png((b"cICP", bytes([1, 13, 0, 0]))), "1/13/0/0"),
    ],
)
def test_colours_that_cannot_be_converted_are_named(data: bytes, said: str) -> None:
    one = preprocess(data, 32)
    (note,) = one.notes
    assert said in note
    assert note.endswith("not converted to sRGB")
    assert np.array_equal(one.pixels, PIXELS)


def test_an_avif_for_bright_screens_is_named() -> None:
    for transfer, name in ((16, "BT.2020 with PQ"), (18, "BT.2020 with HLG"), (10, "BT.2020 with transfer 10")):
        close(
            avif(9, transfer),
            LOSSY,
            f"its colours ({name}) are not converted to sRGB",
            0,
        )


def test_a_pil_image_and_its_file_get_one_answer() -> None:
    for data in (encoded(PICTURE, "TIFF", icc_profile=matrix_profile(P3, SRGB_CURVE)), png(gamma(1))):
        with Image.open(io.BytesIO(data)) as image:
            seen = preprocess(image, 32)
            assert np.array_equal(np.asarray(image), PIXELS)
        assert np.array_equal(seen.pixels, preprocess(data, 32).pixels)
        assert seen.notes == preprocess(data, 32).notes != []


def test_a_name_from_a_profile_is_one_short_line() -> None:
    text = ("two\nlines \x1b[31m" + 99 * "x").encode()
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(79)
    plain = matrix_profile(P3, SRGB_CURVE)
    assert plain is not None
    count, table, bodies = 7, plain[132:216], plain[216:]
    moved = b"".join(
        name + struct.pack(">II", offset + 12, length) for name, offset, length in struct.iter_unpack(">4sII", table)
    )
    moved += b"desc" + struct.pack(">II", 228 + len(bodies), len(desc))
    profile = plain[4:128] + struct.pack(">I", count + 1) + moved + bodies + desc
    whole = struct.pack(">I", len(profile) + 4) + profile
    (note,) = preprocess(encoded(PICTURE, "PNG", icc_profile=whole), 32).notes
    assert note.startswith("colours converted to sRGB from two lines")
    assert note.isprintable()
    assert len(note) < 100
