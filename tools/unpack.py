"""Put the released models into models/, from released/ in this clone: without DVC, without a network.

    python -m tools.unpack          `make ask` and `make serve` do so

`released/` is a DVC remote: files named by their MD5, and for each model a list of its files. `dvc pull` does the same.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.released import list_files, stored_at


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m tools.unpack", description=__doc__.partition("\n")[0]).parse_args(arguments)
    trackers = released_trackers()
    if not trackers:
        raise UserError("no released model in models/: run this from the root of the repository")
    for tracker in trackers:
        unpack(tracker)


def released_trackers() -> list[Path]:
    """Return the .dvc files of the released models; users may track models of their own beside them."""
    return [path for path in sorted(Path("models").glob("*.dvc")) if b"remote: released" in path.read_bytes()]


def unpack(tracker: Path) -> None:
    """Write the folder of a `models/<name>.dvc`, unless that release is there. Raises UserError for a missing or broken
    file."""
    folder = tracker.with_suffix("")
    md5s = list_files(read, folder.name)
    if all((folder / name).is_file() and digest((folder / name).read_bytes()) == md5 for name, md5 in md5s.items()):
        return
    with atomic_write(folder) as new:
        new.mkdir()
        for name, md5 in md5s.items():
            content = read(stored_at(md5))
            if digest(content) != md5:
                raise UserError(f"{stored_at(md5)} is broken: `git checkout released` brings it back")
            (new / name).write_bytes(content)
    print(f"{folder} is ready")


def digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def read(path: str) -> bytes:
    """Return a file's content. Raises UserError where it is missing."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: `git checkout released` brings it back")
    return Path(path).read_bytes()


if __name__ == "__main__":
    run(main)
