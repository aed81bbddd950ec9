"""dvc.lock of a run: whether its results belong together, and which code they come from."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML

from detector.errors import UserError

CODE = ("stages/", "detector/")
NOT_MEASURED = "card"  # a stage that computes nothing


def check_results(read: Callable[[str], str]) -> str:
    """Raise UserError where a run has results of different parameters or models: after `dvc exp run train`, for one,
    those of the stages behind it are still the ones before. Return a digest of the code that its numbers come from.

    read: returns the text of a file of the run.
    """
    names = ("params.yaml", "dvc.yaml", "dvc.lock")
    params, pipeline, lock = (YAML(typ="safe", pure=True).load(read(name)) for name in names)
    # DVC keeps in dvc.lock what is no stage any more
    stages = {name: stage for name, stage in lock["stages"].items() if name in pipeline["stages"]}
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    code = set()
    for name, stage in stages.items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if value != lookup(params, key):
                raise UserError(f"the stage {name} has not run with the {key} of params.yaml: `dvc repro` it first")
        for dep in stage.get("deps", []):
            path, md5 = dep["path"], dep["md5"]
            if outs.get(path, md5) != md5:
                raise UserError(f"the stage {name} has not run since {path} changed: `dvc repro` it first")
            if path.startswith(CODE) and name != NOT_MEASURED:
                code.add((path, md5))
    for path, md5 in outs.items():
        is_in_git = path.startswith("metrics/") and path.endswith(".json")
        if is_in_git and hashlib.md5(read(path).encode()).hexdigest() != md5:
            raise UserError(f"{path} is not the one that dvc.lock names: `dvc repro` makes it anew")
    return hashlib.sha256(json.dumps(sorted(code)).encode()).hexdigest()[:12]


def lookup(params: dict[str, Any], key: str) -> Any:
    """Return what a dotted name stands for, None where there is no such parameter."""
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
