"""Picture files and what they say of themselves: a table, so that every program that reads claims can be asked alike.

Each case is small, made by hand, and of a picture that decodes to an answer.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from detector.preprocessed import Claim

PICTURE = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
XAP, XMP_KEYWORD = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp\0\0\0\0\0"
PARAMETERS = "a lighthouse at dusk\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Model: dream_8"
PARAMETERS_SAID = "made with AUTOMATIC1111's web UI or one like it, model dream_8, prompt “a lighthouse at dusk”"
NODES = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
}
NODES_SAID = "made with ComfyUI, model sd_xl_base_1.0.safetensors, prompt “a lighthouse”"
GENERATIVE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
GENERATIVE_SAID = "created by a generative model (trainedAlgorithmicMedia)"
NAMESPACES = (
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
)


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    claims: tuple[Claim, ...]


def case(name: str, data: bytes, *claims: tuple[str, str]) -> Case:
    """claims: pairs of source and what is said, none of it signed."""
    return Case(name, data, tuple(Claim(source, says, False) for source, says in claims))


def saved(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, form, **options)
    return file.getvalue()


def exif(tags: dict[int, Any], order: str = "<") -> bytes:
    """EXIF with these tags; 0x9286 lies in the EXIF directory. order: of bytes, < or >."""
    inner = {tag: value for tag, value in tags.items() if tag == 0x9286}
    outer = {tag: value for tag, value in tags.items() if tag not in inner}
    body = b""

    def directory(entries: dict[int, bytes], start: int, pointer: int | None) -> bytes:
        count = len(entries) + (pointer is not None)
        place, head, tail = start + 2 + 12 * count + 4, struct.pack(f"{order}H", count), b""
        for tag, value in sorted(entries.items()):
            kind = 7 if tag == 0x9286 else 1 if tag >= 0x9C9B else 2
            where = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", place + len(tail))
            head += struct.pack(f"{order}HHI", tag, kind, len(value)) + where
            tail += value if len(value) > 4 else b""
        if pointer is not None:
            head += struct.pack(f"{order}HHII", 0x8769, 4, 1, pointer)
        return head + bytes(4) + tail

    length = len(directory(outer, 8, 0 if inner else None))
    body = directory(outer, 8, 8 + length if inner else None)
    if inner:
        body += directory(inner, 8 + length, None)
    return struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8) + body


def xmp(attributes: str = "", elements: str = "", before: str = "") -> bytes:
    return (
        f'{before}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {NAMESPACES} {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments: bytes) -> bytes:
    data = saved("JPEG")
    return data[:20] + b"".join(segments) + data[20:]  # after JFIF's own


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, at_end: bool = False) -> bytes:
    data = saved("PNG")
    place = len(data) - 12 if at_end else 33
    return data[:place] + b"".join(chunks) + data[place:]


def text(keyword: str, value: str) -> bytes:
    return chunk(b"tEXt", keyword.encode() + b"\0" + value.encode("latin-1"))


def packed_text(keyword: str, value: bytes) -> bytes:
    return chunk(b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(value))


def international_text(keyword: str, value: str, is_packed: bool = False) -> bytes:
    body = zlib.compress(value.encode()) if is_packed else value.encode()
    return chunk(b"iTXt", keyword.encode() + b"\0" + bytes((is_packed, 0)) + b"en\0" + keyword.encode() + b"\0" + body)


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved("WEBP", exif=exif({0x0131: b"x\0"}))  # of the form that may have further chunks
    data = data[: data.index(b"EXIF")]
    for kind, body in chunks:
        data += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def gif(*extensions: bytes) -> bytes:
    data = saved("GIF")
    place = 13 + (3 << ((data[10] & 7) + 1))
    return data[:place] + b"".join(extensions) + data[place:]


def sub_blocks(body: bytes) -> bytes:
    parts = [body[start : start + 255] for start in range(0, len(body), 255)]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


# A JUMBF superbox whose description is that of C2PA, with nothing in it
JUMBF = box(b"jumb", box(b"jumd", bytes.fromhex("6332706100110010800000aa00389b71") + b"\3c2pa\0"))
OTHER_JUMBF = JUMBF.replace(b"c2pa\0\x11", b"jpeg\0\x11")
UNREAD = "Content Credentials, not read: `pip install c2pa-python` lets them be read and checked"


def tiff(**tags: Any) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[int(tag[1:], 16)] = value
    return saved("TIFF", tiffinfo=directory)


def jpeg_cases() -> Iterator[Case]:
    midjourney = ("EXIF Software", "made with Midjourney")
    yield case("jpeg of nothing", saved("JPEG"))
    for order in "<>":
        tags = exif({0x0131: b"Midjourney\0"}, order)
        yield case(f"jpeg software {order}", jpeg(segment(0xE1, b"Exif\0\0" + tags)), midjourney)
    tags = exif({0x0131: b"Adobe Photoshop 25.0 (Windows)\0", 0x013B: b"Jane Doe\0", 0x010E: b"Jane at home\0"})
    yield case(
        "jpeg of a person",
        jpeg(segment(0xE1, b"Exif\0\0" + tags)),
        ("EXIF Software", "software: Adobe Photoshop 25.0 (Windows)"),
    )
    tags = exif({0x0131: b"AI generated;txt2img;flux\0", 0x010F: b"Black Forest Labs\0", 0x010E: b"a cat\0"})
    yield case(
        "jpeg of flux",
        jpeg(segment(0xE1, b"Exif\0\0" + tags)),
        ("EXIF Make", "“Black Forest Labs”"),
        ("EXIF Software", "made with AI generated;txt2img;flux"),
    )
    for name, code, encoding, order in (
        ("ascii", b"ASCII\0\0\0", "ascii", "<"),
        ("big", b"UNICODE\0", "utf-16-be", "<"),
        ("little", b"UNICODE\0", "utf-16-le", ">"),
        ("undefined", bytes(8), "utf-8", ">"),
    ):
        tags = exif({0x9286: code + PARAMETERS.encode(encoding)}, order)
        said = ("EXIF UserComment", PARAMETERS_SAID)
        yield case(f"jpeg comment {name}", jpeg(segment(0xE1, b"Exif\0\0" + tags)), said)
    credit = xmp(f'Iptc4xmpExt:DigitalSourceType="{GENERATIVE}" photoshop:Credit="Made with Google AI"')
    said_by_xmp = ("XMP DigitalSourceType", GENERATIVE_SAID), ("XMP Credit", "“Made with Google AI”")
    for caption, is_said in (("AI-generated image of a cat", True), ("My neighbour Ai Generates Midjourneys", False)):
        data = jpeg(segment(0xE1, b"Exif\0\0" + exif({0x010E: caption.encode() + b"\0"})))
        yield case(f"jpeg caption {is_said}", data, *([("EXIF ImageDescription", f"“{caption}”")] if is_said else []))
    yield case("jpeg xmp", jpeg(segment(0xE1, XAP + credit)), *said_by_xmp)
    elements = f"<xmp:CreatorTool>GIMP &amp; me</xmp:CreatorTool><Iptc4xmpExt:DigitalSourceType>{GENERATIVE}"
    packet = xmp(elements=f"{elements}</Iptc4xmpExt:DigitalSourceType>")
    both = ("XMP CreatorTool", "software: GIMP & me"), ("XMP DigitalSourceType", GENERATIVE_SAID)
    yield case("jpeg xmp elements", jpeg(segment(0xE1, XAP + packet)), *both)
    written = '<CreatorTool xmlns="http://ns.adobe.com/xap/1.0/">GI<!-- -->M&#x50;<![CDATA[ & me]]></CreatorTool>'
    packet = xmp(elements=f'{written}<Iptc4xmpExt:DigitalSourceType rdf:resource="{GENERATIVE}"/>')
    packet = b'<?xpacket begin="\xef\xbb\xbf"?>\n' + packet + b"\n" + b" " * 99 + b'\n<?xpacket end="w"?>'
    yield case("jpeg xmp written otherwise", jpeg(segment(0xE1, XAP + packet)), *both)
    for name, broken in (
        ("unbound prefix", xmp('none:CreatorTool="GIMP"')),
        ("unknown entity", xmp('xmp:CreatorTool="&nbsp;"')),
        ("attribute twice", xmp('xmp:CreatorTool="GIMP" xmp:CreatorTool="GIMP"')),
        ("text before it", xmp('xmp:CreatorTool="GIMP"', before="GIMP")),
        ("other namespace", xmp('dc:CreatorTool="GIMP"')),
        ("unknown encoding", xmp('xmp:CreatorTool="GIMP"', before='<?xml version="1.0" encoding="foo"?>')),
        ("encoding of no text", xmp('xmp:CreatorTool="GIMP"', before='<?xml version="1.0" encoding="hex"?>')),
    ):
        yield case(f"jpeg xmp {name}", jpeg(segment(0xE1, XAP + broken)))
    inner = f'<xmpMM:Ingredients><rdf:Bag><rdf:li><rdf:Description Iptc4xmpExt:DigitalSourceType="{GENERATIVE}"/>'
    inner += "</rdf:li></rdf:Bag></xmpMM:Ingredients><xmpMM:History><xmp:CreatorTool>Midjourney</xmp:CreatorTool>"
    yield case("jpeg xmp of an ingredient", jpeg(segment(0xE1, XAP + xmp(elements=f"{inner}</xmpMM:History>"))))
    entity = xmp('xmp:CreatorTool="&x;"', before='<!DOCTYPE x [<!ENTITY x "Midjourney">]>')
    yield case("jpeg xmp with an entity", jpeg(segment(0xE1, XAP + entity)))
    torn = xmp('xmp:CreatorTool="Midjourney"')[:-30]
    yield case("jpeg torn xmp", jpeg(segment(0xE1, XAP + torn)), ("XMP CreatorTool", "made with Midjourney"))
    yield case(
        "jpeg comment", jpeg(segment(0xFE, b"generated with Midjourney")), ("JPEG comment", "made with Midjourney")
    )
    i, capital = "\u0131", "\u0130"  # Turkish letters
    for comment, says in (
        (f"generated w{i}th M{capital}djourney", f"made with M{capital}djourney"),
        (f"All of it GENERATED W{capital}TH AI", f"“All of it GENERATED W{capital}TH AI”"),
    ):
        yield case(f"jpeg comment {comment}", jpeg(segment(0xFE, comment.encode())), ("JPEG comment", says))
    for comment in ("Pancakes\nSteps: mix, fry, eat", "Printed by Jane, Job ID: 12"):
        yield case(f"jpeg comment {comment}", jpeg(segment(0xFE, comment.encode())))
    yield case("jpeg encoder's comment", jpeg(segment(0xFE, b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62)")))
    yield case("jpeg credentials", jpeg(segment(0xEB, b"JP\0\1\0\0\0\1" + JUMBF)), ("C2PA", UNREAD))
    yield case("jpeg other jumbf", jpeg(segment(0xEB, b"JP\0\1\0\0\0\1" + OTHER_JUMBF)))
    yield case("jpeg credentials in a comment", jpeg(segment(0xFE, b"JP\0\1\0\0\0\1" + JUMBF)))
    exif_segment = segment(0xE1, b"Exif\0\0" + exif({0x0131: b"Midjourney\0"}))
    yield case("jpeg exif behind its end", saved("JPEG") + exif_segment)
    yield case("jpeg exif in a comment", jpeg(segment(0xFE, exif_segment)))


def png_cases() -> Iterator[Case]:
    parameters = ("PNG parameters", PARAMETERS_SAID)
    nodes, workflow = json.dumps(NODES), json.dumps({"nodes": [], "links": []})
    yield case("png of nothing", saved("PNG"))
    yield case("png parameters", png(text("parameters", PARAMETERS)), parameters)
    yield case("png parameters at the end", png(text("parameters", PARAMETERS), at_end=True), parameters)
    yield case("png packed parameters", png(packed_text("parameters", PARAMETERS.encode())), parameters)
    for is_packed in (False, True):
        data = png(international_text("parameters", PARAMETERS, is_packed))
        yield case(f"png international parameters {is_packed}", data, parameters)
    two = ("PNG prompt", NODES_SAID), ("PNG workflow", "made with ComfyUI")
    yield case("png comfyui", png(text("prompt", nodes), text("workflow", workflow)), *two)
    order = {number: NODES["6"] | {"inputs": {"text": number}, "is_changed": [float("nan")]} for number in ("20", "3")}
    said = "made with ComfyUI, prompt “20 / 3”"
    yield case("png comfyui in its order", png(text("prompt", json.dumps(order))), ("PNG prompt", said))
    yield case("png no json", png(text("prompt", '{"steps": 1,')), ("PNG prompt", 'prompt “{"steps": 1,”'))
    yield case("png name of a person", png(text("Author", "toString"), text("Comment", "__proto__")))
    yield case("png prompt alone", png(text("prompt", "a cat")), ("PNG prompt", "prompt “a cat”"))
    data = png(text("Dream", '"a cat" -s 50 -W 512 -H 512 -C 7.5 -A k_lms -S 3'))
    yield case("png dream", data, ("PNG Dream", "made with InvokeAI, prompt “a cat”"))
    older = {
        "model": "stable diffusion",
        "app_id": "invoke-ai/InvokeAI",
        "image": {"prompt": [{"prompt": "a cat"}], "seed": 3},
    }
    said = "made with InvokeAI, model stable diffusion, prompt “a cat”"
    yield case("png sd-metadata", png(text("sd-metadata", json.dumps(older))), ("PNG sd-metadata", said))
    newer = {
        "app_version": "5.0",
        "generation_mode": "txt2img",
        "positive_prompt": "a cat",
        "seed": 3,
        "model": {"name": "m"},
    }
    said = "made with InvokeAI, model m, prompt “a cat”"
    yield case("png invokeai", png(text("invokeai_metadata", json.dumps(newer))), ("PNG invokeai_metadata", said))
    swarm = {"sui_image_params": {"prompt": "a cat", "model": "m", "seed": 3}}
    yield case(
        "png swarmui",
        png(text("parameters", json.dumps(swarm))),
        ("PNG parameters", "made with SwarmUI, model m, prompt “a cat”"),
    )
    novel = {"prompt": "a cat", "steps": 28, "sampler": "k_euler"}
    yield case(
        "png novelai",
        png(text("Title", "AI generated image"), text("Software", "NovelAI"), text("Comment", json.dumps(novel))),
        ("PNG Title", "“AI generated image”"),
        ("PNG Software", "made with NovelAI"),
        ("PNG Comment", "made with a generator, prompt “a cat”"),
    )
    job = "a cat --v 6 Job ID: 0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"
    yield case(
        "png midjourney",
        png(text("Description", job), text("Author", "jane")),
        ("PNG Description", "made with Midjourney, prompt “a cat --v 6”"),
    )
    yield case("png of a person", png(text("Author", "Jane Doe"), text("Comment", "My cat"), text("Title", "Cat")))
    yield case(
        "png software", png(text("Software", "gnome-screenshot")), ("PNG Software", "software: gnome-screenshot")
    )
    yield case("png exif", png(chunk(b"eXIf", exif({0x0131: b"GIMP\0"}))), ("EXIF Software", "software: GIMP"))
    packet = chunk(b"iTXt", XMP_KEYWORD + xmp('xmp:CreatorTool="Midjourney"'))
    yield case("png xmp", png(packet), ("XMP CreatorTool", "made with Midjourney"))
    yield case("png credentials", png(chunk(b"caBX", JUMBF)), ("C2PA", UNREAD))
    yield case("png other jumbf", png(chunk(b"caBX", OTHER_JUMBF)))
    yield case("png text in another chunk", png(chunk(b"teSt", text("parameters", PARAMETERS))))
    yield case("png text behind its end", saved("PNG") + text("parameters", PARAMETERS))
    yield case("png text in a text", png(text("Note", "parameters\0" + PARAMETERS)))
    broken = chunk(b"zTXt", b"parameters\0\0no deflate")
    yield case("png broken text", png(broken, text("Software", "GIMP")), ("PNG Software", "software: GIMP"))
    long = "a very long prompt, " * 50
    data = png(text("prompt", long))
    said = f"prompt “{long[:200].rstrip()}… (999 characters)”"
    yield case("png long prompt", data, ("PNG prompt", said))
    hostile = "<script>\x1b[31m\u202egpj.cat\r\nerror: "
    data = png(international_text("prompt", hostile))
    yield case("png hostile prompt", data, ("PNG prompt", "prompt “<script> [31m gpj.cat error:”"))


def other_cases() -> Iterator[Case]:
    tags, packet = exif({0x0131: b"Midjourney\0"}), xmp('xmp:CreatorTool="GIMP"')
    both = ("EXIF Software", "made with Midjourney"), ("XMP CreatorTool", "software: GIMP")
    comfy = exif({0x0110: b"prompt:" + json.dumps(NODES).encode() + b"\0"})
    yield case("webp", webp((b"EXIF", tags), (b"XMP ", packet)), *both)
    yield case("webp comfyui", webp((b"EXIF", comfy)), ("EXIF Model", NODES_SAID))
    yield case("webp credentials", webp((b"C2PA", JUMBF)), ("C2PA", UNREAD))
    yield case("avif", saved("AVIF", exif=tags, xmp=packet), *both)
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(4) + b"manifest\0" + bytes(8) + JUMBF
    yield case("avif credentials", saved("AVIF") + box(b"uuid", uuid), ("C2PA", UNREAD))
    yield case("avif other uuid", saved("AVIF") + box(b"uuid", bytes(16) + uuid[16:]))
    yield case("tiff", tiff(x0131="Midjourney", x02bc=packet), *both)
    yield case("gif comment", gif(b"!\xfe" + sub_blocks(b"Created with GIMP")), ("GIF comment", "software: GIMP"))
    yield case("gif of a person", gif(b"!\xfe" + sub_blocks(b"Created by Jane Doe")))
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    extension = b"!\xff\x0bXMP DataXMP" + packet + trailer
    yield case("gif xmp", gif(extension), ("XMP CreatorTool", "software: GIMP"))
    extension = b"!\xff\x0bC2PA_GIF\1\0\0" + sub_blocks(JUMBF)
    yield case("gif credentials", gif(extension), ("C2PA", UNREAD))
    yield case("bmp", saved("BMP"))


CASES = {one.name: one for cases in (jpeg_cases, png_cases, other_cases) for one in cases()}
