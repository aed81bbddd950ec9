"""What a file says its colours mean, and the way from there to sRGB, which training data and viewers share.

Three things can say it: an ICC profile, the chunks of a PNG (cICP, sRGB, gAMA, cHRM), and the box nclx of an AVIF. All
become an ICC profile, which LittleCMS applies: relative colorimetric, with black point compensation, as viewers do.
"""

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

LARGEST = 2**22  # bytes of a profile; printers' have up to three million

# ITU-T H.273, ColourPrimaries: a name, and x and y of red, green, blue and white
D65 = (0.3127, 0.329)
PRIMARIES = {
    1: ("BT.709", (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, *D65)),
    5: ("BT.470 BG", (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, *D65)),
    6: ("BT.601", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65)),
    7: ("SMPTE 240M", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65)),
    9: ("BT.2020", (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, *D65)),
    11: ("DCI-P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351)),
    12: ("Display P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *D65)),
}
SRGB_PRIMARIES = PRIMARIES[1][1]
SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # of a parametricCurveType: function, parameters
# ITU-T H.273, TransferCharacteristics: a name, and the curve. Those of cameras (BT.709, BT.601, BT.2020) are taken for
# sRGB's: what a screen shows of them is meant to look so.
CURVES = {
    1: ("", SRGB_CURVE),
    4: (", gamma 2.2", (0, 2.2)),
    5: (", gamma 2.8", (0, 2.8)),
    6: ("", SRGB_CURVE),
    8: (", linear light", (0, 1.0)),
    13: ("", SRGB_CURVE),
    14: ("", SRGB_CURVE),
    15: ("", SRGB_CURVE),
}
HDR = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2

Meaning = tuple[str, bytes | None]  # a name, "" where the profile has it; the profile, None where it cannot be used


def colour_meaning(image: Image.Image, data: bytes | None) -> Meaning | None:
    """Return what an opened picture says of its colours, None where it says nothing or sRGB. data: its file, if there
    is one."""
    if data is not None and image.format == "PNG":
        # the order of precedence is that of the PNG specification, third edition, 4.3
        place = data.find(b"\0\0\0\4cICP", 0, data.find(b"IDAT"))
        if place >= 0:
            primaries, transfer, matrix, is_full = data[place + 8 : place + 12]
            if (matrix, is_full) != (0, 1):
                return f"coding points {primaries}/{transfer}/{matrix}/{is_full}", None
            return from_code_points(primaries, transfer)
    if "icc_profile" in image.info:  # None, where Pillow could not read it
        return "", image.info["icc_profile"] or None
    if image.format == "PNG" and "srgb" not in image.info and {"gamma", "chromaticity"} & image.info.keys():
        return from_gamma(image.info.get("gamma"), image.info.get("chromaticity"))
    if data is not None and image.format == "AVIF" and (place := data.find(b"colrnclx")) >= 0:
        return from_code_points(*struct.unpack(">HH", data[place + 8 : place + 12].ljust(4, b"\0")))
    return None


def from_code_points(primaries: int, transfer: int) -> Meaning | None:
    """Return the meaning of ITU-T H.273's code points."""
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = 13 if transfer == UNSPECIFIED else transfer
    name, chromaticities = PRIMARIES.get(primaries, (f"primaries {primaries}", None))
    if chromaticities is None or transfer not in CURVES:
        return f"{name} with {HDR.get(transfer, f'transfer {transfer}')}", None
    ending, curve = CURVES[transfer]
    return f"{name}{ending}", matrix_profile(chromaticities, curve)


def from_gamma(gamma: float | None, chromaticities: tuple[float, ...] | None) -> Meaning | None:
    """Return the meaning of a PNG's gAMA and cHRM: white, red, green and blue.

    A gamma within 5 % of 1/2.2 stands for sRGB's curve, as in libpng: so the specification wants it to be written.
    """
    if gamma is not None and not 0.01 <= gamma <= 100:
        return f"gAMA {gamma}", None
    is_srgb = gamma is None or abs(gamma * 2.2 - 1) < 0.05
    curve = SRGB_CURVE if gamma is None or is_srgb else (0, 1 / gamma)
    name = "PNG's gAMA" if chromaticities is None else "PNG's cHRM" if is_srgb else "PNG's gAMA and cHRM"
    primaries = SRGB_PRIMARIES if chromaticities is None else (*chromaticities[2:], *chromaticities[:2])
    return name, matrix_profile(primaries, curve)


def matrix_profile(chromaticities: tuple[float, ...], curve: tuple[float, ...]) -> bytes | None:
    """Return an ICC profile of RGB (ICC.1:2010) with these primaries and this curve; None where they are no colours."""
    x, y = np.array(chromaticities).reshape(4, 2).T
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    try:
        with np.errstate(all="raise"):
            xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
            primaries, white = xyz[:, :3], xyz[:, 3]
            scaled = primaries * np.linalg.solve(primaries, white)
            adapted = np.linalg.solve(bradford, np.diag(bradford @ d50 / (bradford @ white)) @ bradford @ scaled)
    except (FloatingPointError, np.linalg.LinAlgError):
        return None
    if np.abs(adapted).max() > 100:
        return None

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    bodies = [b"XYZ \0\0\0\0" + fixed(*column) for column in (*adapted.T, d50)]
    bodies.append(b"para\0\0\0\0" + struct.pack(">HH", int(curve[0]), 0) + fixed(*curve[1:]))
    names = (b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"rTRC", b"gTRC", b"bTRC")
    start = 128 + 4 + 12 * len(names)
    offsets = [start + sum(map(len, bodies[:number])) for number in range(len(bodies))]
    table = struct.pack(">I", len(names))
    for number, name in enumerate(names):
        body = min(number, 4)  # the three curves are one
        table += name + struct.pack(">II", offsets[body], len(bodies[body]))
    size = start + sum(map(len, bodies))
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + fixed(*d50).ljust(60, b"\0") + table + b"".join(bodies)


# Pictures of the levels 0, 15 ... 255: of grey, and of all mixtures of red, green and blue
LEVELS = np.arange(0, 256, 15, dtype=np.uint8)
SAMPLES = {
    "L": Image.fromarray(LEVELS[None]),
    "RGB": Image.fromarray(np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(len(LEVELS), -1, 3)),
}
# The colours that a profile is for, and the modes of the pictures that have them
FITTING = {"RGB": ("RGB", "RGBA", "RGBX", "P", "PA", "1", "L", "LA"), "GRAY": ("1", "L", "LA"), "CMYK": ("CMYK",)}
INPUTS = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(picture: Image.Image, meaning: Meaning, notes: list[str]) -> Image.Image:
    """Return a decoded picture with its colours converted to sRGB, RGB or RGBA, and note it.

    It comes back as it is where nothing changes by more than one level of 255, and, which is noted, where the profile
    cannot be used.
    """
    name, profile = meaning
    if profile is None:
        notes.append(f"its colours ({name or 'a broken profile'}) are not converted to sRGB")
        return picture
    try:
        described, space, transform = open_profile(profile)
        if picture.mode not in FITTING[space]:
            raise ValueError("a profile of other colours")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, KeyError):
        name = name or described_as(profile)
        notes.append(f"its colours ({name}, which cannot be used) are not converted to sRGB")
        return picture
    if transform is None:
        return picture
    notes.append(f"colours converted to sRGB from {name or described}")
    if not picture.has_transparency_data:
        return applied(picture.convert(INPUTS[space]), transform)
    picture = picture.convert("RGBA")
    converted = applied(picture.convert(INPUTS[space]), transform)
    converted.putalpha(picture.getchannel("A"))
    return converted


@lru_cache(8)  # of one camera's pictures all have the same
def open_profile(profile: bytes) -> tuple[str, str, ImageCms.ImageCmsTransform | None]:
    """Return a profile's name, its colours (RGB, GRAY or CMYK) and the way to sRGB, None where they are the same.

    Raises whatever ImageCms raises, or ValueError or KeyError, where it cannot be used. Threads may share the result.
    """
    if len(profile) > LARGEST:
        raise ValueError("too large")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    transform = ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        INPUTS[space],
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if (sample := SAMPLES.get(INPUTS[space])) is not None:
        change = np.asarray(applied(sample, transform), np.int16) - np.asarray(sample.convert("RGB"))
        if np.abs(change).max() <= 1:
            return described_as(profile), space, None
    return described_as(profile), space, transform


def applied(picture: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # as it is where the transform works in place
    return converted


def described_as(profile: bytes) -> str:
    """Return a profile's name in one short line of printable characters."""
    try:
        name = ImageCms.getProfileDescription(io.BytesIO(profile[:LARGEST]))
    except (ImageCms.PyCMSError, OSError):
        name = ""
    return "".join(c if c.isprintable() else " " for c in name).strip()[:60] or "a profile without a name"
