"""This repository's trainer beside what people would use instead: images/s, and time to a validation accuracy.

    pip install -r benchmarks/requirements.txt
    CIFAKE_SOURCE=... python -m benchmarks.trainers > benchmarks/results/trainers.md
    python -m benchmarks.trainers --images 1000 --epochs 2 ours folder      a quick look; without CIFAKE on the sample

Ours trains `quick` as params.yaml has it, the others the same network by the recipes that their users take, for as many
epochs as one says; their schedules are made for that number. Each trainer has a process of its own, one after the
other, so that threads, memory and imports do not mix: `ours` is the stage itself, the others (`folder`, `hf`, `fastai`)
are in benchmarks/other_trainers.py. All print the same two kinds of lines, which are timed here as they arrive. What is
the same for all, and what is each one's own, heads the output. What ended before Ctrl-C, SIGTERM or a
failure is still printed.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from tqdm import tqdm

from detector.errors import UserError, run
from detector.labels import CLASSES, FAKE, REAL
from stages.data import channel_statistics, load_split
from stages.device import claim
from stages.model import build
from stages.params import dataset_entry, load_params, model_entry
from stages.prepare.decoding import decode_split
from stages.prepare.packing import pack
from stages.prepare.sources import open_source
from stages.prepare.splitting import cut_off, group_ids, links_of
from stages.train.network import choose_precision, make_network

MODEL = "quick"
NAMES = {
    "ours": "this repository",
    "folder": "ImageFolder, DataLoader, a loop",
    "hf": "Hugging Face Trainer",
    "fastai": "fastai Learner",
}
PACKAGES = {
    "ours": ["torch", "timm"],
    "folder": ["torchvision"],
    "hf": ["transformers", "accelerate"],
    "fastai": ["fastai"],
}
RECIPES = {
    "ours": "`quick` of params.yaml: Muon, linear warm-up and decay, clipped gradients, the object in the image as "
    "an auxiliary task, the first epochs on crops of 24x24 pixels; validates averaged weights; saves a checkpoint "
    "after each epoch; keeps freed memory and shortens the threads' wait (stages/__init__.py)",
    "folder": "SGD at 0.2 with Nesterov momentum and weight decay 5e-4, OneCycleLR",
    "hf": "AdamW at 1e-3 with linear decay, clipped gradients (its defaults but for the rate)",
    "fastai": "Adam with fit_one_cycle at 3e-3 (its defaults but for the rate)",
}
BEGIN = re.compile(rf"{MODEL}: ([\d,]+) parameters, (.+)")
EPOCH = re.compile(r"epoch \d+/\d+: .*validation: .*accuracy ([\d.]+)%.*; (\d+) images/s")


@dataclass
class Training:
    """What one trainer printed, and when. One entry of each list an epoch."""

    setting: str = ""  # device and precision
    seconds: list[float] = field(default_factory=list)  # since the first step, at the end of the epoch's validation
    accuracy: list[float] = field(default_factory=list)  # on the validation images
    rate: list[float] = field(default_factory=list)  # images/s while training, without the validation
    whole: float = 0.0  # seconds from the start of the process to its end
    parameters: int = 0  # of its network

    def images_per_second(self) -> float:
        return statistics.median(self.rate[1:] or self.rate)  # the first epoch has the start-up

    def reached(self, accuracy: float) -> float | None:
        """Seconds until a validation gave this accuracy or more."""
        pairs = zip(self.seconds, self.accuracy, strict=True)
        return next((seconds for seconds, reached in pairs if reached >= accuracy), None)


def main() -> None:
    arguments = parse()
    missing = [name for trainer in arguments.trainers for name in PACKAGES[trainer] if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install -r benchmarks/requirements.txt")
    params = load_params()
    claim()
    gpu = torch.cuda.is_available()
    # fp32 on every CPU: fastai's mixed precision is for GPUs alone
    precision = choose_precision(params["train"]["precision"], torch.device("cuda")) if gpu else "fp32"
    dataset = "cifake" if os.environ.get("CIFAKE_SOURCE") else "sample"
    workers = arguments.workers if arguments.workers is not None else min(8, os.cpu_count() or 1) if gpu else 0

    spec = model_entry(params | {"model": MODEL})
    params["train"]["precision"] = precision
    params["train"]["augment"]["corruption"] = 0  # the others have nothing like it
    params |= {"model": MODEL, "dataset": dataset}

    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary)
        for folder in ("stages", "detector", "benchmarks"):
            shutil.copytree(folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
        YAML().dump(params, project / "params.yaml")
        counts, mean, std, seconds = make_data(project, params | {"dataset": dataset}, arguments.images)
        task = {
            "model": MODEL,
            "spec": spec | {"epochs": arguments.epochs},
            "augment": params["train"]["augment"],
            "seed": params["seed"],
            "precision": precision,
            "workers": workers,
            "mean": mean,
            "std": std,
        }
        (project / "task.json").write_text(json.dumps(task))

        trainings: dict[str, Training] = {}
        epochs = {name: spec["epochs"] if name == "ours" else arguments.epochs for name in arguments.trainers}
        try:
            with tqdm(total=sum(epochs.values()), unit=" epochs", disable=None) as bar:
                for name in arguments.trainers:
                    bar.set_description(name)
                    trainings[name] = train(name, project, bar)
        finally:  # whatever stops one trainer, those before it may have taken hours
            if trainings:
                report(trainings, params, counts, seconds, workers, arguments.accuracy)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainers", nargs="*", metavar="trainer", help=f"{', '.join(NAMES)} (default: all)")
    parser.add_argument("--images", type=int, default=50_000, help="of a class, validation included (%(default)s: all)")
    parser.add_argument("--epochs", type=int, default=8, help="of the others (%(default)s)")
    parser.add_argument("--accuracy", type=float, default=0.97, help="the time to which is measured (%(default)s)")
    parser.add_argument("--workers", type=int, help="of the others' DataLoaders (one a core up to 8; 0 without a GPU)")
    arguments = parser.parse_args()
    arguments.trainers = arguments.trainers or list(NAMES)
    if unknown := set(arguments.trainers) - set(NAMES):
        parser.error(f"no trainer {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if min(arguments.images, arguments.epochs) < 1:
        parser.error("--images and --epochs are 1 or more")
    if not 0 < arguments.accuracy < 1:
        parser.error("--accuracy is a share, such as 0.9")
    return arguments


def make_data(
    project: Path, params: dict[str, Any], images: int
) -> tuple[tuple[int, int], list[float], list[float], float]:
    """Write the same images twice: data/train and data/val as `prepare` does, and the source's JPEG bytes in folders.

    Returns the numbers of images to train and to validate on, mean and standard deviation, and the seconds that
    decoding, checking and packing took.
    """
    dataset, entry, choices = params["dataset"], dataset_entry(params), params["prepare"]
    whole = open_source(dataset, entry)[1]["train"]
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(np.flatnonzero(whole.labels == c))[:images] for c in (FAKE, REAL)])
    subset = whole.only(rows)

    started = time.perf_counter()
    with tqdm(total=len(rows), desc="decode", unit=" images", unit_scale=True, disable=None) as bar:
        decoded = decode_split(subset, entry, False, project / "data", bar)
    groups = group_ids(len(decoded), links_of(decoded.hashes))
    fraction, seed = choices["val_fraction"], choices["seed"]
    in_val = cut_off(decoded.labels, decoded.object_class, groups, fraction, seed, "prepare.val_fraction")
    info = {"dataset": dataset, "fit": "stretch", "reencode": None}
    for name, chosen in (("train", ~in_val), ("val", in_val)):
        pack(project / "data" / name, info | {"name": name}, decoded, chosen)
    seconds = time.perf_counter() - started

    for split, chosen in (("train", ~in_val), ("val", in_val)):
        folders = [project / "images" / split / name for name in CLASSES]
        for folder in folders:
            folder.mkdir(parents=True)
        for row, label in zip(decoded.rows[chosen], decoded.labels[chosen], strict=True):
            (folders[label] / f"{row}.jpg").write_bytes(subset.read(row))
    mean, std = channel_statistics(load_split(project / "data/train").images.blocks())
    counts = int((~in_val).sum()), int(in_val.sum())
    return counts, list(mean), list(std), seconds


def train(name: str, project: Path, bar: tqdm) -> Training:
    environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"}
    command = [sys.executable, "-u", "-m", "stages.train"]
    if name != "ours":
        command = [sys.executable, "-u", "-m", "benchmarks.other_trainers", name, "task.json"]
    log = project / f"{name}.log"
    training = Training()
    began = first_step = time.perf_counter()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                now = time.perf_counter()
                if found := BEGIN.search(line):
                    training.parameters, training.setting = int(found[1].replace(",", "")), found[2]
                    first_step = now
                elif found := EPOCH.search(line):
                    training.seconds.append(now - first_step)
                    training.accuracy.append(float(found[1]) / 100)
                    training.rate.append(float(found[2]))
                    bar.set_postfix_str(f"{found[1]} %, {found[2]} images/s")
                    bar.update()
        except BaseException:
            process.kill()
            raise
    training.whole = time.perf_counter() - began
    if process.returncode or not training.seconds:
        sys.stderr.write(log.read_text())
        raise UserError(f"{name} failed with exit status {process.returncode}: see above")
    return training


def object_parameters(spec: dict[str, Any], options: dict[str, Any]) -> int:
    """How many parameters the outputs have that learn which object an image shows: ours has them while it trains."""
    ours, others = make_network(spec, options, 32, torch.device("cpu"), "fp32"), build(spec)
    return sum(parameter.numel() for parameter in ours.parameters()) - sum(
        parameter.numel() for parameter in others.parameters()
    )


def versions(trainers: list[str]) -> str:
    packages = ["torch", "torchvision", "timm", *(name for trainer in trainers for name in PACKAGES[trainer])]
    return ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(packages))


def report(
    trainings: dict[str, Training],
    params: dict[str, Any],
    counts: tuple[int, int],
    packing: float,
    workers: int,
    accuracy: float,
) -> None:
    """Print the Markdown. `counts`: images to train and to validate on; `packing`: seconds that our splits took."""
    spec = model_entry(params | {"model": MODEL})
    if ours := trainings.get("ours"):
        ours.parameters -= object_parameters(spec, params["train"])
    networks = {(f"{training.parameters:,} parameters", training.setting) for training in trainings.values()}
    if len(networks) > 1:
        different = "; ".join(", ".join(network) for network in networks)
        raise UserError(f"not the same network, device or precision, so nothing to compare: {different}")
    ((_, setting),) = networks
    print("# Trainers\n")
    print(f"{MODEL}; {setting}; {os.cpu_count()} cores; {versions(list(trainings))}; {date.today()}.\n")
    print(f"- {params['dataset']}: {counts[0]:,} images to train on, {counts[1]:,} to validate on")
    print(
        "- the same for all: the images, the network (of params.yaml, made by stages.model.build, small-map "
        f"convolutions included), channels_last, batches of {spec['batch_size']}, precision, "
        "flipped and translated images, device and threads"
    )
    print(f"- ours reads splits that were decoded, checked and packed once, in {packing:.1f} s, not counted below")
    print(f"- the others decode JPEG files at every use, with {workers} DataLoader workers")
    for name in trainings:
        print(f"- {name}, {NAMES[name]}: {RECIPES[name]}")
    print(f"\n{table(trainings, accuracy)}\n")
    print(
        "Images/s: while training, the median of the epochs without the first. Seconds to an accuracy: from the first "
        "step to the end of the first validation that gave it. Whole process: with imports and what follows training.\n"
    )
    print("Validation accuracy at seconds since the first step, after each epoch:\n")
    for name, training in trainings.items():
        pairs = zip(training.accuracy, training.seconds, strict=True)
        print(f"- {name}: {', '.join(f'{reached:.2%} at {seconds:.0f} s' for reached, seconds in pairs)}")


def table(trainings: dict[str, Training], accuracy: float) -> str:
    """The Markdown table. Ratios say how many times as fast ours is."""
    goal = f"{accuracy * 100:g} %"
    header = ["trainer", "images/s", "ours is", f"seconds to {goal}", "ours is", "best accuracy", "whole process"]
    ours = trainings.get("ours")
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for name, training in trainings.items():
        rate, reached = training.images_per_second(), training.reached(accuracy)
        reference = ours if name != "ours" else None
        our_reached = reference.reached(accuracy) if reference else None
        sooner = times((reached or training.seconds[-1]) / our_reached) if our_reached else ""
        rows.append(
            [
                f"{name}, {NAMES[name]}",
                f"{rate:,.0f}",
                times(reference.images_per_second() / rate) if reference else "",
                f"not in {len(training.seconds)} epochs" if reached is None else f"{reached:.0f}",
                sooner if reached or not sooner else f"more than {sooner}",
                f"{max(training.accuracy):.2%}",
                f"{training.whole:.0f} s",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def times(ratio: float) -> str:
    return f"{ratio:.2f} times as fast"


if __name__ == "__main__":
    run(main)
