"""Five hundred pictures of every format that browsers open, the same ones each time."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageCms

from detector.colours import PRIMARIES, SRGB_CURVE, matrix_profile
from tests.claims import chunk
from tests.conftest import ROOT
from tests.serving import png_by_hand

# of a camera and of a printer's screen: wide colours, and greys of another curve
WIDE = matrix_profile(PRIMARIES[12][1], SRGB_CURVE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
STEEP = matrix_profile(PRIMARIES[1][1], (0, 1.8))
XMP = b"XML:com.adobe.xmp\0"
# where each pass begins, and its steps: x, y, x, y
ADAM7 = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
TEXT_OF_A_MB = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20)))


@dataclass(frozen=True)
class Picture:
    """A file, and whether it is a PNG, which must become the same input to the last bit."""

    name: str
    data: bytes
    is_exact: bool = False


@cache
def small() -> list[np.ndarray]:
    """Pictures of 32 px, of both classes and of other collections: uint8 (32, 32, 3)."""
    found = []
    for name in ("sample", "elsewhere"):
        rows = pq.read_table(ROOT / f"data/{name}/test.parquet").to_pylist()
        found += [row["image"]["bytes"] for row in rows[::8]]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))) for data in found]


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A part of a photograph, enlarged or made smaller, with some noise."""
    name = rng.choice(["astronaut.jpg", "cat.jpg", "coffee.jpg", "flower.jpg", "frog.png", "ship.png"])
    with Image.open(ROOT / "app/static/examples" / name) as opened:
        source = opened.convert("RGB")
    left, top = (int(rng.integers(0, side // 3)) for side in source.size)
    part = source.crop((left, top, source.width - left // 2, source.height - top // 2))
    grown = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = rng.normal(0, rng.uniform(0, 12), grown.shape)
    return Image.fromarray((grown + noise).clip(0, 255).astype(np.uint8))


def sides(rng: np.random.Generator, largest: int = 700) -> tuple[int, int]:
    first, second = np.exp(rng.uniform(np.log(16), np.log(largest), 2))
    return int(first), int(second if rng.random() < 0.7 else first)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    ramp = np.linspace(0, 255, image.width).astype(np.uint8)[None].repeat(image.height, 0)
    image.putalpha(Image.fromarray(ramp if rng.random() < 0.7 else (ramp > 90).astype(np.uint8) * 255))
    return image


def exif(rng: np.random.Generator) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = int(rng.integers(1, 9))
    return block


def exact_pngs(rng: np.random.Generator) -> Iterator[bytes]:
    """PNGs of 32 px: most as CIFAKE's, and each other kind of pixel."""
    for pixels in small()[:130]:
        yield saved(Image.fromarray(pixels), "PNG", compress_level=int(rng.integers(0, 10)))
    for pixels in small()[130:140]:
        image = Image.fromarray(pixels)
        for mode in ("1", "L", "LA", "P", "RGBA"):
            yield saved((transparent(rng, image) if mode in ("LA", "RGBA") else image).convert(mode), "PNG")
        yield saved(transparent(rng, image).quantize(30), "PNG")
        yield saved(image.quantize(int(rng.integers(2, 17))), "PNG")
        yield saved(image.convert("L"), "PNG", transparency=int(pixels[0, 0, 0]))
        yield saved(image, "PNG", transparency=tuple(map(int, pixels[3, 3])))
        yield saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257 + 100), "PNG")
        for kind, channels in ((2, 3), (4, 2), (6, 4)):
            sixteen = rng.integers(0, 65536, (32, 32, channels)).astype(">u2")
            sixteen[..., : min(3, channels)] = pixels[..., : min(3, channels)].astype(">u2") * 257
            yield png_by_hand(32, 32, 16, b"".join(b"\0" + row.tobytes() for row in sixteen), kind)
        yield saved(image, "PNG", icc_profile=WIDE)
        yield saved(image, "PNG", icc_profile=SRGB, exif=exif(rng))


def other_files(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    for _ in range(20):
        image = picture(rng, *sides(rng))
        yield "png", saved(image if rng.random() < 0.5 else transparent(rng, image), "PNG")
    for number in range(110):
        # one in ten is so large that it is decoded at a half or a quarter of its size
        image = picture(rng, *(sides(rng) if number % 10 else rng.integers(1025, 2300, 2).tolist()))
        options: dict[str, Any] = {"quality": int(rng.integers(30, 99)), "progressive": bool(rng.random() < 0.3)}
        options["subsampling"] = int(rng.integers(0, 3))
        if rng.random() < 0.3:
            options["exif"] = exif(rng)
        if rng.random() < 0.2:
            options["icc_profile"] = [WIDE, SRGB, STEEP][int(rng.integers(3))]
        if rng.random() < 0.1:
            options["restart_marker_blocks"] = 3
        mode = "L" if number % 11 == 5 else "CMYK" if number % 11 == 7 else "RGB"
        if mode != "RGB":
            options.pop("icc_profile", None)
        yield "jpg", saved(image.convert(mode), "JPEG", **options)
    for number in range(40):
        image = picture(rng, *sides(rng))
        if number % 4 == 1:
            image = transparent(rng, image)
        how: dict[str, Any] = {"lossless": True} if number % 3 == 0 else {"quality": int(rng.integers(30, 95))}
        if number % 9 == 4:
            how |= {"save_all": True, "append_images": [picture(rng, *image.size)]}
        if number % 9 == 5:
            how |= {"exif": exif(rng), "icc_profile": WIDE}
        yield "webp", saved(image, "WEBP", method=0, **how)
    for number in range(36):
        image = picture(rng, *sides(rng, 400))
        if number % 4 == 1:
            image = transparent(rng, image)
        how = {"quality": int(rng.integers(40, 95)), "subsampling": ["4:2:0", "4:2:2", "4:4:4"][number % 3]}
        if number % 6 == 4:
            how |= {"exif": exif(rng)}
        if number % 9 == 5:
            how |= {"icc_profile": WIDE}
        yield "avif", saved(image, "AVIF", speed=10, **how)
    for number in range(28):
        image = picture(rng, *sides(rng))
        how = {"save_all": True, "append_images": [picture(rng, *image.size)]} if number % 5 == 2 else {}
        if number % 5 == 3:
            yield "gif", saved(transparent(rng, image).quantize(50), "GIF")
        else:
            yield "gif", saved(image.convert("L") if number % 5 == 4 else image.quantize(90), "GIF", **how)
    for number in range(24):
        yield "bmp", saved(picture(rng, *sides(rng)).convert(["RGB", "L", "1", "P"][number % 4]), "BMP")


def damaged(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """What both must refuse, or answer with a warning."""
    jpeg = saved(picture(rng, 120, 90), "JPEG", quality=90)
    yield "jpg", jpeg[: len(jpeg) // 2]
    yield "jpg", jpeg[:-400] + bytes(200) + jpeg[-200:]
    yield "jpg", jpeg[:-2] + b"more than the pixels" + jpeg[-2:]
    png = saved(picture(rng, 60, 60), "PNG", dpi=(72, 72))
    yield "png", png[:-12]
    yield "png", png[: len(png) // 2]
    place = png.index(b"pHYs") + 5
    yield "png", png[:place] + bytes([png[place] ^ 1]) + png[place + 1 :]
    yield "png", png[:200] + bytes([png[200] ^ 1]) + png[201:]
    for last in (b"x", "é".encode()):  # with a letter more than 64 MB of text
        yield "png", png[:-12] + TEXT_OF_A_MB * 64 + chunk(b"iTXt", b"x\0\0\0\0\0" + last) + png[-12:]
    yield "tif", saved(picture(rng, 40, 40), "TIFF")
    yield "txt", b"no picture at all"
    yield "jpg", b""


def lines(samples: np.ndarray, depth: int = 8) -> bytes:
    """Samples, (height, width, channels), as the lines of a PNG, each as its difference from the one above."""
    if depth < 8:
        samples = np.packbits(np.unpackbits(samples, axis=2)[..., 8 - depth :].reshape(len(samples), -1), axis=1)
    raw = np.frombuffer(samples.astype(">u2" if depth == 16 else np.uint8).tobytes(), np.uint8)
    raw = raw.reshape(len(samples), -1)
    return b"".join(b"\2" + line.tobytes() for line in np.diff(raw, axis=0, prepend=np.zeros_like(raw[:1])))


def made(size: tuple[int, int], kind: int, *chunks: bytes, depth: int = 8, is_interlaced: bool = False) -> bytes:
    """A PNG of chunk after chunk, with an IHDR for what it holds and an IEND."""
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, is_interlaced)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


def data_chunk(packed: bytes) -> bytes:
    return chunk(b"IDAT", packed)


def trailing() -> Iterator[tuple[str, bytes]]:
    """What zlib packed, with more behind its end, or with an end that is missing or wrong."""
    rng = np.random.default_rng(26)
    noise = rng.integers(0, 256, (300, 300, 3), np.uint8)
    packed, profile = zlib.compress(lines(noise)), zlib.compress(WIDE or b"")
    turned = XMP + b"\1\0\0\0" + zlib.compress(b'<a tiff:Orientation="6">')
    wrong = bytes([packed[-1] ^ 1])
    for name, parts in {
        "junk": [packed + b"junkjunk"],
        "junk in a chunk of its own": [packed, b"junkjunk"],
        "a stream behind": [packed + packed],
        "end in pieces": [packed[:-2], packed[-2:-1], packed[-1:] + b"junk"],
        "no checksum": [packed[:-4]],
        "wrong checksum": [packed[:-1] + wrong],
        "wrong checksum and junk": [packed[:-1] + wrong + b"junk"],
        "too many pixels": [zlib.compress(lines(noise) + bytes(99)) + b"junk"],
    }.items():
        yield name, made((300, 300), 2, *map(data_chunk, parts))
    for name, end in {"": b"", "junk": b"x", "more junk": bytes(70_000), "no checksum": profile[-4:]}.items():
        for kind, body in ((b"iCCP", b"wide\0\0" + profile), (b"iTXt", turned)):
            body = body[:-4] if name == "no checksum" else body + end
            yield f"{kind.decode()} {name}", made((300, 300), 2, chunk(kind, body), data_chunk(packed))
    broken = b"wide\0\0" + profile[:-1] + bytes([profile[-1] ^ 1])
    yield "iCCP wrong checksum", made((300, 300), 2, chunk(b"iCCP", broken), data_chunk(packed))


def texts() -> Iterator[tuple[str, bytes]]:
    """Texts of PNG that turn a picture, and texts and profiles that are just short enough or too long to be read."""
    noise = np.random.default_rng(27).integers(0, 256, (40, 30, 3), np.uint8)
    pixels = data_chunk(zlib.compress(lines(noise)))
    block = Image.Exif()
    block[0x0112] = 6
    digits = block.tobytes().hex()
    profile = f"\nexif\n{len(digits) // 2:8}\n{digits[:72]}\n{digits[72:].upper()}\n".encode()
    keyword, xmp = b"Raw profile type exif\0", b'<a tiff:Orientation="8">'
    plain = chunk(b"tEXt", keyword + profile)
    for name, chunks in {
        "raw EXIF": [plain],
        "packed raw EXIF": [chunk(b"zTXt", keyword + b"\0" + zlib.compress(profile))],
        "international raw EXIF": [chunk(b"iTXt", keyword + b"\0\0\0\0" + profile)],
        "raw EXIF and a chunk of EXIF": [chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0\0\0"), plain],
        "raw EXIF and XMP": [chunk(b"tEXt", XMP + xmp), plain],
        "broken raw EXIF and XMP": [chunk(b"tEXt", keyword + profile + b"x"), chunk(b"tEXt", XMP + xmp)],
        "no raw EXIF, and XMP": [chunk(b"tEXt", keyword + profile[:15]), chunk(b"tEXt", XMP + xmp)],
        "XMP in a packed text": [chunk(b"zTXt", XMP + b"\0" + zlib.compress(xmp))],
        "XMP twice": [chunk(b"tEXt", XMP + xmp), chunk(b"iTXt", XMP + b"\0\0\0\0" + xmp.replace(b"8", b"3"))],
        "XMP, and a broken one": [chunk(b"tEXt", XMP + xmp), chunk(b"iTXt", XMP + b"\1\0\0\0" + xmp)],
        "texts that end early": [chunk(b"tEXt", b""), chunk(b"zTXt", b"x"), chunk(b"iTXt", XMP + b"\0\0en\0")],
    }.items():
        yield name, made((30, 40), 2, *chunks, pixels)
        yield f"{name}, behind", made((30, 40), 2, pixels, *chunks)
    for length in (2**20, 2**20 + 1):
        packed = zlib.compress(bytes(length))
        for kind, start in ((b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0"), (b"iCCP", b"x\0\0")):
            yield f"{kind.decode()} of {length}", made((30, 40), 2, chunk(kind, start + packed), pixels)
            yield f"{kind.decode()} of {length}, behind", made((30, 40), 2, pixels, chunk(kind, start + packed))
    yield "texts of 64 MB", made((30, 40), 2, *[TEXT_OF_A_MB] * 64, pixels)
    yield "profiles", made((30, 40), 2, *[chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**26)))] * 99, pixels)
    for kind in (b"zTXt", b"iCCP"):
        unknown = chunk(kind, b"x\0\1" + zlib.compress(b"x"))
        yield f"{kind.decode()} packed in another way", made((30, 40), 2, unknown, pixels)
        yield f"{kind.decode()} packed in another way, behind", made((30, 40), 2, pixels, unknown)


def layouts() -> Iterator[tuple[str, bytes]]:
    """Interlaced PNGs (ADAM7) of each kind of pixel, animations, and palettes and colours that are not all there."""
    rng = np.random.default_rng(28)
    for depth, kind, channels in (
        *[(depth, 0, 1) for depth in (1, 2, 4, 8, 16)],
        *[(depth, 3, 1) for depth in (1, 2, 4, 8)],
        *[(depth, kind, channels) for depth in (8, 16) for kind, channels in ((2, 3), (4, 2), (6, 4))],
    ):
        for width, height in ((32, 32), (45, 61), (1, 1), (3, 2), (5, 9)):
            samples = rng.integers(0, 2**depth, (height, width, channels), np.uint16)
            if depth <= 8:
                samples = samples.astype(np.uint8)
            palettes = [chunk(b"PLTE", rng.bytes(3 * 2**depth))] if kind == 3 else []
            passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
            pixels = data_chunk(zlib.compress(b"".join(lines(part, depth) for part in passes if part.size)))
            name = f"interlaced {depth} {kind} {width}x{height}"
            yield name, made((width, height), kind, *palettes, pixels, depth=depth, is_interlaced=True)
    for mode in ("RGB", "RGBA", "L", "P"):
        one, *others = (picture(rng, 40, 32) for _ in range(3))
        one = transparent(rng, one) if mode == "RGBA" else one.convert(mode)
        for has_cover in (False, True):
            options = {"save_all": True, "append_images": others, "default_image": has_cover}
            yield f"animated {mode} {has_cover}", saved(one, "PNG", **options)
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    pixels = data_chunk(zlib.compress(lines(steps)))
    for length in (5, 200):
        palette = chunk(b"PLTE", rng.bytes(3 * length))
        yield f"palette of {length}", made((16, 16), 3, palette, pixels)
        yield f"palette of {length}, clear", made((16, 16), 3, palette, chunk(b"tRNS", rng.bytes(150)), pixels)
    few = data_chunk(zlib.compress(lines(steps // 64, 2)))
    for clear in (85, 0x155, 0xFF55):
        seen = chunk(b"tRNS", struct.pack(">H", clear))
        yield f"grey, {clear:x} clear", made((16, 16), 0, seen, pixels)
        yield f"four greys, {clear:x} clear", made((16, 16), 0, seen, few, depth=2)


def orientations() -> Iterator[tuple[str, bytes]]:
    """EXIF that turns a picture, in every way to write a number that Pillow reads, and in some that it does not."""
    noise = np.random.default_rng(29).integers(0, 256, (40, 30, 3), np.uint8)
    pixels = data_chunk(zlib.compress(lines(noise)))
    xmp = chunk(b"tEXt", XMP + b'<a tiff:Orientation="8">')

    def turned(*entries: tuple[int, int, bytes], head: bytes = b"II*\0") -> bytes:
        """entries: type, count and values."""
        order = ">" if head[:1] == b"M" else "<"
        block, values = struct.pack(f"{order}4sIH", head, 8, len(entries)), b""
        for kind, count, value in entries:
            place = 14 + 12 * len(entries) + len(values)
            here = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", place)
            block += struct.pack(f"{order}HHI", 0x0112, kind, count) + here
            values += value if len(value) > 4 else b""
        return made((30, 40), 2, chunk(b"eXIf", block + bytes(4) + values), xmp, pixels)

    for head in (b"MM\0*", b"MM*\0", b"MM\0+", b"II*\0", b"II\0*", b"II+\0", b"IM*\0"):
        value = struct.pack(">H" if head[:1] == b"M" else "<H", 6)
        yield f"orientation {head!r}", turned((3, 1, value), head=head)
    for kind, form in {
        **{1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"},
        **{0: "H", 13: "I", 14: "H", 16: "Q", 17: "q", 18: "Q"},
    }.items():
        values = [struct.pack(f"<{form}", *(number, 1)[: len(form)]) for number in (6, 3)]
        for count in range(3):
            yield f"orientation of type {kind}, {count}", turned((kind, count, b"".join(values[:count])))
    yield "orientation of 6.5", turned((11, 1, struct.pack("<f", 6.5)))
    yield "orientation of 12/2", turned((5, 1, struct.pack("<II", 12, 2)))
    yield "orientation of 6/0", turned((5, 1, struct.pack("<II", 6, 0)))
    yield "orientation of -6", turned((8, 1, struct.pack("<h", -6)))
    yield "orientation of more values than there are", turned((3, 9, b"\6\0\3\0\1\0"))
    for end in (4, 7, 8, 9, 10, 14, 21, 22):
        block = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"[:end]
        yield f"orientation in {end} bytes", made((30, 40), 2, chunk(b"eXIf", block), xmp, pixels)
    yield "two orientations", turned((3, 1, b"\6\0"), (3, 1, b"\3\0"))
    yield "two orientations, one of them unknown", turned((15, 1, b"\6\0"), (3, 1, b"\3\0"))


def crafted() -> list[Picture]:
    """PNGs of kinds that few programs write."""
    return [Picture(f"{name}.png", data, True) for name, data in [*trailing(), *texts(), *layouts(), *orientations()]]


def all_pictures() -> list[Picture]:
    rng = np.random.default_rng(25)
    pictures = [Picture(f"{number}.png", data, True) for number, data in enumerate(exact_pngs(rng))]
    for kind, data in [*other_files(rng), *damaged(rng)]:
        pictures.append(Picture(f"{len(pictures)}.{kind}", data, kind == "png"))
    return pictures
