"""Put a model on the Hugging Face hub, or bring one from there. Nothing is sent without the word `push`.

    python -m tools.hub push models/vit_tiny OWNER/NAME      after `hf auth login`
    python -m tools.hub pull OWNER/NAME --sha256 DIGEST

The folder goes there as it is: what the hub shows of it, metadata and results, is the head of its card.
"""

import argparse
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard

from detector.errors import UserError, run
from detector.fetch import fetch
from detector.folder import read_record
from detector.hub import hub_errors
from detector.places import HUB, model_folder
from detector.record import FILE

CARD = "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.hub", description="Put a model on the Hugging Face hub, or bring one from there."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pushing = commands.add_parser(
        "push", help="make the folder's files a commit of OWNER/NAME, which is made if need be"
    )
    pushing.add_argument("folder", help="a model folder, such as models/vit_tiny")
    pushing.add_argument("name", metavar="OWNER/NAME")
    pulling = commands.add_parser("pull", help="as `python -m detector fetch hf://OWNER/NAME`")
    pulling.add_argument("name", metavar="OWNER/NAME")
    pulling.add_argument("--sha256", metavar="DIGEST", help="of model.json, unless this version knows the model")
    options = parser.parse_args()
    if not HUB.fullmatch(f"hf://{options.name}"):
        raise UserError(f"{options.name} is no name on the hub: OWNER/NAME")
    if options.command == "push":
        push(model_folder(options.folder), options.name)
    else:
        folder = fetch(f"hf://{options.name}", sha256=options.sha256)
        print(f"hf://{options.name} is ready in {folder}")


def push(folder: Path, name: str) -> None:
    """Make the files of a model folder one commit of OWNER/NAME on the hub.

    Raises UserError, with nothing sent, where the folder is not whole or its card has no metadata.
    """
    record, sha256 = read_record(folder)
    try:
        record.check_files(folder, *record.sha256)
        card = (folder / CARD).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no {error.filename}: a model on the hub takes all files of its folder") from None
    check_head(folder / CARD, card)
    files = sorted({FILE, CARD, *record.sha256})  # the card is written after model.json
    api = HfApi()
    with hub_errors(name):
        api.create_repo(name, exist_ok=True)
        operations = [CommitOperationAdd(file, folder / file) for file in files]
        commit = api.create_commit(name, operations, commit_message=f"{record.model}, model.json {sha256[:12]}")
    print(f"{folder} is {commit.commit_url}. Others get it with")
    print(f"    python -m detector fetch hf://{name} --sha256 {sha256}")


def check_head(path: Path, card: bytes) -> None:
    """Raises UserError where a card has no metadata that the hub could read."""
    try:
        reason = "" if ModelCard(card.decode()).data.to_dict() else "its head is missing or empty"
    except Exception as error:  # of UTF-8, of YAML, of what the hub's client makes of it
        reason = str(error)
    if reason:
        raise UserError(
            f"{path} has no metadata for the hub ({reason}): make the model anew, `export` and `adapt` write it"
        )


if __name__ == "__main__":
    run(main)
