"""Fuzzing: what strangers may send, changed at random, and what must hold whatever they send.

    python -m tests.fuzz pictures --minutes 10
    python -m tests.fuzz uploads --minutes 10
    python -m tests.fuzz claims --minutes 10

All let atheris (libFuzzer) look for inputs that reach new lines of the decoding path, detector/pictures.py with
Pillow's Python under it, of the upload parser, app/uploads.py, or of the reader of claims, detector/claims.py. Each
input that breaks a rule is kept in the folder fuzz-findings; once it is mended it goes into a test. Exit status 1 where
there is one. atheris has no wheel for Windows and is no part of the locks: `pip install atheris==3.0.0`.

tests/test_fuzz.py asks about the same seeds with the mutator of this file, which needs nothing and is repeatable.
"""

import argparse
import asyncio
import gc
import hashlib
import inspect
import io
import json
import logging
import os
import resource
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from app.problems import Problem
from app.uploads import File, Memory, Upload
from detector.claims import MOST, read_claims
from detector.errors import UserError
from detector.images import decode
from detector.pictures import preprocess
from tests.claims import CASES

Answer = TypeVar("Answer")

SECONDS = 5  # of processor time, for one input
BYTES = 512 * 2**20  # of address space, beyond what the process has before the first input
OUT_OF_MEMORY = "not enough memory for this picture"  # as detector/pictures.py says it
MAX_BYTES, MAX_FILES = 5_000, 3  # of an upload
BOUNDARY = b"b0undary"
LOOP = asyncio.new_event_loop()


