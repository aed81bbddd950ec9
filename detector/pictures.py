"""Turn any picture into a detector's input, and note what was done to it.

Files are decoded by detector.images, as the training data are: one of the detector's own size comes out pixel by pixel
as `prepare` packs it. What files may have (EXIF orientation, transparency, 16 bits, several frames) is
dealt with here.
"""

import io
import math
import os
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose

from detector.colours import colour_meaning, to_srgb
from detector.costs import check_costs
from detector.errors import UserError
from detector.images import jpeg_roundtrip, load, one_line_errors
from detector.preprocessed import SAYS_LITTLE, Preprocessed, TooManyPixelsError
from detector.sources import FORMATS, MAX_PIXELS, read

if TYPE_CHECKING:  # a worker does without pydantic
    from detector.record import Fit

Source = bytes | str | os.PathLike[str] | BinaryIO | Image.Image | np.ndarray

MOST_GIVEN = 100_000_000  # of a PIL image or an array, which is decoded already
MAX_SIDE = 65_535  # JPEG's own; the resampling filter of a strip of 1 x 100,000,000 would take gigabytes
# A JPEG is decoded at a half, quarter or eighth of its size where that leaves this many times the detector's input: up
# to 64 times fewer pixels. The input then differs slightly.
SPARE = 16

