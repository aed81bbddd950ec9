"""The first stage: check params.yaml, and write down what the data are, into data/fingerprint.json, and what weights
training starts from, into models/pretrained.json.

    python -m stages.fingerprint

It runs at every `dvc repro`, since DVC does not see data outside the repository. The stages `prepare` and `train`
depend on the small files that it writes, and the stage `external` on data/external.json, about the data sets that
`evaluate.external` names. What is not here cannot have changed: where the data, or the weights, cannot be found, and
the file is of the same ones already, it stays as it is, so that a clone without them has nothing to do.

A file's content is read once; afterwards its size and time say whether it is the same.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detector.errors import UserError, run
from detector.files import atomic_write, file_sha256, walk_once
from detector.sources import SUFFIXES
from stages.params import dataset_entry, external_entries, licence_beside, load_params, model_entry, weights_path

FINGERPRINT, EXTERNAL = Path("data/fingerprint.json"), Path("data/external.json")
PRETRAINED = Path("models/pretrained.json")
# keys of an entry that say how external data are read
READ = ("hub", "revision", "image", "label", "labels", "source", "group", "control")
TABLES = (".parquet", ".csv", ".json", ".jsonl")


def main() -> None:
    # imported here: other stages import from this module, and do not depend on these
    from stages.keeping import check_started_experiment
    from stages.leftovers import tidy

    check_started_experiment()
    tidy()
    params = load_params()
    pretrained, (name, entry) = model_entry(params)["pretrained"], (params["dataset"], dataset_entry(params))
    write(EXTERNAL, external_fingerprints(external_entries(params)))
    found = find_data(name, entry)
    if found or recorded(FINGERPRINT, "dataset") != name:
        if found is None and entry["hub"] is None:
            raise UserError(missing_data(name, entry))
        known = fingerprint(name, found) if found else {"hub": entry["hub"], "revision": entry["revision"]}
        write(FINGERPRINT, {"dataset": name, **known})
    is_here = isinstance(pretrained, str) and (repository() / pretrained).exists()
    if is_here or recorded(PRETRAINED, "pretrained") != pretrained:
        weights = weights_path(pretrained)
        files = {"sha256": weights, "licence_sha256": licence_beside(weights)}
        digests = {key: file_sha256(file) for key, file in files.items() if file}
        write(PRETRAINED, {"pretrained": pretrained, **digests})


def write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        with atomic_write(path) as new:
            new.write_text(text)


def external_fingerprints(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what data/external.json holds: of each entry what its answers depend on, and what its files are.

    Where they are not here, what was known of them before; nothing where that was with other settings.
    """
    known: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        settings = {key: entry[key] for key in READ if entry[key] is not None}
        found = find_data(name, entry)
        if found is not None:
            known[name] = {"settings": settings, **fingerprint(name, found)}
        else:
            before = recorded(EXTERNAL, name)
            known[name] = before if before and before.get("settings") == settings else {"settings": settings}
    return known


def recorded(path: Path, key: str) -> Any:
    """Return what a file that an earlier run wrote has under `key`, None where there is none."""
    try:
        return json.loads(path.read_text())[key]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def find_data(name: str, entry: dict[str, Any]) -> Path | None:
    """Return where the data of an entry of `datasets` lie, or None: the path in its environment variable, else `path`.

    A relative path is one in the repository where `dvc` was called: a queued run has another folder. Raises UserError
    where the environment variable names what does not exist.
    """
    variable = entry["environment"]
    if variable and (given := os.environ.get(variable)):
        if found := existing(given):
            return found
        raise UserError(f"{variable}={given} does not exist: give the folder, zip or table files of datasets.{name}")
    return existing(entry["path"]) if entry["path"] else None


def existing(given: str) -> Path | None:
    path = Path(given).expanduser()
    return next((place for place in (path, repository() / path) if place.exists()), None)


def repository() -> Path:
    return Path(os.environ.get("DVC_ROOT", "."))


def missing_data(name: str, entry: dict[str, Any]) -> str:
    ways = [f"set {entry['environment']} to the path of a copy"] if entry["environment"] else []
    ways += [f"put them at {entry['path']}"] if entry["path"] else []
    return f"the data of datasets.{name} are not here: {', or '.join(ways)}"


def fingerprint(name: str, data: Path) -> dict[str, Any]:
    """Return how many files there are, their bytes, and a digest of their names and contents."""
    cache = repository() / ".dvc/tmp/fingerprints" / f"{hashlib.sha256(str(data.resolve()).encode()).hexdigest()}.json"
    try:
        before = json.loads(cache.read_text())
    except (FileNotFoundError, ValueError):
        before = {}
    now: dict[str, list[Any]] = {}
    if lists_pictures(data):
        data = data.parent  # they lie there
    for file in tqdm(files_of(data), desc=f"data of {name}", unit=" files", unit_scale=True, disable=None, delay=1):
        status, relative = file.stat(), str(file.relative_to(data)) if data.is_dir() else file.name
        seen = before.get(relative)
        if seen is None or seen[:2] != [status.st_size, status.st_mtime_ns]:
            seen = [status.st_size, status.st_mtime_ns, file_sha256(file)]
        now[relative] = seen
    if now != before:
        with atomic_write(cache) as new:
            new.write_text(json.dumps(now))
    contents = json.dumps(sorted((relative, seen[2]) for relative, seen in now.items()))
    return {
        "files": len(now),
        "bytes": sum(seen[0] for seen in now.values()),
        "digest": hashlib.sha256(contents.encode()).hexdigest(),
    }


def lists_pictures(data: Path) -> bool:
    """Whether the data are a table with the paths of pictures, not with the pictures themselves."""
    if data.suffix.lower() == ".parquet" and data.is_file():
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            types = pq.read_schema(data).types
        except (OSError, pa.ArrowException):  # `prepare` says that it is broken
            return False
        return not any(
            pa.types.is_struct(one) or pa.types.is_binary(one) or pa.types.is_large_binary(one) for one in types
        )
    return data.suffix.lower() in (".csv", ".json", ".jsonl")


def files_of(data: Path) -> Iterator[Path]:
    """Yield the pictures and tables of a folder, or the file; none whose name, or whose folder's, begins with a dot.

    Links are followed, but into no folder twice. Raises UserError for one that leads nowhere.
    """
    if data.is_file():
        yield data
        return
    for folder, names in walk_once(data):
        for name in names:
            if not Path(folder, name).exists():
                raise UserError(f"{Path(folder, name)} is a link that leads nowhere: remove it")
            if not name.startswith(".") and Path(name).suffix.lower() in (*TABLES, *SUFFIXES):
                yield Path(folder, name)


if __name__ == "__main__":
    run(main)
