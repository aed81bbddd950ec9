"""Digests of what this repository computes: a change that should change nothing gives the same ones as before.

    python -m benchmarks.digests > before            # then the change, then
    python -m benchmarks.digests | diff before -
    CIFAKE_SOURCE=cifake.zip python -m benchmarks.digests     # CIFAKE too: five minutes on two cores

The digests are of numbers, never of their names: a renamed weight or metric changes none. Compare runs of one machine
with the same threads. The released models must be there: `python -m tools.unpack`.
"""

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from safetensors import safe_open

from detector import Detector
from detector.errors import UserError, run
from detector.released import DEFAULT
from stages.data import Split, load_split, write_split

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "val", "test")
MODELS = ("resnet18", "vit_tiny", "quick")
STEPS = 100  # of the first epoch
PICTURES = 50


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.digests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for line in digests():
        print(line, flush=True)


def digests() -> Iterator[str]:
    for name in (DEFAULT, "models/vit_tiny"):
        yield f"answers of {name}: {answers(ROOT / name)}"
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        for name in ("stages", "detector", "data/sample"):
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        yield from on_sample(project)
        if "CIFAKE_SOURCE" in os.environ:
            yield from on_cifake(project)


def on_sample(project: Path) -> Iterator[str]:
    """All stages, to the end."""
    choose(project, model="small_resnet", dataset="sample")
    for stage in ("prepare", "train", "evaluate", "export"):
        stage_run(project, stage)
    for name in SPLITS:
        yield f"sample, {name}: {of_split(project / f'data/{name}')}"
    yield f"small_resnet, weights: {of_tensors(project / 'models/trained/model.safetensors')}"
    chosen = json.loads((project / "models/trained/model.json").read_text())
    yield f"small_resnet, model.json: {of_numbers(sorted(numbers(chosen)))}"
    scores = pq.read_table(project / "metrics/test_scores.parquet")
    yield f"small_resnet, scores: {of_numbers(numbers(scores.to_pydict()))}"
    exported = json.loads((project / "models/exported/model.json").read_text())
    yield f"small_resnet, exported: {of_numbers(sorted(numbers(exported)))}"
    for name in ("test", "robustness", "export"):
        metrics = json.loads((project / f"metrics/{name}.json").read_text())
        yield f"small_resnet, {name}.json: {of_numbers(numbers(metrics))}"
    yield f"small_resnet, answers: {answers(project / 'models/exported')}"


def on_cifake(project: Path) -> Iterator[str]:
    """The packed splits, and so many steps of the first epoch of each published model from random weights."""
    choose(project, dataset="cifake")
    stage_run(project, "prepare")
    for name in SPLITS:
        yield f"CIFAKE, {name}: {of_split(project / f'data/{name}')}"
    whole = load_split((project / "data/train").rename(project / "data/whole"))
    shorten(load_split((project / "data/val").rename(project / "data/whole_val")), project / "data/val", 1000)
    models = YAML(typ="safe").load(ROOT / "params.yaml")["models"]
    for model in MODELS:
        choose(project, dataset="cifake", model=model)
        shorten(whole, project / "data/train", STEPS * models[model]["batch_size"])
        yield f"{model}, {STEPS} steps: {of_tensors(first_epoch(project))}"


def first_epoch(project: Path) -> Path:
    """Train until the first epoch is saved, and return what was saved: weights, averages, moments."""
    shutil.rmtree(project / ".dvc", ignore_errors=True)
    command = [sys.executable, "-m", "stages.train"]
    with subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not any(line.startswith("epoch 1/") for line in process.stdout):
            raise UserError("the training ended before its first epoch")
        process.kill()
    (saved,) = project.glob(".dvc/tmp/train/*/*.safetensors")
    return saved


def choose(project: Path, **choices: str) -> None:
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    yaml.dump(params | choices, project / "params.yaml")


def stage_run(project: Path, name: str) -> None:
    command = [sys.executable, "-m", f"stages.{name}"]
    if subprocess.run(command, cwd=project, env=environment(), stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"stages.{name} failed: the reason stands above")


def environment() -> dict[str, str]:
    """Of the stages, which run in another folder than the one that a relative CIFAKE_SOURCE means."""
    variables = {**os.environ, "DVC_ROOT": ".", "PYTHONUNBUFFERED": "1"}
    if source := os.environ.get("CIFAKE_SOURCE"):
        variables["CIFAKE_SOURCE"] = str(Path(source).expanduser().resolve())
    return variables


def shorten(whole: Split, target: Path, images: int) -> None:
    """Keep the first images of a packed split. Its order is that of the images' hashes: any part is a random one."""
    shutil.rmtree(target, ignore_errors=True)
    columns = {"labels": whole.labels[:images], "object_class": whole.object_class[:images]}
    write_split(target, (images, *whole.images.shape[1:]), lambda a, b: whole.images[a:b], columns, whole.info)


def of_split(folder: Path) -> str:
    """Of a split's images, labels, object classes and, for a test split, which are leaked."""
    split = load_split(folder)
    arrays = [split.images[:], split.labels, split.object_class]
    if folder.name == "test":
        arrays.append(split.leaked.astype(np.uint8))
    return short(sorted(map(of_array, arrays)))


def of_tensors(path: Path) -> str:
    """Of a safetensors file's tensors, whatever they are called, without single numbers: those count steps and batches,
    and which of such counters are kept is the program's own affair."""
    with safe_open(path, "numpy") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    return short(sorted(of_array(tensor) for tensor in tensors if tensor.ndim))


def of_array(array: np.ndarray) -> str:
    return short([str(array.dtype), str(array.shape), array.tobytes()])


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def of_numbers(values: Any) -> str:
    # 12 digits: two ways to compute a sigmoid differ in the sixteenth
    return short(f"{value:.12g}" for value in values)


def answers(model: Path) -> str:
    """P(FAKE), verdict and out-of-distribution flag for fifty pictures, and the occlusion maps of two."""
    if not model.is_dir():
        raise UserError(f"{model.name} is not here: dvc pull models/{model.name}")
    rows = pq.read_table(ROOT / "data/sample/test.parquet")["image"].to_pylist()
    pictures: list[Any] = sorted((ROOT / "app/static/examples").glob("*.[jp][pn]g"))
    chosen = np.linspace(0, len(rows) - 1, PICTURES - len(pictures)).astype(int)
    pictures += [rows[number]["bytes"] for number in chosen]
    detector = Detector.load(model, threads=1)
    parts: list[str] = []
    for prediction in detector.predict(pictures):
        for value in vars(prediction).values():
            if not isinstance(value, list):  # the notes are words
                parts.append(f"{value:.12g}" if isinstance(value, float) else str(value))
    for picture in pictures[:2]:
        explanation = vars(detector.explain(picture))
        parts += [of_array(value) for value in explanation.values() if isinstance(value, np.ndarray)]
    return short(parts)


def short(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(struct.pack("<q", len(data)) + data)
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    run(main)
