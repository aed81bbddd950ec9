"""Publish the work tree's model: `dvc pull -r released models/<name>` then brings it to every clone, with git alone.

    make release MODEL=resnet18

models/exported becomes models/<name>, which DVC tracks with a remote of its own: `released`, a folder of this
repository. It holds the newest release of each model; earlier ones come with the commits and tags that have them. An
experiment is published after `dvc exp apply NAME`. Without `-r released`, DVC would knock at the default remote as
well, and a clone without network would wait for it.
"""

import argparse
import json
import shutil
from pathlib import Path

from ruamel.yaml import YAML

from detector.errors import UserError, replacing, run
from stages.sweep import DVC, command

EXPORTED = Path("models/exported")
REMOTE, STORE = "released", Path("released/files/md5")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description="Publish the work tree's model.")
    parser.add_argument("model", help="an entry of `models` in params.yaml")
    name = parser.parse_args().model
    check(name)

    folder = Path("models", name)
    with replacing(folder) as new:
        shutil.copytree(EXPORTED, new)
    command(DVC, "add", "--quiet", str(folder))
    tracker = folder.with_name(f"{name}.dvc")
    yaml = YAML()
    content = yaml.load(tracker)
    content["outs"][0]["remote"] = REMOTE  # everything else still goes to the default one
    with tracker.open("w") as file:
        yaml.dump(content, file)
    command(DVC, "push", "--quiet", str(tracker))
    forget()
    earlier = command("git", "log", "--format=%h", "--", str(tracker)).split()  # tags may have stayed elsewhere
    tag = f"{name}-v{1 + len(earlier)}"
    size = sum(file.stat().st_size for file in STORE.rglob("*") if file.is_file())
    print(
        f"{folder} is ready; all releases together take {size / 1e6:.1f} MB. Publish it:\n"
        f"    git add released models/.gitignore {tracker} && git commit -m 'Release {name}' && git tag {tag}"
    )


def check(name: str) -> None:
    """Raise UserError where models/exported is not what the committed files say, or not for people to use."""
    try:
        info = json.loads((EXPORTED / "model.json").read_text())
    except FileNotFoundError:
        raise UserError(f"no model in {EXPORTED}: `dvc repro` makes it, `dvc exp apply NAME` an experiment's") from None
    if info["model"] != name:
        raise UserError(f"{EXPORTED} is a {info['model']}, no {name}: `dvc exp apply` an experiment with model={name}")
    if info["dataset"] != "cifake":
        raise UserError(f"{EXPORTED} was trained on {info['dataset']}: only models of cifake are published")
    # as `make lock` asks: files may be missing, but those that are there must be the recorded ones
    if "Data and pipelines are up to date." not in command(DVC, "repro", "--dry", "--allow-missing", "export"):
        raise UserError("dvc.lock is not up to date: `dvc repro` first, and see `dvc status`")


def forget() -> None:
    """Remove from the remote what no model of the work tree needs any more."""
    needed = set()
    for tracker in Path("models").glob("*.dvc"):
        digest = YAML(typ="safe").load(tracker)["outs"][0]["md5"]
        listing = STORE / digest[:2] / digest[2:]
        needed |= {digest, *(entry["md5"] for entry in json.loads(listing.read_text()))}
    for file in STORE.rglob("*"):
        if file.is_file() and file.parent.name + file.name not in needed:
            file.unlink()


if __name__ == "__main__":
    run(main)
