"""Bring a model by an explicit command: `python -m detector fetch --help`. Nothing else here downloads anything.

Every file is compared with a SHA-256 that did not come with it. `released.json` has those of the released models, as
they were when this version was made; for any other model the user says the digest of its model.json, which has those
of the other files.
"""

import argparse
import contextlib
import gzip
import hashlib
import http.client
import json
import os
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from detector.errors import UserError
from detector.files import atomic_write
from detector.output import one_line
from detector.places import HUB, fetched_folder
from detector.record import FILE, ExportedRecord
from detector.released import list_files, stored_at

RELEASED: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("released.json").read_text())
MOST = 2**30  # bytes of a file: its digest is known only at its end
SECONDS = 20  # without a byte, after which a server is given up
SLOWEST = 10_000  # bytes a second on average, from then on
UNPACKED = 4 * MOST  # bytes of an archive
LISTED = 2**26  # bytes of an archive that say which files are in it
ARCHIVES = (".tar", ".tar.gz", ".tgz")
EXAMPLES = """examples:
  python -m detector fetch vit_tiny --from ~/ai-art-detector               a clone of the repository
  python -m detector fetch vit_tiny --from https://example.org/vit_tiny    the files of the model's folder
  python -m detector fetch vit_tiny --from https://example.org/v1.tar.gz   an archive of either
  python -m detector fetch hf://OWNER/NAME --sha256 DIGEST                 the Hugging Face hub

Then --model models/NAME and --model hf://OWNER/NAME find it from every folder.
"""

Open = Callable[[str], BinaryIO]  # opens a file of a source by its path there, or raises FileNotFoundError


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m detector fetch",
        description="Bring a model, checked by its SHA-256, into ~/.local/share/ai-art-detector (or XDG_DATA_HOME).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help=f"NAME or hf://OWNER/NAME; this version knows {', '.join(RELEASED)}")
    parser.add_argument(
        "--from",
        dest="source",
        help="a model's folder or a clone of the repository: a path, an https address, or a .tar.gz of one at either; "
        "or hf://OWNER/NAME",
    )
    parser.add_argument("--sha256", metavar="DIGEST", help="of model.json, for a model that this version does not know")
    options = parser.parse_args(arguments)
    folder = fetch(options.model, options.source, options.sha256)
    print(f"{options.model} is ready in {folder}")


def fetch(model: str, source: str | None = None, sha256: str | None = None) -> Path:
    """Bring a model, and return its folder; an earlier one of the name is replaced.

    model: the name of a released model, or `hf://OWNER/NAME`. source: where it comes from: a path or an address of the
    model's folder, of a clone of the repository, or of an archive of either; or `hf://OWNER/NAME`, for which `model` is
    enough. sha256: the digest of its model.json, needed where it is no model that this version knows.

    Raises UserError, with nothing changed, where a file is missing or another one, and where nobody answers.
    """
    folder = fetched_folder(model)
    source = source or (model if HUB.fullmatch(model) else None)
    if source is None:
        raise UserError(f"from where? `python -m detector fetch {model} --from SOURCE`; --help says what a source is")
    sha256 = None if sha256 is None else sha256.lower()  # some programs print capitals
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"--sha256 {sha256} is no SHA-256, which has 64 digits from 0 to f")
    digests = RELEASED.get(model) if sha256 is None else None
    with tempfile.TemporaryDirectory() as scratch, atomic_write(folder) as new:
        new.mkdir()
        open_file = open_model(open_source(source, Path(scratch)), model, source)
        if digests is None:
            digest = copy(open_file(FILE), new / FILE, source)
            check_record(digest, sha256, model, source)
            released = (files for files in RELEASED.values() if files.get(FILE) == digest)
            digests = next(released, ExportedRecord.read(new).sha256)
        for file, digest in digests.items():
            if copy(open_file(file), new / file, source) != digest:
                raise not_wanted(file, source)
    return folder


def check_record(digest: str, wanted: str | None, model: str, source: str) -> None:
    """Raises UserError where a model.json is another one than is wanted, or where nothing says which one is."""
    if wanted is not None and digest != wanted:
        raise not_wanted(FILE, source)
    if wanted is None and digest not in {files.get(FILE) for files in RELEASED.values()}:
        raise UserError(
            f"nothing says that {FILE} from {source} is the right one: {model} is no model that this version knows, "
            "so add --sha256 DIGEST, as who made it says it (`python -m tools.hub push` prints it)"
        )


def not_wanted(file: str, source: str) -> UserError:
    return UserError(
        f"{file} from {source} is not the one with the wanted SHA-256: it belongs to another release, or was changed "
        "on the way; nothing was kept"
    )


