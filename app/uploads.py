"""The files of a multipart/form-data request, one after the other, while it streams in.

Starlette's parser would write whole bodies to disk before anything is refused. Here a body is held only as far as the
file that is just arriving, a limit ends it where it is crossed, and no disk is used.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.problems import Problem, too_busy

HEADERS = 10_000  # bytes, more than any client puts before a file
STALL_TIMEOUT = 5.0  # seconds without a byte of a body, after which it is waited for no longer


@dataclass
class File:
    """name: as the client gave it, not to be trusted."""

    name: str
    data: bytes


@dataclass
class Memory:
    """The bytes of the files that all requests together hold: no more than `most`."""

    most: int
    held: int = 0


class Upload:
    """The files of one request. receiving: true while the service waits for the client."""

    def __init__(self, request: Request, max_bytes: int, max_files: int, memory: Memory) -> None:
        self.request, self.max_bytes, self.max_files, self.memory = request, max_bytes, max_files, memory
        self.chunks = request.stream()
        self.parts: _Parts | None = None
        self.first: bytes | None = None
        self.receiving = False
        self.count = 0
        self.size = 0
        self.held = 0

    async def begin(self) -> None:
        """Wait for the first bytes of the body. Raises Problem where it is no such request, or they do not come."""
        self.parts = self._parts()
        self.first = await self._receive()

    def drop(self, file: File) -> None:
        """Let go of the content of a file. After `close` this only empties it."""
        size, file.data = len(file.data), b""
        self._hold(-min(size, self.held))

    def close(self) -> None:
        """Let go of all that is left of the request."""
        if self.parts is not None:
            self.parts.clear()
        self.parts = self.first = None
        self._hold(-self.held)

    async def files(self) -> AsyncIterator[File]:
        """Raises Problem where there is no file, too many, too large a one, or what was begun does not go on."""
        assert self.parts is not None  # begin() has been awaited
        parts, chunk = self.parts, self.first
        while chunk is not None:
            self.size += len(chunk)
            for file in parts.feed(chunk):
                self.count += 1
                yield file
            chunk = await self._receive()
        parts.end()

    def _hold(self, size: int) -> None:
        """Note that so many bytes more are held, or fewer. Raises Problem where all requests would hold too many."""
        if size > 0 and self.memory.held + size > self.memory.most:
            raise too_busy("too many large pictures at the moment: try again in a few seconds")
        self.held += size
        self.memory.held += size

    def _parts(self) -> "_Parts":
        kind, options = parse_options_header(self.request.headers.get("content-type"))
        if kind != b"multipart/form-data":
            raise Problem(415, "send pictures as files in multipart/form-data, as in `curl -F files=@photo.jpg`")
        if not options.get(b"boundary"):
            raise Problem(422, "the Content-Type multipart/form-data names no boundary")
        length = self.request.headers.get("content-length", "0")
        if int(length) > self.max_files * (self.max_bytes + HEADERS):
            raise Problem(413, f"{length} bytes: more than {_limits(self.max_bytes, self.max_files)}")
        try:
            return _Parts(options[b"boundary"], self.max_bytes, self.max_files, self._hold)
        except FormParserError as error:
            raise Problem(422, f"the boundary of the multipart/form-data is malformed: {error}") from None

    async def _receive(self) -> bytes | None:
        """Return what has arrived of the body; None at its end."""
        self.receiving = True
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                chunk = await anext(self.chunks, None)
        except TimeoutError:
            raise Problem(408, f"nothing of the pictures arrived for {STALL_TIMEOUT:g} seconds") from None
        self.receiving = False
        return chunk


class _Parts:
    """The callbacks of python-multipart's parser, which works on chunks of any size."""

    def __init__(self, boundary: bytes, max_bytes: int, max_files: int, hold: Callable[[int], None]) -> None:
        self.max_bytes, self.max_files, self.hold = max_bytes, max_files, hold
        self.begun = 0
        self.is_whole = False
        self.whole: list[File] = []
        self.headers: dict[bytes, bytes] = {}
        self.field = self.value = b""
        self.name = ""
        self.data = bytearray()
        self.callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self.parser = MultipartParser(boundary, self.callbacks)  # type: ignore[arg-type]

    def feed(self, chunk: bytes) -> list[File]:
        """The files that end in this chunk."""
        self.whole = []
        try:
            self.parser.write(chunk)
        except FormParserError:
            raise Problem(422, "the multipart/form-data body is malformed") from None
        return self.whole

    def clear(self) -> None:
        """Drop what has arrived, and end the cycle of callbacks, which Python would collect much later."""
        self.whole, self.data = [], bytearray()
        self.callbacks.clear()

    def end(self) -> None:
        if not self.is_whole:
            raise Problem(422, "the multipart/form-data body ends before its last boundary")
        if not self.begun:
            raise Problem(422, "there is no file in the request, send one as in `curl -F files=@photo.jpg`")

    def _begin(self) -> None:
        self.begun += 1
        if self.begun > self.max_files:
            only = "one file" if self.max_files == 1 else f"{self.max_files} files"
            raise Problem(413, f"too many files: send {only} in a request")
        self.headers, self.data = {}, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header_end(self) -> None:
        self.headers[self.field.lower()] = self.value
        self.field = self.value = b""

    def _headers_finished(self) -> None:
        disposition = self.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"filename" in options:
            self.name = options[b"filename"].decode(errors="replace")
        elif found := re.search(rb";\s*filename\*\s*=\s*([^;\s]+)", disposition, re.IGNORECASE):
            # RFC 7578 forbids it, some clients send it, and the parser passes over it
            self.name = extended(found[1].decode(errors="replace"))
        else:
            field = options.get(b"name", b"").decode(errors="replace")
            raise Problem(422, f"the field {field!r} is no file: curl wants an @ before its name, JavaScript a Blob")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self.data) + end - start > self.max_bytes:
            raise Problem(413, f"file {self.begun} is larger than {_limits(self.max_bytes, 1)}")
        self.hold(end - start)
        self.data += data[start:end]

    def _part_end(self) -> None:
        self.whole.append(File(self.name, bytes(self.data)))
        self.data = bytearray()

    def _end(self) -> None:
        self.is_whole = True


def extended(value: str) -> str:
    """Return the file's name in a `filename*` (RFC 5987): charset, language and percent-encoded bytes between '."""
    charset, _, rest = value.partition("'")
    charset = charset or "utf-8"
    if charset.lower() not in ("utf-8", "iso-8859-1"):  # those of the RFC; some of Python's raise errors of their own
        return value
    return unquote(rest.partition("'")[2], charset, "replace")


def _limits(max_bytes: int, files: int) -> str:
    each = f"{max_bytes / 1e6:.3g} MB"
    return each if files == 1 else f"{files} files of {each}"
