"""Checkpoints: what a training saves after every epoch, so that it resumes after it was killed.

They lie outside the outs, which DVC may replace, in `$DVC_ROOT/.dvc/tmp/train/<key>/`. DVC_ROOT is the repository that
the user works in, also for a queued run, whose own folder is a fresh one each time.
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from detector.errors import UserError
from detector.files import atomic_write
from stages.train.history import History

Tensors = dict[str, torch.Tensor]


def loaded_code() -> list[Path]:
    """Return the files of this repository that the program has imported so far, whichever they are."""
    root = Path(__file__).parents[2]
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = {Path(file) for file in modules if file}
    return sorted(file for file in files if file.is_relative_to(root) and "site-packages" not in file.parts)


def digest_of(*parts: Any) -> str:
    """Return a short digest of whatever the parts are: JSON values, or paths of files, whose content counts."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode()
        digest.update(struct.pack("<q", len(content)) + content)
    return digest.hexdigest()[:16]


class Checkpoint:
    """The checkpoint of one training, in a folder of its own named by `key`, which no other process uses meanwhile."""

    def __init__(self, key: str) -> None:
        self.folder = Path(os.environ.get("DVC_ROOT", "."), ".dvc", "tmp", "train", key)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")  # until this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("this very experiment is being trained by another process: wait for that one") from None

    def save(self, tensors: dict[str, Tensors], history: History) -> None:
        """Replace the checkpoint: groups of tensors by name, and the JSON values of each finished epoch."""
        with atomic_write(self.folder / "checkpoint.safetensors") as new:
            flat = {f"{group}.{name}": t.contiguous() for group, part in tensors.items() for name, t in part.items()}
            save_file(flat, new, metadata={"history": json.dumps(history)})

    def restore(self) -> tuple[dict[str, Tensors], History] | None:
        """Return what was saved last, in the computer's memory; None where there is nothing."""
        tensors: dict[str, Tensors] = {}
        try:
            with safe_open(self.folder / "checkpoint.safetensors", framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    group, name = key.split(".", 1)
                    tensors.setdefault(group, {})[name] = file.get_tensor(key)
                return tensors, json.loads(file.metadata()["history"])
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            print(f"the checkpoint in {self.folder} cannot be used ({error}): starting over", flush=True)
            return None

    def remove(self) -> None:
        """A finished training needs none. What the system refuses to remove is swept later (stages/leftovers.py): a
        training must not fail after it has written its outs."""
        shutil.rmtree(self.folder, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the optimizer's moments as `<index of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, moments in state.items() for name, tensor in moments.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The reverse of `optimizer_tensors`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, moment = name.split(".", 1)
        if tensor.ndim:
            # in the memory format of its parameter: fused optimizers go through both in the order of memory
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