def open_model(open_file: Open, name: str, source: str) -> Open:
    """Return what opens a model's files by their names, whether the source is the model's folder or a clone. It raises
    UserError for a file that is not there."""

    def read(path: str) -> bytes:
        return b"".join(blocks(open_file(path), source))

    md5s: dict[str, str] = {}
    if not any(HUB.fullmatch(place) for place in (name, source)):  # the hub has models, no clones
        with contextlib.suppress(FileNotFoundError):
            try:
                md5s = list_files(read, name)
            except ValueError as error:
                raise UserError(f"{source} is no clone of the repository: {error}") from None

    def open_named(file: str) -> BinaryIO:
        if Path(file).name != file:
            raise UserError(f"{FILE} from {source} names {file!r}, which is no file of a model's folder")
        try:
            return open_file(stored_at(md5s[file]) if md5s else file)
        except (FileNotFoundError, KeyError):
            raise UserError(
                f"{source} has no {file} of {name}: a source is the model's folder, or a clone of the repository, with "
                f"{', '.join(RELEASED)}"
            ) from None

    return open_named


def open_source(source: str, scratch: Path) -> Open:
    """Return what opens a file of a source by its path. scratch: an empty folder for what is needed meanwhile."""
    if found := HUB.fullmatch(source):
        from detector.hub import open_hub  # its client need not be installed

        return open_hub(f"{found[1]}/{found[2]}", scratch, MOST)
    if re.match("https?://", source):
        try:
            is_archive = urlsplit(source).path.endswith(ARCHIVES)
        except ValueError as error:
            raise no_answer(source, error) from None
        if not is_archive:
            return lambda path: open_address(f"{source.rstrip('/')}/{quote(path)}")
        archive = scratch / "archive"
        try:
            copy(open_address(source), archive, source)
        except FileNotFoundError:
            raise UserError(f"there is no {source} (404)") from None
        return open_archive(archive, source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return lambda path: (folder / path).open("rb")
    if folder.name.endswith(ARCHIVES) and folder.exists():
        return open_archive(folder, source)
    raise UserError(
        f"{source} is no folder, no archive ({', '.join(ARCHIVES)}), no https address and no hf://OWNER/NAME"
    )


def open_address(address: str) -> BinaryIO:
    """Raises FileNotFoundError for a 404, and UserError for any other failure."""
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "ai-art-detector"})
        answer: BinaryIO = urllib.request.urlopen(request, timeout=SECONDS)
        return answer
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(address) from None
        raise UserError(one_line(f"{address}: the server answers {error.code} {error.reason}")) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise no_answer(address, error) from None


def no_answer(address: str, error: Exception) -> UserError:
    reason = one_line(str(getattr(error, "reason", error)))
    return UserError(f"{address} does not answer ({reason}): no network, a proxy (HTTPS_PROXY), or another address")


def open_archive(archive: Path, source: str) -> Open:
    """The files of a tar archive, by their paths; folders that all of them lie in, such as the one that GitHub's
    archives have, are no part of these."""
    try:
        with archive.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        bounded = Bounded(gzip.GzipFile(archive) if is_packed else archive.open("rb"))
        tar = tarfile.open(fileobj=bounded, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115 (read until the end)
        members = {PurePosixPath(member.name).parts: member for member in tar if member.isfile()}
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{source} is no tar archive, or was cut off ({error})") from None
    bounded.left = UNPACKED
    # macOS adds files of its own, ._*
    members = {parts: member for parts, member in members.items() if parts and not parts[-1].startswith("._")}
    common = len(os.path.commonprefix([parts[:-1] for parts in members]))  # noqa: RUF071 (of tuples: part by part)
    members = {parts[common:]: member for parts, member in members.items()}

    def open_member(path: str) -> BinaryIO:
        member = members.get(PurePosixPath(path).parts)
        stream = tar.extractfile(member) if member else None
        if stream is None:
            raise FileNotFoundError(path)
        return stream

    return open_member


class Bounded:
    """What tarfile reads of a stranger's archive: it would read whole what names a file, whatever its length, and look
    for as many files as there are. left: bytes that may still be read."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        self.stream, self.left, self.tell = stream, LISTED, stream.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError("more is in it than in any clone")
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position > UNPACKED:
            raise tarfile.ReadError("more is in it than in any clone")
        return self.stream.seek(position)


def blocks(stream: BinaryIO, source: str) -> Iterator[bytes]:
    """Yield what is in a stream, and close it. Raises UserError where it breaks off, is slower than SLOWEST or has more
    than MOST bytes."""
    size, began = 0, time.monotonic()
    read = getattr(stream, "read1", stream.read)  # what is there, without waiting for more
    with stream:
        while True:
            if time.monotonic() - began > SECONDS + size / SLOWEST:
                raise UserError(f"{source} sends less than {SLOWEST // 1000} kB a second: try again later")
            try:
                block = read(2**20)
            except (OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
                raise UserError(f"{source} broke off ({error}): fetch it again") from None
            if not block:
                return
            size += len(block)
            if size > MOST:
                raise UserError(f"{source} has a file of more than {MOST // 2**20:,} MB, which no model here has")
            yield block


def copy(stream: BinaryIO, path: Path, source: str) -> str:
    """Write what is in a stream into a file, and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks(stream, source):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
