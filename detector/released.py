"""The model that is asked where none is named, and where a clone of the repository has the released models' files.

`released/` is a DVC remote: files named by their MD5, and for each model a list of its files. Only the standard library
is needed: `make ask` unpacks them before anything else is there.
"""

import json
import re
from collections.abc import Callable

DEFAULT = "models/resnet18_imagenet"


def stored_at(md5: str) -> str:
    """Return the path, in a clone, of the file with this MD5."""
    return f"released/files/md5/{md5[:2]}/{md5[2:]}"


def list_files(read: Callable[[str], bytes], name: str) -> dict[str, str]:
    """Return the MD5s of the files of models/<name>, by their names; none where models/<name>.dvc is none of a folder.

    read: returns the content of a file of the clone, by its path, and raises what this raises. Raises ValueError where
    the list is none.
    """
    found = re.search(rb"md5: ([0-9a-f]{32}\.dir)\s*$", read(f"models/{name}.dvc"), re.MULTILINE)
    if found is None:
        return {}
    try:
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(read(stored_at(found[1].decode())))}
        if not all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in files.values()):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"its list of the files of models/{name} is broken") from None
    return files
