"""Picture files of at most 2 MB, made by hand, whose decoding would cost minutes or a gigabyte."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.serving import png_by_hand


def encoded(form: str, size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(file, form)
    return file.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def progressive(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG with so many empty scans, each a pass over the whole picture."""
    blocks = -(-width // 8) * -(-height // 8)
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    start = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, frame)
    start += segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    start += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    start += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8))
    bits = ("0" + "1" * 14) * (-(-blocks // (2**15 - 1)) + 1)  # the ends of bands of 32,767 blocks
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    return start + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + scan) * (scans - 1) + b"\xff\xd9"


def jpeg_with(segments: bytes) -> bytes:
    data = encoded("JPEG")
    return data[:2] + segments + data[2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(chunks: bytes) -> bytes:
    data = encoded("PNG")
    place = data.index(b"IDAT") - 4
    return data[:place] + chunks + data[place:]


def tiff(tags: list[tuple[int, int, int, int]], rest: bytes = b"") -> bytes:
    """A grey TIFF with further tags: number, type, count, value."""
    plain = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries = sorted(plain + tags)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + rest


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def lying_avif(side: int) -> bytes:
    """Its header says 32x32."""
    data = encoded("AVIF", (side, side))
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", 32, 32) + data[place + 8 :]


def webp_animation(side: int) -> bytes:
    """The header of an animation; its one frame has a pixel."""
    still = encoded("WEBP")
    of_frame = still[12:]
    sides = struct.pack("<I", side - 1)[:3] * 2
    header = webp_chunk(b"VP8X", b"\x02\0\0\0" + sides) + webp_chunk(b"ANIM", bytes(6))
    place = bytes(6) + struct.pack("<I", 31)[:3] * 2 + bytes(4)
    return riff(header + webp_chunk(b"ANMF", place + of_frame) * 2)


def gif(side: int, extensions: bytes = b"") -> bytes:
    frame = encoded("GIF")
    start = frame.index(b",", 13 + 3 * 256)
    head = frame[:6] + struct.pack("<HH", side, side) + frame[10 : 13 + 3 * 256]
    return head + extensions + frame[start:]


BOMB = zlib.compress(bytes(1_000_000), 9)
# A name: what makes the file, and what is said of it.
MAKERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans.jpg": (lambda: progressive(4000, 4000, 4818), "a JPEG of 4,818 scans"),
    "scans over 50 megapixels.jpg": (lambda: progressive(65_500, 760, 24_084), "a JPEG of 24,084 scans"),
    "comments.jpg": (lambda: jpeg_with(b"\xff\xfe\x00\x02" * 500_000), "a JPEG of very many segments"),
    "profiles.jpg": (lambda: jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1") * 2000), "a JPEG of very many segments"),
    "filled.jpg": (lambda: jpeg_with((b"\xff" * 500 + b"\xfe\x00\x02") * 2000), "a JPEG of very many segments"),
    "profiles.png": (lambda: png_with(chunk(b"iCCP", b"k\0\0" + BOMB) * 2000), "a PNG of very many profiles"),
    "texts.png": (lambda: png_with(chunk(b"zTXt", b"k\0\0" + BOMB) * 1000), "a PNG of very many profiles"),
    "times.png": (lambda: png_with(chunk(b"tIME", bytes(7)) * 50_000), "a PNG of very many chunks beside"),
    "nothing.png": (lambda: png_with(chunk(b"IDAT", b"") * 150_000), "a PNG of very many chunks"),
    "tile.tiff": (
        lambda: tiff([(322, 4, 1, 32_768), (323, 4, 1, 32_768), (324, 4, 1, 134), (325, 4, 1, 970)], BOMB[:1000]),
        "a TIFF with tiles of 32768x32768 pixels",
    ),
    "strips.tiff": (
        lambda: tiff([(273, 4, 400_000, 122), (278, 4, 1, 1), (279, 4, 400_000, 122)], bytes(1_600_000)),
        "a TIFF of 400,000 strips",
    ),
    "tags.tiff": (
        lambda: tiff([(65_000 + number, 7, 10**6, 200) for number in range(500)], bytes(10**6)),
        "broken picture (the tags of this TIFF",
    ),
    "canvas.gif": (lambda: gif(65_535), "more than 179 megapixels"),
    "canvas, a little too large.gif": (lambda: gif(5001), "5001x5001 is more than 25 megapixels"),
    "comments.gif": (lambda: gif(32, b"!\xfe\x01x\0" * 300_000), "a GIF of very many blocks"),
    "animation.webp": (lambda: webp_animation(16_383), "more than 179 megapixels"),
    "animation, a little too large.webp": (lambda: webp_animation(5001), "5001x5001 is more than 25 megapixels"),
    "parts.webp": (
        lambda: riff(encoded("WEBP")[12:] + webp_chunk(b"XMP ", b"") * 200_000),
        "a WebP of very many parts",
    ),
    "lying.avif": (lambda: lying_avif(2000), "broken picture (the header of this AVIF says 32x32, the picture in it"),
    "canvas.bmp": (
        lambda: encoded("BMP")[:18] + struct.pack("<ii", 30_000, 30_000) + encoded("BMP")[26:],
        "more than 179 megapixels",
    ),
    "canvas.png": (lambda: png_by_hand(5001, 5001, 8, b""), "5001x5001 is more than 25 megapixels"),
}
COUNTED = {name: (make(), reason) for name, (make, reason) in MAKERS.items()}
# What no count foresees, and the limit of processor time ends: few scans of many pixels.
LONG = "99 scans.jpg", progressive(65_500, 760, 99), "decoding it takes more than"
