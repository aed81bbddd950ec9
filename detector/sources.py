"""Where pictures come from: folders, files, whatever is open. Their bytes, that is: nothing is decoded here."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeGuard

from detector.errors import UserError
from detector.files import walk_once

MAX_BYTES = 2**28
# Of a file; a JPEG may have twice as many. While decoded, each takes up to 17 bytes (WebP), in a JPEG up to 8: so a
# worker's memory suffices (benchmarks/results/costs.md).
MAX_PIXELS = 25_000_000
# The formats that are read. Some others of Pillow's, such as EPS, start programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
STARTS = {  # regular expressions
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb"....ftypavi[fs]",
}
# HEIC cannot be read: a folder's files are not passed over in silence.
SUFFIXES = set(".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .tif .tiff .avif .heic .heif".split())


def find_pictures(names: Iterable[str]) -> tuple[list[str], list[tuple[str, str]], Counter[str]]:
    """Return the picture files behind names of files and folders, those in a folder sorted; problems as pairs of a name
    and a reason; and how many other files the folders have, by suffix.

    A picture is told by its suffix, else by its first bytes. Links to folders are followed, but into no folder twice.
    Hidden files and folders are passed over: thumbnails, and what macOS puts beside files on foreign disks.
    """
    files: list[str] = []
    problems: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    for name in names:
        if not os.path.isdir(name):  # noqa: PTH112 (Path.is_dir raises where it may not look)
            files.append(name)
            continue
        found: list[str] = []
        before = len(problems)
        for folder, inside in walk_once(name, lambda e: problems.append((e.filename, str(e.strerror)))):
            for path in (Path(folder, entry) for entry in inside if not entry.startswith(".")):
                if path.suffix.lower() in SUFFIXES or begins_as_picture(path):
                    found.append(str(path))
                else:
                    others[path.suffix.lower() or "no suffix"] += 1
        if not found and len(problems) == before:
            problems.append((name, "no picture in this folder"))
        files += sorted(found)
    return files, problems, others


def begins_as_picture(path: Path) -> bool:
    """Say whether a file's first bytes are those of a format that is read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return format_of(start) is not None


def passed_over(others: Counter[str]) -> str:
    """Return one line about the files that `find_pictures` passed over."""
    count = others.total()
    named = ", ".join(suffix for suffix, _ in others.most_common(5)) + (", ..." if len(others) > 5 else "")
    what = "file that is no picture" if count == 1 else "files that are no pictures"
    return f"passed over: {count:,} {what} ({named})"


def is_file(picture: object) -> TypeGuard[bytes | str | os.PathLike[str] | BinaryIO]:
    """Say whether a picture is one that `read` takes, and none that is decoded already."""
    return isinstance(picture, bytes | str | os.PathLike) or hasattr(picture, "read")


def read(source: bytes | str | os.PathLike[str] | BinaryIO) -> bytes:
    """Return a picture file's bytes. Raises UserError where there are none, they cannot be read, or they are more than
    MAX_BYTES, of which no more than one byte is read."""
    try:
        data = source if isinstance(source, bytes) else read_open(source)
    except OSError as error:
        raise UserError(error.strerror or str(error)) from None
    except (ValueError, TypeError) as error:  # a name with a zero in it, a closed file, an open file of text
        raise UserError(f"cannot be read ({error})") from None
    if not data:
        raise UserError("the file is empty")
    return data


def read_open(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    if isinstance(source, str | os.PathLike):
        if re.match("(https?|ftp)://", str(source)) and not Path(source).exists():
            raise UserError("an address, no file: fetch it first, as in `curl -s ADDRESS | python -m detector -`")
        with Path(source).open("rb") as file:
            return read_open(file)
    data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"more than {MAX_BYTES // 2**20} MB")
    return data


def format_of(start: bytes) -> str | None:
    """Return which of FORMATS a file's first 16 bytes say it is."""
    return next((name for name, pattern in STARTS.items() if re.match(pattern, start, re.DOTALL)), None)
