"""Put the released models into models/, from released/ in this clone: without DVC, without a network.

    python -m tools.unpack          `make ask` and `make serve` do so

`released/` is a DVC remote: files named by their MD5, and for each model a list of its files. `dvc pull` does the same.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

from detector.errors import UserError, run
from detector.files import atomic_write

STORE = Path("released/files/md5")


def main() -> None:
    trackers = sorted(Path("models").glob("*.dvc"))
    if not trackers:
        raise UserError("no released model in models/: run this from the root of the repository")
    for tracker in trackers:
        unpack(tracker)


def unpack(tracker: Path) -> None:
    """Write the folder of a `models/<name>.dvc`, unless it exists. Raises UserError for a missing or broken file."""
    folder = tracker.with_suffix("")
    found = re.search(r"md5: ([0-9a-f]{32}\.dir)$", tracker.read_text(), re.MULTILINE)
    whole = folder.exists() and all(file.exists() for file in folder.iterdir())  # and no links that lead nowhere
    if whole or not found:
        return
    with atomic_write(folder) as new:
        new.mkdir()
        for entry in json.loads(stored(found[1]).read_text()):
            source = stored(entry["md5"])
            if hashlib.md5(source.read_bytes()).hexdigest() != entry["md5"]:
                raise UserError(f"{source} is broken: `git checkout released` brings it back")
            shutil.copy(source, new / entry["relpath"])
    print(f"{folder} is ready")


def stored(digest: str) -> Path:
    """Return the file with this MD5. Raises UserError where it is missing."""
    path = STORE / digest[:2] / digest[2:]
    if not path.is_file():
        raise UserError(f"{path} is missing: `git checkout released` brings it back")
    return path


if __name__ == "__main__":
    run(main)
