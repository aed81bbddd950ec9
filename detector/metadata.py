"""EXIF and XMP: the fields in them that may say what made a picture."""

import contextlib
import struct
from collections.abc import Container, Iterator

LONGEST = 2**20  # bytes of a value, and of a packet of XMP, that are looked at
EXIF_POINTER = 0x8769
EXIF_TAGS = {
    0x000B: "ProcessingSoftware",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x013B: "Artist",
    0x9286: "UserComment",
    0x9C9C: "XPComment",
    0x9C9D: "XPAuthor",
}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}  # by TIFF's types: those that texts, XMP and pointers have
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMPMETA, DESCRIPTION = "adobe:ns:meta/ xmpmeta", [f"{RDF} RDF", f"{RDF} Description"]
XMP_NAMES = {
    "http://ns.adobe.com/xap/1.0/ CreatorTool": "CreatorTool",
    "http://ns.adobe.com/tiff/1.0/ Software": "Software",
    "http://ns.adobe.com/photoshop/1.0/ Credit": "Credit",
    "http://ns.adobe.com/exif/1.0/ UserComment": "UserComment",
    "http://purl.org/dc/elements/1.1/ description": "description",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType": "DigitalSourceType",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ AISystemUsed": "AISystemUsed",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ AIPromptInformation": "AIPromptInformation",
}


def exif_texts(exif: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield those of EXIF_TAGS that a block of EXIF has, by name."""
    for tag, value in tiff_tags(exif, EXIF_TAGS.keys()).items():
        if tag == 0x9286:  # UserComment says in eight bytes how it is encoded
            value = utf16(value[8:], exif) if value[:8] == b"UNICODE\0" else value[8:]
        elif tag >= 0x9C9C:  # Windows' own
            value = value.decode("utf-16-le", "replace").encode()
        yield EXIF_TAGS[tag], value


def utf16(value: bytes, exif: bytes) -> bytes:
    """Return UTF-16 as UTF-8. Programs do not agree on the order of bytes: the zeros of Latin letters tell it."""
    zeros = value[::2].count(0) - value[1::2].count(0)
    is_big = zeros > 0 or (zeros == 0 and exif[:1] == b"M")
    return value.decode("utf-16-be" if is_big else "utf-16-le", "replace").encode()


def xmp_texts(xmp: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield those of XMP_NAMES that a packet of XMP says of the picture itself, by name: attributes and elements of
    rdf:Description right below rdf:RDF. What is said of its ingredients and of its history is nested deeper.

    A document type is refused, and with it entities, which could unfold to gigabytes.
    """
    from xml.parsers import expat  # few files have XMP

    found: list[tuple[str, bytes]] = []
    path: list[str] = []
    texts: list[str] = []

    def depth() -> int | None:
        """Below rdf:Description; None elsewhere."""
        root = 1 if path[:1] == [XMPMETA] else 0
        return len(path) - root - 2 if path[root : root + 2] == DESCRIPTION else None

    def begin(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if depth() == 0:
            found.extend((XMP_NAMES[key], value.encode()) for key, value in attributes.items() if key in XMP_NAMES)
        elif depth() == 1:
            texts[:] = [attributes.get(f"{RDF} resource", "")]

    def end(name: str) -> None:
        if depth() == 1 and name in XMP_NAMES:
            found.append((XMP_NAMES[name], "".join(texts).encode()))
        path.pop()

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = texts.append, refuse
    # What came before the fault stands. LookupError: an encoding that Python does not know.
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(xmp[:LONGEST].rstrip(b"\0"), True)
    yield from found


def tiff_tags(data: bytes, wanted: Container[int]) -> dict[int, bytes]:
    """Return the values of the wanted tags in TIFF's first directory and in the EXIF directory that it points to."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    found: dict[int, bytes] = {}
    if order is None or len(data) < 8:
        return found
    directories = [*struct.unpack_from(f"{order}I", data, 4)]
    for start in directories:
        count = int.from_bytes(data[start : start + 2], "little" if order == "<" else "big")
        for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHII", data, entry)
            if tag == EXIF_POINTER and len(directories) == 1:
                directories.append(value)
            elif tag in wanted and tag not in found:
                size = min(number * TYPE_BYTES.get(kind, 0), LONGEST)
                place = entry + 8 if size <= 4 else value
                found[tag] = data[place : place + size]
    return found
