"""What a GPU gives: checks, a profile, the training to its goal and what people would use instead, in five minutes.

    CIFAKE_SOURCE=... python -m benchmarks.gpu              writes benchmarks/results/gpu.md
    CIFAKE_SOURCE=... python -m benchmarks.gpu vit_tiny     another model of params.yaml

It needs what requirements.txt installs, for the alternatives torchvision too, and no network. What is not measured when
the five minutes are over is left out, and the result says so. The result is written after each part, so that what a
later one ends with costs nothing.

All but the trainings is measured in this process, on the images of CIFAKE: the real step, from the gather to the
average, eagerly and as a CUDA graph (train.cuda_graph). Rates are medians over turns that the variants take.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks.heading import heading
from detector.cores import keep_freed_memory

import torch  # isort: skip

from benchmarks.gpu_step import Task, checks, curve, determinism, profile
from detector.errors import UserError, one_line, run
from detector.files import atomic_write
from detector.labels import FAKE
from stages.data import load_split
from stages.device import claim, gpu_candidates
from stages.params import load_params, model_entry
from stages.train.augment import reader
from stages.train.network import choose_precision, compute_deterministically

RESULT = Path("benchmarks/results/gpu.md")
SECONDS = 290  # for all of it
CONDITIONS = {"noise": [0.08], "jpeg": [58]}  # of `evaluate`, which takes its time for each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet18", help="(default: %(default)s)")
    arguments = parser.parse_args()
    began = time.monotonic()
    if gpu_candidates():
        claim()  # before CUDA starts
    if not (gpu_candidates() and torch.cuda.is_available()):
        raise UserError("there is no GPU here, and this measures one: run it where `nvidia-smi -L` lists one")
    if "CIFAKE_SOURCE" not in os.environ:
        raise UserError("CIFAKE_SOURCE is not set: it names the copy of CIFAKE to train on")
    params = load_params() | {"model": arguments.model, "dataset": "cifake"}
    spec, options = model_entry(params), params["train"]
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder, "project"), params)
        split = load_split(project / "data/train")
        targets = torch.from_numpy(np.stack([split.labels == FAKE, split.object_class], 1).astype(np.int64)).to(device)
        precision = choose_precision(options["precision"], device)
        side = split.images.shape[1]
        task = Task(spec, options, side, reader(split.images, device), targets, device, precision)
        compute_deterministically()
        task_fact = f"{arguments.model}, batches of {spec['batch_size']}, {precision}"
        lines = [heading("On a GPU", task_fact).rstrip()]
        parts: dict[str, Callable[[float], list[str]]] = {
            "Checks": lambda _: table("check", "", checks(task)),
            "Profile": lambda _: table("part of a step", "ms", profile(task)),
            "Training": lambda left: train_to_the_goal(project, left),
            "What determinism costs": lambda _: table("variant of a step", "images/s", determinism(task)),
            "Batch size": lambda _: table("batch size", "images/s: eager, captured", curve(task)),
            "Other trainers": lambda left: alternatives(project, left),
        }
        for name, part in parts.items():
            lines += ["", f"## {name}", ""]
            try:
                left = SECONDS - (time.monotonic() - began)
                lines += part(left) if left > 5 else ["Not measured, for want of time."]
            except (UserError, RuntimeError) as error:  # the other parts say something without it
                lines += [f"**Failed**: {' '.join((one_line(error) or str(error)).split())[:500]}"]
            with atomic_write(RESULT) as new:
                new.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


def table(what: str, unit: str, rows: dict[str, str]) -> list[str]:
    return [f"| {what} | {unit} |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows.items())]


def make_project(project: Path, params: dict[str, Any]) -> Path:
    """Copy what the stages need into a folder, and prepare the data there."""
    for name in ("stages", "detector"):
        shutil.copytree(name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    params["evaluate"]["corruptions"] = CONDITIONS
    YAML().dump(params, project / "params.yaml")
    stage(project, "prepare", SECONDS)
    return project


def finished(command: list[str], left: float, **options: Any) -> tuple[int, str, str]:
    """Run a program, and stop it after `left` seconds. Returns its exit status, and what it said on both streams."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", *command], stdout=pipe, stderr=pipe, text=True, **options) as process:
        try:
            said = process.communicate(timeout=max(0, left))
        except BaseException as stop:
            process.terminate()  # after which it stops those that it has started
            if not isinstance(stop, subprocess.TimeoutExpired):
                raise
            said = process.communicate()[0], "stopped, for want of time"
    return process.returncode, *said


def stage(project: Path, name: str, left: float) -> tuple[str, float]:
    """Run a stage. Returns what it said, and its seconds from the start of Python to its end."""
    source = str(Path(os.environ.get("CIFAKE_SOURCE", "")).resolve())
    environment = {**os.environ, "CIFAKE_SOURCE": source, "DVC_ROOT": "."}
    began = time.perf_counter()
    status, said, errors = finished([f"stages.{name}"], left, cwd=project, env=environment)
    if status:
        raise UserError(f"stages.{name} ended with status {status}: {' '.join(errors.split())[-300:]}")
    return said, time.perf_counter() - began


def train_to_the_goal(project: Path, left: float, graph: bool = True) -> list[str]:
    """The whole training as `python -m stages.train`, and what `evaluate` says of it. Where it fails with a graph it is
    without."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["train"]["cuda_graph"] = graph
    yaml.dump(params, project / "params.yaml")
    began = time.monotonic()
    try:
        said, seconds = stage(project, "train", left)
    except UserError as error:
        if not graph:
            raise
        return [
            f"**With `train.cuda_graph`**: {error}",
            "",
            *train_to_the_goal(project, left - seconds_since(began), False),
        ]
    _, more = stage(project, "evaluate", left - seconds_since(began))
    metrics, test = (json.loads((project / f"metrics/{name}.json").read_text()) for name in ("train", "test"))
    rows = {
        "`train.cuda_graph`": str(graph).lower(),
        "`python -m stages.train`, from start to exit, s": f"{seconds:.1f}",
        "its epochs, with validation and checkpoint, s": f"{metrics['seconds']:.1f}",
        "epochs": str(len(re.findall("^epoch ", said, re.MULTILINE))),
        "images/s, the median epoch": f"{metrics['images_per_second']:,.0f}",
        "memory, MB": f"{metrics['peak_memory_mb']:,}",
        "accuracy on test": f"{test['accuracy']:.2%}",
        f"`python -m stages.evaluate`, {len(CONDITIONS)} conditions, s": f"{more:.1f}",
    }
    return table("training", "", rows)


def seconds_since(began: float) -> float:
    return time.monotonic() - began


def alternatives(project: Path, left: float) -> list[str]:
    """What benchmarks.trainers prints of `quick` and of a loop over ImageFolder and DataLoader, in two epochs."""
    environment = {**os.environ, "DVC_ROOT": str(project)}  # this process has locked its GPU in the repository
    command = ["benchmarks.trainers", "--epochs", "2", "ours", "folder"]
    status, said, errors = finished(command, left, env=environment)
    if not said:
        raise UserError(f"benchmarks.trainers ended with status {status}: {' '.join(errors.split())[-300:]}")
    return said.replace("# Trainers", "").strip().splitlines()


if __name__ == "__main__":
    keep_freed_memory()
    run(main)
