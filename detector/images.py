"""Bytes of a picture to pixels: the one decoding path of training, the shell, HTTP and the page."""

import contextlib
import ctypes
import io
import re
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from detector.costs import check_avif, check_costs
from detector.errors import UserError
from detector.preprocessed import TooManyPixelsError
from detector.sources import FORMATS, format_of


def decode(data: bytes, notes: list[str] | None = None) -> np.ndarray:
    """Return the picture as uint8 (height, width, 3), RGB. Raises UserError when it is broken or no picture.

    Colour JPEG goes through libjpeg-turbo directly, five times as fast as Pillow and with the same pixels;
    other formats through Pillow, which drops an alpha channel. notes: what the decoder noticed is appended.
    """
    noted: list[str] = [] if notes is None else notes
    check_costs(data)
    if data[:2] == b"\xff\xd8":
        pixels = decode_jpeg(data, noted)
        if pixels is not None and pixels.shape[2] < 4:
            return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        noted.clear()  # Pillow names what is wrong with those that it does not accept either
    with one_line_errors(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return np.asarray(load(image, data, noted).convert("RGB"))


def load(image: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Return the picture that was opened from `data`, decoded, and append what its decoder noticed to `notes`.

    After `image.draft` a JPEG is decoded at the smaller size. Raises what Pillow raises, or UserError.
    """
    if image.format in ("JPEG", "MPO"):
        pixels = decode_jpeg(data, notes, image.size)
        if pixels is not None:
            if pixels.shape[2] == 4:
                return Image.fromarray(255 - pixels, "CMYK")
            return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    if image.format == "PNG":
        check_png(data, notes)
    if image.format == "AVIF":
        check_avif(data, image.size)
    complaints.said = []
    image.load()
    vars(image).pop("_decoder", None)  # WebP's and AVIF's keep 8 bytes a pixel and more of their own
    if complaints.said:
        notes.append(f"damaged file (libtiff: errors in {complaints.said[0]}): part of the picture may be wrong")
    return image


# What libjpeg calls the colours of a JPEG, and what they are decoded to.
JPEG_COLOURS = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}


def decode_jpeg(data: bytes, notes: list[str], size: tuple[int, int] = (0, 0)) -> np.ndarray | None:
    """Return a whole JPEG as uint8 (height, width, channels): RGB, grey or, as Adobe stores it, inverted CMYK.

    size: at least this width and height, where a half, a quarter or an eighth will do; 0 is its own. None where Pillow
    must have a try: libjpeg warned, which is noted, or the chroma is sampled in a way that simplejpeg does not know.
    """
    try:
        height, width, stored, _ = simplejpeg.decode_jpeg_header(data)
        if size == (width, height):  # of a few pixels, seven eighths are as many
            size = 0, 0
        if stored in JPEG_COLOURS:
            return simplejpeg.decode_jpeg(data, JPEG_COLOURS[stored], min_width=size[0], min_height=size[1])
    except KeyError:
        pass
    except ValueError as warning:
        # simplejpeg is strict: it raises what other programs pass over, such as "Corrupt JPEG data: bad Huffman code"
        if not str(warning).startswith("tjDecompress"):
            what = re.sub(r"\d+ ", "", str(warning))
            notes.append(f"damaged file ({what}): part of the picture may be wrong")
    return None


def check_png(data: bytes, notes: list[str]) -> None:
    """Compare the checksums of a PNG's chunks, as Pillow does for some. Raises UserError where one that the pixels
    need is wrong; another one, and an end that is missing, are noted."""
    view, place, kind, is_noted = memoryview(data), 8, b"", False
    while kind != b"IEND":
        if place + 12 > len(data):
            notes.append("damaged file (it ends before the PNG's end): part of the picture may be wrong")
            return
        length, kind = struct.unpack_from(">I4s", data, place)
        checksum = place + 8 + length
        if view[checksum : checksum + 4] != zlib.crc32(view[place + 4 : checksum]).to_bytes(4):
            if not kind[0] & 0x20:  # a capital: no decoder may pass over this chunk
                raise UserError("broken picture (the checksum of a PNG chunk is wrong)")
            if not is_noted:
                notes.append("damaged file (the checksum of a PNG chunk beside the pixels is wrong)")
            is_noted = True
        place = checksum + 4


# libtiff writes its complaints to stderr, and goes on. A handler of ours keeps them, for each thread its own.
class Complaints(threading.local):
    said: list[str] = []  # noqa: RUF012 (each thread has its own)


complaints = Complaints()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def keep_complaint(module: bytes | None, _text: bytes, _arguments: int) -> None:
    complaints.said.append((module or b"").decode(errors="replace"))


with contextlib.suppress(AttributeError, OSError):  # on Windows libtiff has no names to be found by
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(keep_complaint)


def jpeg_roundtrip(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Encode uint8 (height, width, 3), RGB, as JPEG with 4:2:0 chroma, and decode it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return decode(file.getvalue())


@contextlib.contextmanager
def one_line_errors(data: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises on a picture's bytes `data` into a UserError of one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        if (kind := format_of(data[:16])) is not None:
            raise UserError(
                f"broken picture, or {kind} of a kind that is not read, such as 32 bits a colour: save it as PNG"
            ) from None
        if data[4:8] == b"ftyp":
            raise UserError("HEIC or a film, which cannot be read: save it as JPEG") from None
        raise UserError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:  # Pillow's own limit; it does not say the size
        raise TooManyPixelsError("more than 179 megapixels") from None
    except Exception as error:  # broken bytes can make Pillow raise any exception
        system = error.strerror if isinstance(error, OSError) else None
        raise UserError(system or f"broken picture ({str(error) or type(error).__name__})") from None
