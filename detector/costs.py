"""Cheap counts in a picture file, before any of it is decoded, for good reasons where it would cost too much.

A few hundred kilobytes can keep a decoder busy for minutes: a JPEG of thousands of scans, a TIFF of one enormous tile.
What is counted here is what such files have in common; what these counts miss, the limits of the decoding workers end
(detector/pool.py).
"""

import re
import struct
from itertools import islice

from detector.errors import UserError

MOST_SCANS = 100  # of a JPEG; a progressive one has about ten
MOST_BLOCKS = 1000  # of a JPEG, PNG or GIF beside its pixels: segments, chunks, extensions
MOST_COMPRESSED = 100  # of them, in a PNG; each may unpack to a megabyte
MOST_PARTS = 100_000  # of the pixels: PNG's IDAT chunks, TIFF's strips and tiles, chunks of a WebP
MOST_TILE = 25_000_000  # pixels of one of TIFF's tiles, whatever the size of the picture

TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
STRIPS, TILE_WIDTH, TILE_HEIGHT, TILES = 273, 322, 323, 324


def check_costs(data: bytes) -> None:
    """Raise UserError where a picture file has so many parts that decoding it could take minutes."""
    if data[:2] == b"\xff\xd8":
        check_jpeg(data)
    elif data[:4] == b"\x89PNG":
        check_png(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        check_tiff(data)
    elif data[:3] == b"GIF":
        check_gif(data)
    elif data[:4] == b"RIFF":
        check_webp(data)


def refuse(what: str, most: int) -> None:
    raise UserError(f"{what}, more than {most:,}: it would take too long, save it again as PNG or JPEG")


def check_jpeg(data: bytes) -> None:
    place, segments = 2, 0
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        if data[place + 1 : place + 2] == b"\xff":  # a byte that fills
            place += 1
            continue
        segments += 1
        if segments > MOST_BLOCKS:
            refuse("a JPEG of very many segments", MOST_BLOCKS)
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    # the bytes of a marker do not occur among the compressed ones
    if (scans := data.count(b"\xff\xda", place)) > MOST_SCANS:
        refuse(f"a JPEG of {scans:,} scans", MOST_SCANS)


def check_png(data: bytes) -> None:
    place, blocks, compressed, parts = 8, 0, 0, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IEND":
            return
        parts += kind in (b"IDAT", b"fdAT")
        blocks += kind not in (b"IDAT", b"fdAT", b"fcTL")
        compressed += kind in (b"iCCP", b"zTXt", b"iTXt")
        if compressed > MOST_COMPRESSED:
            refuse("a PNG of very many profiles and compressed texts", MOST_COMPRESSED)
        if blocks > MOST_BLOCKS:
            refuse("a PNG of very many chunks beside its pixels", MOST_BLOCKS)
        if parts > MOST_PARTS:
            refuse("a PNG of very many chunks", MOST_PARTS)
        place += 12 + length


def check_tiff(data: bytes) -> None:
    """Look at the first directory, that of the picture which is read."""
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack_from(f"{order}I", data.ljust(8, b"\0"), 4)
    (count,) = struct.unpack(f"{order}H", data[start : start + 2].ljust(2, b"\0"))
    held, values = 0, {}
    for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHII", data, entry)
        if kind == 3 and number == 1:
            (value,) = struct.unpack_from(f"{order}H", data, entry + 8)
        values[tag] = value
        size = number * TAG_BYTES.get(kind, 0)
        if size > 4:
            held += max(0, min(size, len(data) - value))
        if tag in (STRIPS, TILES) and number > MOST_PARTS:
            refuse(f"a TIFF of {number:,} strips or tiles", MOST_PARTS)
    if held > 2 * len(data):
        raise UserError("broken picture (the tags of this TIFF say that they hold more than the file has)")
    width, height = values.get(TILE_WIDTH, 0), values.get(TILE_HEIGHT, 0)
    if width * height > MOST_TILE:
        refuse(f"a TIFF with tiles of {width}x{height} pixels", MOST_TILE)


def check_gif(data: bytes) -> None:
    """Look at what stands before the first frame, the one that is read."""
    place, blocks = 13, 0
    if len(data) > 10 and data[10] & 0x80:
        place += 3 << ((data[10] & 7) + 1)  # the palette
    while data[place : place + 1] == b"!":
        place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
            blocks += 1
            if blocks > MOST_PARTS:
                refuse("a GIF of very many blocks before its first frame", MOST_PARTS)
        place += 1
        blocks += MOST_PARTS // MOST_BLOCKS


def check_webp(data: bytes) -> None:
    place = 12
    for _ in islice(range(len(data)), MOST_PARTS):
        if place + 8 > len(data):
            return
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2
    refuse("a WebP of very many parts", MOST_PARTS)


def check_avif(data: bytes, size: tuple[int, int]) -> None:
    """Raise UserError where the picture in an AVIF is larger than its header says: libavif would make it smaller,
    without a word. size: width and height by the header."""
    found = av1_size(data)
    if found is not None and (found[0] > size[0] or found[1] > size[1]):
        said, true = "x".join(map(str, size)), "x".join(map(str, found))
        raise UserError(f"broken picture (the header of this AVIF says {said}, the picture in it has {true})")


def av1_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height by the first sequence header (AV1 specification, 5.5) in an AVIF's data, None without
    one."""
    header = re.compile(rb"\x12\0\x0a[\x04-\x40]").search(data, data.find(b"mdat") + 4)
    if header is None:
        return None
    place, bits = 0, "".join(f"{byte:08b}" for byte in data[header.end() : header.end() + 64].ljust(64, b"\0"))

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    take(4)  # profile, and whether it is one still picture
    if take(1):  # with a short header
        take(5)
    else:
        if take(1):  # times of a film
            return None
        has_delay = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if has_delay and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
