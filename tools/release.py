"""Release a model: `dvc pull models/<name>` then brings it to every clone, with git alone.

    make release MODEL=vit_tiny                 the work tree's, after `dvc repro`
    make release MODEL=vit_tiny EXP=NAME        an experiment's

models/exported becomes models/<name>, which DVC tracks with a remote of its own: `released`, a folder of this
repository. It holds the newest release of each model; earlier ones come with the commits and tags that have them. The
repository has no default remote: DVC would ask it as well, and a clone without network would wait for it.
"""

import argparse
import json
import shutil
from pathlib import Path

from dvc.api import DVCFileSystem
from ruamel.yaml import YAML

from detector.errors import UserError, run
from detector.files import atomic_write, file_sha256
from detector.record import ExportedRecord
from detector.released import list_files, stored_at
from tools.lockfile import check_results
from tools.shell import DVC, check_up_to_date, command, find_experiment
from tools.unpack import read, released_trackers

EXPORTED = Path("models/exported")
REMOTE = "released"
STORE = Path("released/files/md5")
DIGESTS = Path("detector/released.json")  # by which `python -m detector fetch` knows the released models


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description="Release a model.")
    parser.add_argument("model", help="an entry of `models` in params.yaml")
    parser.add_argument("experiment", nargs="?", help="its name in `dvc exp show`; without it, the work tree")
    options = parser.parse_args()

    with atomic_write(Path("models", options.model)) as new:
        if options.experiment is None:
            check_up_to_date("card")
            if not EXPORTED.is_dir():
                raise UserError(f"no model in {EXPORTED}: `dvc repro` makes it")
            shutil.copytree(EXPORTED, new)
        else:
            copy_experiment(options.experiment, new)
        check(options.model, new)
    put_into_store(options.model)


def copy_experiment(name: str, folder: Path) -> None:
    """Copy the exported model of an experiment, which `dvc exp apply` would put into the work tree, with its
    released models and all."""
    _, revision = find_experiment(name)
    check_results(lambda path: command("git", "show", f"{revision}:{path}"))
    try:
        DVCFileSystem(rev=revision).get(str(EXPORTED), str(folder), recursive=True)
    except FileNotFoundError:
        raise UserError(f"{EXPORTED} of {name} is not here: `dvc exp pull` fetches it, or run it again") from None


def put_into_store(name: str) -> None:
    """Track models/<name> with DVC, put its files into the remote, and say how to commit it."""
    folder = Path("models", name)
    command(DVC, "add", "--quiet", str(folder))
    tracker = folder.with_name(f"{name}.dvc")
    yaml = YAML()
    content = yaml.load(tracker)
    content["outs"][0]["remote"] = REMOTE  # everything else still goes to the default one
    with tracker.open("w") as file:
        yaml.dump(content, file)
    command(DVC, "push", "--quiet", str(tracker))
    remove_unneeded()
    write_digests()
    earlier = command("git", "log", "--format=%h", "--", str(tracker)).split()  # tags may have stayed elsewhere
    tag = f"{name}-v{1 + len(earlier)}"
    size = sum(file.stat().st_size for file in STORE.rglob("*") if file.is_file())
    print(
        f"{folder} is ready; all releases together take {size / 1e6:.1f} MB. Commit it:\n"
        f"    git add released models/.gitignore {DIGESTS} {tracker} && git commit -m 'Release {name}' && git tag {tag}"
    )


def check(name: str, folder: Path) -> None:
    """Raise UserError where a model is not whole, not the one of that name, or not for people to use."""
    try:
        record = ExportedRecord.read(folder)
        record.check_files(folder, *record.sha256)
        (folder / "README.md").stat()  # the card, which is written after the record
    except FileNotFoundError as error:
        missing = EXPORTED / Path(error.filename).name
        raise UserError(f"the model lacks {missing}: `dvc repro` makes it, or run the experiment again") from None
    if record.model != name:
        raise UserError(f"the model is a {record.model}, no {name}: name an experiment with model={name}")
    if record.dataset != "cifake":
        raise UserError(f"the model was trained on {record.dataset}: only models of cifake are released")


def remove_unneeded() -> None:
    """Remove from the remote what no model of the work tree needs any more."""
    needed = set()
    for tracker in released_trackers():
        digest = YAML(typ="safe").load(tracker)["outs"][0]["md5"]
        needed |= {digest, *list_files(read, tracker.stem).values()}
    for file in STORE.rglob("*"):
        if file.is_file() and file.parent.name + file.name not in needed:
            file.unlink()


def write_digests() -> None:
    """Write the SHA-256 of each file of each released model."""
    digests = {
        tracker.stem: {name: file_sha256(stored_at(md5)) for name, md5 in list_files(read, tracker.stem).items()}
        for tracker in released_trackers()
    }
    with atomic_write(DIGESTS) as new:
        new.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
