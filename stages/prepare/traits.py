"""What is measured of each picture while it is decoded: how its file was made, its mean colour, and a perceptual hash.

`shortcuts` asks how well each of these alone tells the classes apart, `near_duplicates` compares the hashes. All of it
runs in the decoding processes, so it is cheap: 1.2 s of one core for CIFAKE's 120,000 images (AMD EPYC).
"""

import hashlib
import io
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base

from detector.images import one_line_errors
from detector.sizes import images_at_a_time
from detector.sources import FORMATS

# One row a picture. As it was stored: before it is turned upright, cropped or resized.
TRAITS = np.dtype(
    [
        # of the file: `file_traits`
        ("width", "i4"),  # pixels
        ("height", "i4"),
        ("bytes", "i8"),  # of the file
        ("format", "S8"),  # "JPEG", "PNG"... Pillow's name
        ("encoder", "S24"),  # the quantisation tables of a JPEG: "quality 75", "tables 1a2b3c4d"; "-" of other formats
        ("chroma", "S8"),  # the chroma subsampling of a JPEG: "4:2:0", "4:4:4", "grey", "CMYK"...; "-" of other formats
        ("metadata", "S17"),  # "none", or which there are, such as "exif+icc"; of exif, xmp, icc and text
        # of the pixels as they are packed: `pixel_traits`
        ("red", "f4"),  # means, 0 to 255
        ("green", "f4"),
        ("blue", "f4"),
        ("flat", "f4"),  # the share of pixels that equal their right neighbour, 0 to 1
    ]
)
PIXEL_FIELDS = ["red", "green", "blue", "flat"]
FILE_FIELDS = [name for name in TRAITS.names or () if name not in PIXEL_FIELDS]

MOST_KNOWN = 1000  # JPEG headers that are remembered; a data set of one encoder and one size has one
LONGEST_KNOWN = 2048  # bytes of such a header; CIFAKE's has 623, one with EXIF or a colour profile is of one picture

BLOCK = 500  # images of 32 px that are computed at a time: 6 MB as float32, which stay in a core's cache


class FileTraits(NamedTuple):
    """The fields of TRAITS that a file tells without decoding, in order: `traits[FILE_FIELDS] = [...]` takes them."""

    width: int
    height: int
    bytes: int
    format: str
    encoder: str
    chroma: str
    metadata: str


def file_traits(data: bytes, known: dict[bytes, FileTraits]) -> FileTraits:
    """Return what a picture's file tells without decoding it.

    known: what was found before, by JPEG header; filled here, with at most MOST_KNOWN short headers. A header that is
    known costs 3 microseconds, another one or another format 50, of a picture whose decoding costs far more.
    Raises UserError where Pillow can tell neither format nor size.
    """
    header = jpeg_header(data)
    found = known.get(header)
    if found is None:
        found = open_file(data)
        if header and len(header) <= LONGEST_KNOWN and len(known) < MOST_KNOWN:
            known[header] = found
    return FileTraits(found[0], found[1], len(data), *found[3:])


def jpeg_header(data: bytes) -> bytes:
    """Return a JPEG's segments up to the first scan: size, tables, metadata. Empty where that is not plain to see.

    Segment by segment (ITU-T T.81, B.1.1): the bytes of a start of scan may occur earlier, inside a thumbnail.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and len(data) > place + 3:
        if data[place + 1] == 0xDA:
            return data[:place] if data[:2] == b"\xff\xd8" else b""
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return b""


def open_file(data: bytes) -> FileTraits:
    """`file_traits`, by Pillow."""
    with (
        warnings.catch_warnings(
            action="ignore"
        ),  # of broken EXIF and of large pictures: decoding refuses what is wrong
        one_line_errors(data),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):
        encoder, chroma = jpeg_settings(image)
        kind = "JPEG" if image.format == "MPO" else image.format or ""  # a phone's JPEG with a second picture behind
        return FileTraits(*image.size, len(data), kind, encoder, chroma, metadata(image))


def jpeg_settings(image: Image.Image) -> tuple[str, str]:
    """Return the encoder's settings that show in a JPEG's pixels: the quality by its tables, and the chroma."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return "-", "-"
    chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "other")
    if image.mode != "RGB":
        chroma = {"L": "grey"}.get(image.mode, image.mode)
    tables = image.quantization
    for quality, standard in standard_tables().items():
        # a grey JPEG has the first table alone
        if tables == standard or (len(tables) == 1 and tables.get(0) == standard[0]):
            return f"quality {quality}", chroma
    return f"tables {hashlib.sha256(repr(tables).encode()).hexdigest()[:8]}", chroma


