"""Where model folders are: what `--model` and `Detector.load` are told, and where `fetch` puts what it brings."""

import os
import re
from pathlib import Path

from detector.errors import UserError

HUB = re.compile(r"hf:/{1,2}([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)", re.ASCII)  # Path makes one slash of two
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def model_folder(model: str | Path) -> Path:
    """Return the folder that a model's name stands for.

    model: a folder, which is what is returned; or `models/NAME`, which is also found where `fetch NAME` put it unless
    the current folder has it; or `hf://OWNER/NAME`, what `fetch` brought from the Hugging Face hub. Nothing is
    downloaded: raises UserError for a model of the hub that was not fetched.
    """
    if found := HUB.fullmatch(str(model)):
        folder = fetched_folder(name := "hf://{}/{}".format(*found.groups()))
        if not folder.is_dir():
            raise UserError(f"{name} is not here, and only `python -m detector fetch {name}` downloads it")
        return folder
    folder = Path(model)
    if len(folder.parts) == 2 and folder.parts[0] == "models" and not folder.exists():
        fetched = user_folder() / folder
        return fetched if fetched.is_dir() else folder
    return folder


def fetched_folder(model: str) -> Path:
    """Return where `fetch` puts a model: NAME, or hf://OWNER/NAME. Raises UserError where it is neither."""
    if found := HUB.fullmatch(model):
        return user_folder() / "hub" / found[1] / found[2]
    if NAME.fullmatch(model):
        return user_folder() / "models" / model
    raise UserError(f"{model} is no name of a model, such as resnet18 or hf://OWNER/NAME")


def user_folder() -> Path:
    """Return the user's folder for data, as the XDG base directories have it: ~/.local/share/ai-art-detector."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share", "ai-art-detector")
