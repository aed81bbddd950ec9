"""What a picture file holds beside its pixels: EXIF, XMP, texts, comments, and whether there are Content Credentials.

The containers are walked from part to part, and nothing is searched for: the same bytes among the pixels, or in a part
that is not meant for them, are nothing. Every walk ends with the file, of one part no more than LONGEST bytes are
taken, packed and unpacked, and how many parts a file may have, detector/costs.py has counted before.
"""

import struct
import zlib
from collections.abc import Callable, Container, Iterator

from detector.metadata import LONGEST, tiff_tags

MOST_ITEMS = 100  # of an AVIF; more is no photograph
XMP_IN_PNG = "XML:com.adobe.xmp"
# Keywords of PNG texts that say what made a picture. Others are not even unpacked.
PNG_TEXTS = {
    *("Software", "Description", "Comment", "Title", "Author"),  # of the PNG specification
    "parameters",  # AUTOMATIC1111's web UI, and many others
    *("prompt", "workflow"),  # ComfyUI
    *("Dream", "sd-metadata", "invokeai_metadata"),  # InvokeAI
    XMP_IN_PNG,
}
XMP_TAG, C2PA_TAG = 0x02BC, 0xCD41
# The box of C2PA's manifests: in JUMBF's own form, and as a uuid box of AVIF.
JUMBF_C2PA = bytes.fromhex("6332706100110010800000aa00389b71")
UUID_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")

Part = tuple[str, bytes]  # EXIF, XMP, C2PA (which says no more than that it is there), `PNG KEYWORD` or a comment


def parts(data: bytes) -> Iterator[Part]:
    """Yield the parts of a picture file that may say what made it, in their order. Of a file of another format, and of
    what is broken, nothing."""
    walk = next((walk for start, walk in WALKS if data.startswith(start)), None)
    if walk is None and data[4:8] == b"ftyp":
        walk = avif_parts
    if walk is not None:
        yield from walk(data)


def png_parts(data: bytes) -> Iterator[Part]:
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        start, place = place + 8, place + 12 + length
        if kind == b"IEND":
            return
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = png_text(kind, data[start : start + min(length, LONGEST)])
            if text is not None:
                yield ("XMP" if keyword == XMP_IN_PNG else f"PNG {keyword}"), text
        elif kind == b"eXIf":
            yield "EXIF", data[start : start + min(length, LONGEST)]
        elif kind == b"caBX" and is_c2pa(data[start : start + min(length, 32)]):
            yield "C2PA", b""


def png_text(kind: bytes, chunk: bytes) -> tuple[str, bytes | None]:
    """Return the keyword of a text chunk, and its text; None where that is broken or none of PNG_TEXTS."""
    key, _, rest = chunk.partition(b"\0")
    keyword = key.decode("latin-1")
    if keyword not in PNG_TEXTS:
        return keyword, None
    is_packed, method = kind == b"zTXt", rest[:1]
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        is_packed, method = rest[:1] == b"\1", rest[1:2]
        *_, rest = rest[2:].split(b"\0", 2)  # after language and translated keyword
    if not is_packed:
        return keyword, rest
    try:
        return keyword, zlib.decompressobj().decompress(rest, LONGEST) if method == b"\0" else None
    except zlib.error:
        return keyword, None


def jpeg_parts(data: bytes) -> Iterator[Part]:
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xff":  # a byte that fills
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4])
        if marker == b"\xda" or length < 2:  # the pixels begin; what stands behind them is another picture's
            return
        start, place = place + 4, place + 2 + length
        if marker == b"\xe1":
            segment = data[start:place]
            if segment.startswith(b"Exif\0\0"):
                yield "EXIF", segment[6:]
            elif segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                yield "XMP", segment[29:]
        elif marker == b"\xeb":  # JPEG XT: "JP", numbers of the box and of its part, the box
            if data[start : start + 2] == b"JP" and is_c2pa(data[start + 8 : min(start + 40, place)]):
                yield "C2PA", b""
        elif marker == b"\xfe":
            yield "JPEG comment", data[start:place]


def is_c2pa(box: bytes) -> bool:
    """Say whether a JUMBF superbox begins here whose description is C2PA's."""
    return box[4:8] == b"jumb" and box[12:16] == b"jumd" and box[16:32] == JUMBF_C2PA


def webp_parts(data: bytes) -> Iterator[Part]:
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        start, place = place + 8, place + 8 + length + length % 2
        if kind == b"EXIF":
            yield "EXIF", data[start : start + min(length, LONGEST)].removeprefix(b"Exif\0\0")
        elif kind == b"XMP ":
            yield "XMP", data[start : start + min(length, LONGEST)]
        elif kind == b"C2PA" and is_c2pa(data[start : start + min(length, 32)]):
            yield "C2PA", b""