@cache
def standard_tables() -> dict[int, dict[int, list[int]]]:
    """Return the quantisation tables of libjpeg by its quality."""
    tables = {}
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables[quality] = image.quantization
    return tables


def metadata(image: Image.Image) -> str:
    """Return which metadata an opened file has: "none", or such as "exif+icc". Of a PNG, those before its pixels."""
    info = image.info
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    is_png, xmp_chunk = isinstance(image, PngImagePlugin.PngImageFile), "XML:com.adobe.xmp"
    found = {
        "exif": "exif" in info or (is_tiff and Base.ExifOffset in image.getexif()),
        "xmp": "xmp" in info or xmp_chunk in info,
        "icc": "icc_profile" in info,
        # a comment, or PNG's text chunks, such as the prompt of a generator
        "text": "comment" in info or (is_png and any(isinstance(info[k], str) for k in info if k != xmp_chunk)),
    }
    return "+".join(kind for kind, there in found.items() if there) or "none"


def pixel_traits(images: np.ndarray) -> np.ndarray:
    """Return PIXEL_FIELDS of images, uint8 (N, S, S, 3), RGB: structured, (N)."""
    n, height, width, _ = images.shape
    traits, step = np.empty(n, [(name, "f4") for name in PIXEL_FIELDS]), images_at_a_time(BLOCK, height)
    for start in range(0, n, step):
        block = images[start : start + step]
        # down the columns first: three at a time would be slow
        sums = block.reshape(len(block), height, width * 3).sum(1, np.uint32).reshape(len(block), width, 3).sum(1)
        rows = traits[start : start + step]
        for channel, name in enumerate(PIXEL_FIELDS[:3]):
            rows[name] = sums[:, channel] / (height * width)
        same = block[:, :, 1:] == block[:, :, :-1]
        same = same[..., 0] & same[..., 1] & same[..., 2]
        rows["flat"] = same.reshape(len(block), -1).sum(1, np.uint32) / max(1, height * (width - 1))
    return traits


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Return a hash of each image, uint8 (N, S, S, 3), RGB, S >= 8: uint64 (N), which differs in few bits for copies.

    pHash: the 8x8 lowest frequencies of the grey image's discrete cosine transform, a bit each (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 3.2.1). Here a bit is the sign, not the
    comparison with the median, which moves two bits where one frequency changes. Frequency 0 is the mean, which has
    no sign: bit 0 is always 0.
    """
    n, size = images.shape[:2]
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(size) + 1) / (2 * size)).astype(np.float32)
    # ITU-R BT.601, as Pillow makes grey; along a row of pixels, (3 S, 8): grey and cosines at once
    across = np.kron(cosines.T, np.array([[0.299], [0.587], [0.114]], np.float32))
    hashes, step = np.empty(n, np.uint64), images_at_a_time(BLOCK, size)
    for start in range(0, n, step):
        block = images[start : start + step]
        rows = block.reshape(-1, size * 3).astype(np.float32) @ across
        frequencies = np.matmul(cosines, rows.reshape(len(block), size, 8)).reshape(-1, 64)
        bits = frequencies > 0
        bits[:, 0] = False
        hashes[start : start + step] = np.packbits(bits, axis=1, bitorder="little").view("<u8")[:, 0]
    return hashes