UPRIGHT = {  # EXIF orientation: what turns the stored picture upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
MODES = {"1": "black and white", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette"}

# Pairs: the largest factor, and what it means for the answer.
SMALLER = (
    (2, "some detail is lost"),
    (8, "much detail is lost, the answer is less certain than it looks"),
    (math.inf, f"nearly all detail is lost, {SAYS_LITTLE}"),
)
LARGER = (
    (1.5, "the finest detail is missing, the answer is less certain than it looks"),
    (math.inf, f"there is no fine detail to judge by, {SAYS_LITTLE}"),
)


def preprocess(
    source: Source,
    size: int,
    fit: "Fit" = "stretch",
    reencode: int | None = None,
    max_pixels: int = MAX_PIXELS,
    thumbnail: int | None = None,
) -> Preprocessed:
    """Turn a picture into a detector's input of size x size pixels.

    fit: how, where it has another size (`resize_to`). reencode: the JPEG quality at which the input is encoded and
    decoded, as the training data were. source: a picture file's bytes, its path or the open file; a PIL image, which is
    left as it is; or uint8 (height, width, 3), RGB. max_pixels: of a file; a JPEG may have twice as many.
    thumbnail: the pixels of its longer side at most, where one of a file is wanted. Raises UserError where it is
    missing, empty, broken, no picture, or larger than that (TooManyPixelsError), MAX_SIDE or MAX_BYTES; a picture's
    size is read from its header, before any of it is decoded.
    """
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of what is refused or put right here
        try:
            if isinstance(source, np.ndarray | Image.Image):
                with one_line_errors():
                    image = source if isinstance(source, Image.Image) else from_array(source)
                    return reencoded(to_input(image, size, fit, MOST_GIVEN), reencode)
            data = read(source)
            check_costs(data)
            with one_line_errors(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return reencoded(to_input(image, size, fit, max_pixels, data, thumbnail), reencode)
        except MemoryError:
            raise UserError("not enough memory for this picture: save it as JPEG, or make it smaller") from None


def from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(f"an array must be uint8 (height, width, 3), this one is {pixels.dtype} {pixels.shape}")
    return Image.fromarray(pixels)


def reencoded(one: Preprocessed, quality: int | None) -> Preprocessed:
    """Encode an input as JPEG and decode it, where the training data were encoded again as well."""
    if quality is None:
        return one
    return replace(one, pixels=jpeg_roundtrip(one.pixels, quality))


def to_input(
    image: Image.Image,
    size: int,
    fit: "Fit",
    max_pixels: int,
    data: bytes | None = None,
    thumbnail: int | None = None,
) -> Preprocessed:
    """`preprocess` for an image that may not be decoded yet. data: the file that it was just opened from, if it was."""
    width, height = image.size
    most = 2 * max_pixels if data is not None and image.format in ("JPEG", "MPO") else max_pixels
    if width * height > most:
        raise TooManyPixelsError(f"{width}x{height} is more than {most / 1e6:.3g} megapixels")
    if max(width, height) > MAX_SIDE:
        raise UserError(f"{width}x{height} is more than {MAX_SIDE:,} pixels in a row")
    if not width * height:
        raise UserError(f"{width}x{height}: there are no pixels in it")

    notes = []
    # phones write a second picture for the screen's brightness into a JPEG (MPO): no frame
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append(f"only frame {image.tell() + 1} of several")
    stored = [str(tile.args) for tile in getattr(image, "tile", [])]  # such as RGB;16B; gone once it is decoded
    sixteen = image.mode.startswith("I;16") or any(re.search(r"\b(LA|RGB[AX]?|CMYK);16", args) for args in stored)
    # a TIFF is turned by Pillow while it is decoded, and then no longer says so; of a PNG, Pillow decodes all of it to
    # find its EXIF, and whether that fails is asked below
    stored_transposition = orientation(image) if image.format == "TIFF" else None

    if data is not None and fit != "crop":
        image.draft(None, (SPARE * size, SPARE * size))  # of other formats than JPEG it does nothing
    if data is not None:
        picture = load(image, data, notes)
    else:
        image.load()
        picture = image
    transposition = orientation(image)
    meaning = colour_meaning(image, data)

    if picture.mode in ("I", "F"):
        raise UserError("32 bits a pixel, with no fixed white: save it with 8 bits")
    if sixteen:
        notes.append("16 bits made 8")
    if picture.mode.startswith("I;16"):  # Pillow would clip
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{MODES.get(picture.mode, picture.mode)} made RGB")
    if meaning is not None:
        picture = to_srgb(picture, meaning, notes)
    if picture.has_transparency_data:
        # colour times alpha: in that form a picture can be made smaller before it is put on white
        picture = (picture if picture.mode == "RGBA" else picture.convert("RGBA")).convert("RGBa")
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    if transposition is not None:  # FLIP_LEFT_RIGHT is 0
        picture = picture.transpose(transposition)
    if transposition is not None or stored_transposition is not None:
        notes.append("turned upright as its EXIF orientation says")

    pixels = np.asarray(resize_to(picture, size, fit))
    if picture.mode == "RGBa" and pixels[..., 3].min() < 255:
        notes.append("transparency put on white")
    left, top, right, bottom = seen_box(*picture.size, size, fit)
    seen_region = (left / picture.width, top / picture.height, right / picture.width, bottom / picture.height)
    one = Preprocessed(on_white(pixels), notes + notes_on_size(width, height, size, fit), seen_region)
    return one if thumbnail is None else replace(one, thumbnail=on_white(np.asarray(small(picture, thumbnail))))


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Return pixels, uint8 (height, width, 3), RGB as they are, or (height, width, 4), RGBa, on white."""
    if pixels.shape[2] == 3:
        return pixels
    return (pixels[..., :3].astype(np.int16) + 255 - pixels[..., 3:]).clip(0, 255).astype(np.uint8)


def small(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture with its proportions, and a longer side of so many pixels at most."""
    factor = min(1, side / max(picture.size))
    width, height = (max(1, round(factor * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def orientation(image: Image.Image) -> Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF can make Pillow raise any exception; the picture itself may be whole
        return None


def resize_to(picture: Image.Image, size: int, fit: "Fit") -> Image.Image:
    """Return a picture at size x size: bicubic, antialiased where it shrinks. One of that size comes back as it is.

    stretch: the whole picture; the proportions of one that is not square change. resize: its short side is made `size`,
    and the longer one is cut off on both ends. crop: its middle, as it is; one that is too small is resized.
    """
    return picture.resize((size, size), Image.Resampling.BICUBIC, seen_box(*picture.size, size, fit))


def seen_box(width: int, height: int, size: int, fit: "Fit") -> tuple[int, int, int, int]:
    """Return which part of a picture of width x height pixels `resize_to` takes: left, top, right, bottom."""
    if fit == "stretch":
        return 0, 0, width, height
    side = size if fit == "crop" and min(width, height) >= size else min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def notes_on_size(width: int, height: int, size: int, fit: "Fit" = "stretch") -> list[str]:
    """What `resize_to` does to a picture, and what it means for the answer, by the side that changes most."""
    if (width, height) == (size, size):
        return []
    given = f"{width}x{height}"
    if fit == "crop" and min(width, height) >= size:
        return [f"only the middle {size}x{size} of {width}x{height}"]
    lost = "" if width == height else ", proportions not kept" if fit == "stretch" else ", only its middle square"
    if fit != "stretch":
        width = height = min(width, height)
    notes = [f"{given} made {size}x{size}{lost}"]
    changes = (
        ("smaller", max(width, height) / size, SMALLER),
        ("larger", size / min(width, height), LARGER),
    )
    for direction, factor, levels in changes:
        if factor > 1:
            times = f"{factor:.0f}" if factor >= 10 else f"{factor:.3g}"
            meaning = next(meaning for limit, meaning in levels if factor <= limit)
            notes.append(f"{times} times {direction}: {meaning}")
    return notes