def gif_parts(data: bytes) -> Iterator[Part]:
    """Of what stands before the first frame, the one that is read."""
    place = 13 + (3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    while data[place : place + 1] == b"!":
        kind, start = data[place + 1 : place + 2], place + 2
        blocks: list[bytes] = []
        place, taken = start, 0
        while place < len(data) and data[place]:
            if taken < LONGEST:
                blocks.append(data[place + 1 : place + 1 + data[place]])
                taken += data[place]
            place += 1 + data[place]
        place += 1
        if kind == b"\xfe":
            yield "GIF comment", b"".join(blocks)
        elif kind == b"\xff" and blocks[:1] == [b"XMP DataXMP"]:  # as it is, and then 258 bytes on which any walk ends
            yield "XMP", data[start + 12 : min(place - 258, start + 12 + LONGEST)]
        elif kind == b"\xff" and blocks[:1] == [b"C2PA_GIF\1\0\0"] and is_c2pa(b"".join(blocks[1:2])):
            yield "C2PA", b""


def tiff_parts(data: bytes) -> Iterator[Part]:
    """Of a TIFF file its first directory; its tags are EXIF's."""
    yield "EXIF", data
    tags = tiff_tags(data, {XMP_TAG, C2PA_TAG})
    if XMP_TAG in tags:
        yield "XMP", tags[XMP_TAG]
    if is_c2pa(tags.get(C2PA_TAG, b"")[:32]):
        yield "C2PA", b""


def avif_parts(data: bytes) -> Iterator[Part]:
    for kind, start, end in boxes(data, 0, len(data)):
        if kind == b"uuid" and data[start : start + 16] == UUID_C2PA and data[start + 20 : start + 29] == b"manifest\0":
            yield "C2PA", b""
        elif kind == b"meta":
            inside = {kind: (start, end) for kind, start, end in boxes(data, start + 4, end)}
            items = dict(avif_items(data, *inside.get(b"iinf", (0, 0))))
            for item, body in avif_extents(data, *inside.get(b"iloc", (0, 0)), items):
                # before EXIF, four bytes say where in it the TIFF header is
                yield items[item], body[4 + int.from_bytes(body[:4]) :] if items[item] == "EXIF" else body


def boxes(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of an ISO base media file (ISO/IEC 14496-12): type, and where the content begins and ends."""
    while place + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, place)
        start, stop = place + 8, place + size if size else end
        if size == 1:
            start, stop = place + 16, place + int.from_bytes(data[place + 8 : place + 16])
        if not start <= stop <= end:
            return
        yield kind, start, stop
        place = stop


def avif_items(data: bytes, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield the numbers of the items in a box iinf that are EXIF or XMP, and which."""
    for kind, begin, stop in boxes(data, start + (6 if data[start : start + 1] == b"\0" else 8), end):
        width = 2 if data[begin : begin + 1] == b"\2" else 4
        number, entry = (
            int.from_bytes(data[begin + 4 : begin + 4 + width]),
            data[begin + 6 + width : min(stop, begin + 99)],
        )
        if kind == b"infe" and entry[:4] == b"Exif":
            yield number, "EXIF"
        elif kind == b"infe" and entry[:4] == b"mime" and b"\0application/rdf+xml\0" in entry:
            yield number, "XMP"


def avif_extents(data: bytes, start: int, end: int, wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the wanted items of a box iloc, by number: those that lie in the file itself, in one piece."""
    place = start

    def take(width: int) -> int:
        nonlocal place
        place += width
        return int.from_bytes(data[place - width : min(place, end)])

    version, _ = take(1), take(3)
    widths, more = take(1), take(1)
    for _ in range(min(take(2 if version < 2 else 4), MOST_ITEMS)):
        number = take(2 if version < 2 else 4)
        method = take(2) & 15 if version else 0
        take(2)  # in which file the item is; 0 is this one
        offset = take(more >> 4)
        pieces = [
            (take(more & 15 if version else 0), offset + take(widths >> 4), take(widths & 15))
            for _ in range(min(take(2), MOST_ITEMS))
        ]
        if number in wanted and method == 0 and len(pieces) == 1:
            _, begin, length = pieces[0]
            yield number, data[begin : begin + min(length, LONGEST)]


WALKS: tuple[tuple[bytes, Callable[[bytes], Iterator[Part]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", png_parts),
    (b"\xff\xd8\xff", jpeg_parts),
    (b"RIFF", webp_parts),
    (b"GIF8", gif_parts),
    (b"II*\0", tiff_parts),
    (b"MM\0*", tiff_parts),
)