def photo(mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture_seeds() -> dict[str, bytes]:
    """Return small pictures by name: every format that is read, and of each what its decoder treats apart."""
    rgb, rgba = photo(), photo("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {"exif": exif.tobytes(), "icc_profile": srgb}
    deep = Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64)
    film = {"save_all": True, "append_images": [photo("RGB", (32, 32)).rotate(90)], "duration": 10}
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100_000))
    chunks.add(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))
    chunks.add_text("Comment", "hello", zip=True)
    hdr = PngImagePlugin.PngInfo()
    hdr.add(b"cICP", bytes((9, 16, 0, 1)))
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[274] = 3
    seeds = {
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg tagged": encoded(rgb, "JPEG", **tags),
        "jpeg wrong profile": encoded(rgb, "JPEG", icc_profile=profile),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True, quality=50),
        "jpeg restarts": encoded(rgb, "JPEG", restart_marker_blocks=1, subsampling=0),
        "jpeg rgb": encoded(rgb, "JPEG", keep_rgb=True),
        "jpeg grey": encoded(photo("L"), "JPEG"),
        "jpeg cmyk": encoded(photo("CMYK"), "JPEG"),
        "jpeg large": encoded(photo("RGB", (1100, 1030)), "JPEG", quality=5),
        "jpeg of several": encoded(rgb, "MPO", save_all=True, append_images=[rgb]),
        "png": encoded(rgb, "PNG"),
        "png alpha": encoded(rgba, "PNG", **tags),
        "png grey": encoded(photo("L"), "PNG", pnginfo=chunks),
        "png grey alpha": encoded(photo("LA"), "PNG"),
        "png black": encoded(photo("1"), "PNG"),
        "png palette": encoded(photo("P"), "PNG", transparency=3, bits=8),
        "png deep": encoded(deep, "PNG", pnginfo=hdr),
        "png film": encoded(rgba, "PNG", **film),
        "gif": encoded(photo("P"), "GIF"),
        "gif film": encoded(rgb, "GIF", **film, transparency=1, disposal=2),
        "webp": encoded(rgb, "WEBP", **tags),
        "webp lossless": encoded(rgba, "WEBP", lossless=True),
        "webp film": encoded(rgba, "WEBP", **film),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(photo("P"), "BMP"),
        "bmp black": encoded(photo("1"), "BMP"),
        "bmp alpha": encoded(rgba, "BMP"),
        "tiff": encoded(rgb, "TIFF", tiffinfo=directory, **tags),
        "tiff deep": encoded(deep, "TIFF"),
        "tiff float": encoded(photo("F"), "TIFF"),
        "tiff lab": encoded(ImageCms.applyTransform(rgb, to_lab()), "TIFF"),  # type: ignore[arg-type]
        "tiff film": encoded(rgba, "TIFF", save_all=True, append_images=[rgba], compression="tiff_lzw"),
        "avif": encoded(rgb, "AVIF", quality=50, speed=10),
        "avif alpha": encoded(rgba, "AVIF", speed=10, **tags),
        "avif film": encoded(rgb, "AVIF", speed=10, **film),
        # these are refused
        "ico": encoded(rgba, "ICO"),
        "jpeg 2000": encoded(rgb, "JPEG2000"),
        "ppm": encoded(rgb, "PPM"),
        "tga": encoded(rgb, "TGA"),
        "eps": encoded(rgb, "EPS"),
        "pdf": b"%PDF-1.4\n1 0 obj\n",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"/>',
        "text": b"no picture",
        "nothing": b"",
    }
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"):
        seeds[f"tiff {compression}"] = encoded(photo("RGB", (40, 24)), "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        seeds[f"tiff {compression}"] = encoded(photo("1", (64, 48)), "TIFF", compression=compression)
    seeds["tiff cmyk"] = encoded(photo("CMYK"), "TIFF", compression="tiff_lzw", icc_profile=srgb)
    return seeds


def to_lab() -> ImageCms.ImageCmsTransform:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(srgb, lab, "RGB", "LAB")


def upload_seeds() -> dict[str, bytes]:
    """Return requests by name: the Content-Type header, a line end, and the body."""
    start, end = b"--" + BOUNDARY + b"\r\n", b"\r\n--" + BOUNDARY + b"--\r\n"
    kind = b"multipart/form-data; boundary=" + BOUNDARY + b"\n"
    names = {
        "plain": b'filename="a.png"',
        "quoted": b'filename="a \\"b\\" ;c.png"',
        "encoded": b"filename*=utf-8'en'%e2%82%ac.png",
        "both": b"filename=a.png; filename*=iso-8859-1''%e4.png",
        "none": b"size=3",
    }
    seeds = {
        name: kind + start + b'Content-Disposition: form-data; name="files"; ' + given + b"\r\n\r\nhello" + end
        for name, given in names.items()
    }
    part = start + b"Content-Disposition: form-data; name=files; filename=x\r\nContent-Type: image/png\r\n\r\n"
    seeds["two"] = kind + part + b"one\r\n" + part + b"\r\n--b0undar\r\n" + end
    seeds["four"] = kind + (part + b"\r\n") * 4 + end
    seeds["large"] = kind + part + bytes(MAX_BYTES + 1) + end
    seeds["longest"] = kind + b"\r\npreamble\r\n" + part + bytes(MAX_BYTES) + end + b"epilogue"
    seeds["cut"] = seeds["plain"][:-4]
    seeds["empty"] = kind + b"--" + BOUNDARY + b"--\r\n"
    seeds["quoted boundary"] = kind.replace(BOUNDARY, b'"a b"') + b"--a b\r\nA: b\r\n\r\n\r\n--a b--"
    seeds["no boundary"] = b"multipart/form-data\n" + part
    seeds["long boundary"] = b"multipart/form-data; boundary=" + b"x" * 300 + b"\n"
    seeds["json"] = b"application/json\n{}"
    return seeds


def claim_seeds() -> dict[str, bytes]:
    return {name: case.data for name, case in CASES.items()}


INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutants(seeds: dict[str, bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield the seeds themselves, then copies of them with up to four changes each; the same ones for the same seed."""
    yield from list(seeds.values())[:count]
    everything = list(seeds.values())
    rng = np.random.default_rng(seed)

    def below(number: int) -> int:
        return int(rng.integers(max(number, 1)))

    for _ in range(count - len(everything)):
        data = bytearray(everything[below(len(everything))])
        for _ in range(1 + below(4)):
            place, other = below(len(data)), everything[below(len(everything))]
            start = below(len(other))
            match below(8):
                case 0:  # one bit
                    data[place : place + 1] = bytes(byte ^ 1 << below(8) for byte in data[place : place + 1])
                case 1:  # one byte
                    data[place : place + 1] = rng.bytes(1)
                case 2:  # a number where there may be a size, a count or an offset
                    size, order = (1, 2, 4)[below(3)], ("big", "little")[below(2)]
                    number = INTERESTING[below(len(INTERESTING))] & 2 ** (8 * size) - 1
                    data[place : place + size] = number.to_bytes(size, order)
                case 3:  # bytes that are missing
                    del data[place : place + 1 + below(1 << below(10))]
                case 4:  # the end
                    del data[place:]
                case 5:  # bytes twice
                    data[place:place] = data[place : place + 1 + below(1 << below(10))]
                case 6:  # bytes that nobody expects
                    data[place:place] = rng.bytes(1 + below(20))
                case 7:  # bytes of another seed
                    data[place : place + below(64)] = other[start : start + below(64)]
        yield with_checksums(bytes(data)) if below(2) else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with the checksums that its chunks should have, anything else as it is.

    Without them nearly every change would end at the first checksum.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    mended, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        if end + 4 <= len(data):
            mended[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4)
        place = end + 4
    return bytes(mended)


CLEAN = encoded(photo("1"), "TIFF", compression="group4")
CLEAN_NOTES = ["black and white made RGB"]


def ask_about_picture(data: bytes) -> str | None:
    """Decode a picture as the service and as `prepare` do. Returns the reason where it is refused.

    What must hold: an answer or one line of reason; `prepare` sees what the service sees, or there is a note; and
    nothing of one picture is said of the next. Raises whatever else happens.
    """
    ready, reason = answer_or_reason(lambda: preprocess(data, 32))
    pixels, their_reason = answer_or_reason(lambda: decode(data))
    if ready is not None:
        assert (ready.pixels.shape, ready.pixels.dtype) == ((32, 32, 3), np.uint8)
        left, top, right, bottom = ready.seen_region
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        for note in ready.notes:
            assert is_one_line(note), note
        if not ready.notes:
            assert pixels is not None, f"prepare refuses it ({their_reason}), and there is no note"
            assert np.array_equal(ready.pixels, pixels), "prepare sees other pixels, and there is no note"
    assert preprocess(CLEAN, 32).notes == CLEAN_NOTES, "something of this picture is said of the next"
    return reason


def ask_about_claims(data: bytes) -> str | None:
    """Read what a picture file says of itself. Returns where it stands; None where it says nothing.

    What must hold: some short lines that can be shown, whatever is broken, and none that call themselves signed.
    """
    claims = read_claims(data)
    assert len(claims) <= MOST
    for claim in claims:
        assert is_one_line(claim.source), claim
        assert is_one_line(claim.says), claim
        assert len(claim.source) + len(claim.says) < 500, claim
        assert not claim.signed, claim
    json.dumps([vars(claim) for claim in claims], ensure_ascii=False).encode()  # as the answer gives it
    return ", ".join(claim.source for claim in claims) or None


def answer_or_reason(ask: Callable[[], Answer]) -> tuple[Answer | None, str | None]:
    """What was answered, or the reason of a refusal."""
    try:
        return ask(), None
    except UserError as error:
        reason = str(error)
    except MemoryError:
        reason = OUT_OF_MEMORY
    assert is_one_line(reason), reason
    return None, reason


def is_one_line(text: str) -> bool:
    """Say whether a text can be shown: one line, no dump of the file, and no address of this process's memory."""
    return 0 < len(text) < 5000 and text.isprintable() and " at 0x" not in text


def ask_about_upload(data: bytes) -> str | None:
    """Parse a request, first as one chunk, then cut somewhere. Returns the reason where it is refused.

    What must hold: files or a Problem of one line; the same however the body was cut; no more files and no larger ones
    than are allowed, and nothing in them that was not sent. Raises whatever else happens.
    """
    header, _, body = data.partition(b"\n")
    cuts = sorted(np.random.default_rng(zlib.crc32(data)).integers(len(body) + 1, size=5))
    files, reason = received(header, [body])
    again = received(header, [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)])
    # python-multipart passes over what stands before the first boundary only as far as the chunk reaches
    if body[:1] not in (b"\r", b"\n"):
        assert again[1] == reason, f"cut elsewhere it says: {again[1]}"
        assert reason or again[0] == files, "cut elsewhere the files are others"
    assert len(files) <= MAX_FILES
    assert files or reason
    for file in files:
        assert len(file.data) <= MAX_BYTES
        assert file.data in body
        json.dumps(file.name, ensure_ascii=False).encode()  # as the answer gives it back
    assert reason is None or (reason[0] == "4" and is_one_line(reason)), reason
    return reason


def received(header: bytes, chunks: list[bytes]) -> tuple[list[File], str | None]:
    """The files of a request up to where it is refused, and the reason."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    arriving = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(arriving)

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", header)]}, receive)
    files: list[File] = []

    async def read() -> None:
        upload = Upload(request, MAX_BYTES, MAX_FILES, Memory(MAX_FILES * MAX_BYTES))
        await upload.begin()
        async for file in upload.files():
            files.append(file)

    try:
        LOOP.run_until_complete(read())
    except Problem as problem:
        return files, f"{problem.status}: {problem.detail}"
    return files, None


TARGETS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[bytes], str | None]]] = {
    "pictures": (picture_seeds, ask_about_picture),
    "uploads": (upload_seeds, ask_about_upload),
    "claims": (claim_seeds, ask_about_claims),
}


def fuzz(target: str, minutes: float, folder: Path) -> None:
    """Let atheris look for inputs that break a rule, and keep one of each kind. Does not return."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    seeds, ask = TARGETS[target]
    corpus = folder / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds().values()):
        (corpus / f"seed-{number}").write_bytes(data)
    known: set[str] = set()

    def keep(kind: str, data: bytes, said: str) -> None:
        if said not in known:
            known.add(said)
            file = folder / f"{target}-{kind}-{hashlib.sha256(data).hexdigest()[:16]}"
            file.write_bytes(data)
            print(f"\nFOUND {file}: {said}", flush=True)

    def one(data: bytes) -> None:
        begun = time.process_time()
        try:
            if ask(data) == OUT_OF_MEMORY:
                keep("memory", data, f"more than {BYTES >> 20} MB for {data[:12]!r}")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-2:]
            where = " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            keep("error", data, f"{type(error).__name__} at {where}: {str(error)[:200]}")
        if (seconds := time.process_time() - begun) > SECONDS:
            keep("slow", data, f"{seconds:.0f} s for {data[:12]!r}")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, max_size)
        return with_checksums(changed) if seed % 2 else changed

    for function in [one for one in gc.get_objects() if inspect.isfunction(one)]:
        if (function.__module__ or "").partition(".")[0] in ("PIL", "detector", "app", "python_multipart"):
            atheris.instrument_func(function)
    logging.disable()  # python-multipart has a line for each malformed body
    warnings.simplefilter("ignore")  # Pillow's; in the service detector/pictures.py does so
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))
    options = [
        f"-max_total_time={minutes * 60:.0f}",
        "-max_len=30000",
        "-timeout=60",
        f"-artifact_prefix={folder}/{target}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    folder = Path("fuzz-findings")
    folder.mkdir(exist_ok=True)
    child = os.fork()  # libFuzzer ends its process
    if child == 0:
        fuzz(arguments.target, arguments.minutes, folder)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = sorted(str(path) for path in folder.glob(f"{arguments.target}-*"))
    print(f"{len(found)} findings of {arguments.target}", *found, sep="\n")
    if status and not found:
        print(f"the fuzzer itself ended with status {status}: nothing, or less than was to be, has been tried")
    sys.exit(1 if found or status else 0)


if __name__ == "__main__":
    main()
