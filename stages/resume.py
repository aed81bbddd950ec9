"""What a training run keeps so that it goes on after it was killed: its state after every finished epoch.

It lies outside the outs, which DVC may replace, in `$DVC_ROOT/.dvc/tmp/train/<key>/`. DVC_ROOT is the repository that
the user works in, also for a queued run, whose own folder is a fresh one each time.
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from detector.errors import UserError, replacing


def digest_of(*parts: Any) -> str:
    """A short name for whatever the parts say: JSON values, or paths of files, of which the content counts."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode()
        digest.update(struct.pack("<q", len(content)) + content)
    return digest.hexdigest()[:16]


class RunState:
    """The state of one run, in a folder of its own named by `key`, which no other process uses meanwhile."""

    def __init__(self, key: str) -> None:
        self.folder = Path(os.environ.get("DVC_ROOT", "."), ".dvc", "tmp", "train", key)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")  # until this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("this very experiment is being trained by another process: wait for that one") from None

    def save(self, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        """Replace the state: tensors by name, and a record of JSON values."""
        with replacing(self.folder / "state.safetensors") as new:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, new, metadata={"record": json.dumps(record)})

    def load(self, device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last state saved, None where there is none."""
        path = self.folder / "state.safetensors"
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["record"])  # noqa: SIM118
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            print(
                f"the saved state in {self.folder} cannot be used ({error}): starting over",
                flush=True,
            )
            return None

    def remove(self) -> None:
        """A finished run needs no state."""
        shutil.rmtree(self.folder)


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's moments as `<index of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, moments in state.items() for name, tensor in moments.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The reverse of `optimizer_tensors`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, moment = name.split(".", 1)
        if tensor.ndim:
            # in the memory format of its parameter: fused optimizers go through both in the order of memory
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
