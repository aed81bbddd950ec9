"""Bytes of a picture to pixels: the one decoding path of training, the shell, HTTP and the page."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from detector.errors import UserError

# The formats that are read. Some others of Pillow's, such as EPS, start programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")


def decode(data: bytes) -> np.ndarray:
    """Return the picture as uint8 (height, width, 3), RGB. Raises UserError when it is broken or no picture.

    Colour JPEG goes through libjpeg-turbo directly, five times as fast as Pillow and with the same pixels;
    everything else (other formats, grey and CMYK JPEG) through Pillow, which drops an alpha channel.
    """
    if data[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(data)[2] == "YCbCr":
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass  # Pillow accepts some JPEGs that libjpeg-turbo warns about, and names what is wrong with the others
    with one_line_errors(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return np.asarray(image.convert("RGB"))


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
        if data[4:8] == b"ftyp":
            raise UserError("HEIC or a film, which cannot be read: save it as JPEG") from None
        raise UserError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise UserError("more than 100 megapixels") from None
    except Exception as error:  # broken bytes can make Pillow raise any exception
        system = error.strerror if isinstance(error, OSError) else None
        raise UserError(system or f"broken picture ({str(error) or type(error).__name__})") from None
