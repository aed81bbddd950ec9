"""params.yaml, read as DVC reads it, and checked: the entries of `models` and `datasets` that are chosen."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from detector.errors import UserError
from detector.labels import CLASSES
from detector.record import FITS

MODEL_KEYS = (
    *("timm", "args", "stem", "pretrained", "epochs", "crop_epochs", "batch_size"),
    *("optimizer", "learning_rate", "weight_decay", "ema_decay"),
)
# What an entry of `datasets` may say, and what holds where it does not; docs/reference/params.md explains each.
DATASET_DEFAULTS: dict[str, Any] = {
    "environment": None,
    "path": None,
    "hub": None,
    "revision": None,
    "image": None,
    "label": None,
    "labels": {name: name for name in CLASSES},
    "source": None,
    "group": None,
    "leave_out": [],
    "cluster": None,
    "control": {},
    "image_size": 32,
    "fit": "stretch",
    "reencode": None,
    "test_fraction": 0.2,
    "near_duplicates": "together",
    "strict": False,
    "digest": None,
}


def load_params() -> dict[str, Any]:
    """Return params.yaml of the working folder.

    YAML 1.2, as in DVC: `1e-3` is a number there, while PyYAML (YAML 1.1) would give the string "1e-3".
    """
    try:
        return YAML(typ="safe", pure=True).load(Path("params.yaml"))
    except FileNotFoundError:
        raise UserError("no params.yaml here: run this from the root of the repository") from None
    except YAMLError as error:
        raise UserError(f"params.yaml is not valid YAML: {error}") from None


def model_entry(params: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of `models` that `model` names; `input_size`, which may be left out, is None then. Raises
    UserError where there is no such entry, or a part of it is missing."""
    name, models = params["model"], params["models"]
    if name not in models:
        raise UserError(
            f"model is {name!r}; params.yaml has {', '.join(models)}. `git checkout params.yaml` takes a wrong -S back"
        )
    if missing := [key for key in MODEL_KEYS if key not in models[name]]:
        raise UserError(f"models.{name} in params.yaml lacks {', '.join(missing)}: see the other entries")
    known = (*MODEL_KEYS, "input_size")
    if unknown := [key for key in models[name] if key not in known]:
        raise UserError(f"models.{name} in params.yaml has the key {unknown[0]}: {hint_of(unknown[0], known)}")
    return {"input_size": None, **models[name]}


def hint_of(key: str, known: Iterable[str]) -> str:
    """Return what a key that means nothing may have been meant as."""
    close = difflib.get_close_matches(key, known := list(known), 1)
    return f"did you mean {close[0]}?" if close else f"an entry can have {', '.join(known)}"


def weights_path(pretrained: bool | str) -> Path | None:
    """Return the file that `pretrained` of an entry of `models` names, or None where it names none. It is one from the
    repository, since a queued run works in another folder. Raises UserError where there is no such file."""
    if not isinstance(pretrained, str):
        return None
    path = Path(os.environ.get("DVC_ROOT", "."), pretrained)
    if path.is_file():
        return path
    folder = Path(pretrained).parent
    if Path(f"{path.parent}.dvc").is_file():
        raise UserError(f"the weights {pretrained} are not here: `dvc pull {folder}` fetches them")
    raise UserError(f"the weights {pretrained} are not here: put the file there, or set models.<name>.pretrained")


def licence_beside(weights: Path | None) -> Path | None:
    """Return the file LICENSE beside pretrained weights, None where there is none. One in the repository's root is not
    theirs."""
    licence = weights and weights.with_name("LICENSE")
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    return licence if licence and licence.is_file() and licence.resolve().parent != root else None


def dataset_entry(params: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of `datasets` that `dataset` names, whole: with what holds where it says nothing, and `labels`
    as lists of strings by class. Raises UserError where there is none, and for a key or a value that means nothing."""
    name, entries = params["dataset"], params["datasets"]
    if name not in entries:
        raise UserError(
            f"dataset is {name!r}; params.yaml has {', '.join(entries)}. `git checkout params.yaml` takes a wrong -S "
            "back"
        )
    given = entries[name]
    if not isinstance(given, dict):
        raise UserError(f"datasets.{name} is {given!r} in params.yaml: it must be an entry, with path and labels")
    for key in given:
        if key not in DATASET_DEFAULTS:
            raise UserError(f"datasets.{name} in params.yaml has the key {key}: {hint_of(key, DATASET_DEFAULTS)}")
    entry = DATASET_DEFAULTS | given

    def check(valid: bool, key: str, expected: str) -> None:
        if not valid:
            raise UserError(f"datasets.{name}.{key} is {entry[key]!r} in params.yaml: it must be {expected}")

    check(any(entry[key] for key in ("environment", "path", "hub")), "path", "a folder or file, or give hub")
    size, fraction, quality = entry["image_size"], entry["test_fraction"], entry["reencode"]
    check(isinstance(size, int) and 32 <= size <= 512 and size % 2 == 0, "image_size", "an even number from 32 to 512")
    check(entry["fit"] in FITS, "fit", " or ".join(FITS))
    check(isinstance(fraction, int | float) and 0 < fraction < 1, "test_fraction", "between 0 and 1")
    is_quality = isinstance(quality, int) and not isinstance(quality, bool) and 1 <= quality <= 95
    check(quality is None or is_quality, "reencode", "a JPEG quality, 1 to 95")
    check(quality is None or not entry["strict"], "reencode", "left out of a strict entry")
    for key in ("environment", "path", "hub", "image", "label", "source", "group", "cluster"):
        check(entry[key] is None or isinstance(entry[key], str), key, "a name")
    check(is_list_of_names(entry["leave_out"]), "leave_out", "a list of sources, as in [flux]")
    control = entry["control"]
    is_map = isinstance(control, dict) and all(map(is_list_of_names, control.values()))
    check(is_map, "control", "a map from sources to data sets, as in {cifar10: [cifake]}")
    check(entry["near_duplicates"] in ("together", "anywhere"), "near_duplicates", "together or anywhere")
    labels = entry["labels"]
    check(isinstance(labels, dict) and set(labels) == set(CLASSES), "labels", "a map with the keys FAKE and REAL")
    lists = {key: value if isinstance(value, list) else [value] for key, value in labels.items()}
    entry["labels"] = {key: [str(one) for one in lists[key]] for key in CLASSES}
    both = set(entry["labels"]["FAKE"]) & set(entry["labels"]["REAL"])
    check(not both, "labels", f"one class for each name, {', '.join(sorted(both))} has two")
    return entry


def is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def external_entries(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of `datasets` that `evaluate.external` names, whole, by name. `group` is what intervals go by,
    the entry's `cluster` where it has one. Raises UserError where one does not exist or means nothing."""
    names = params["evaluate"]["external"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"evaluate.external is {names!r} in params.yaml: it must be a list of entries of `datasets`")
    if unknown := [name for name in names if name not in params["datasets"]]:
        raise UserError(f"evaluate.external names {', '.join(unknown)}; datasets has {', '.join(params['datasets'])}")
    entries = {name: dataset_entry(params | {"dataset": name}) for name in names}
    return {name: entry | {"group": entry["cluster"] or entry["group"]} for name, entry in entries.items()}
