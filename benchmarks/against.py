"""Another checkout of this repository beside this one: is a stage quicker, and does it still write the same bytes?

    git worktree add ../before 8c00f5e
    python -m benchmarks.against ../before train > benchmarks/results/train_against.md
    python -m benchmarks.against ../before evaluate > benchmarks/results/evaluate_against.md

Both are cloned as they are committed, and prepare the embedded sample. Then they take turns, so that whatever else the
machine does meets both alike. `train` is compared by the images/s that it prints for each epoch, `evaluate`, with all
its corruptions and 100 explanations, by the seconds of the whole program. `evaluate` measures the released models.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.heading import heading
from benchmarks.trainers import EPOCH
from detector.errors import UserError, run
from detector.files import file_sha256
from stages.device import claim
from stages.params import load_params

MODELS = {"train": ["quick", "resnet18", "vit_tiny"], "evaluate": ["resnet18_imagenet", "vit_tiny"]}
OUTPUTS = {
    "train": ["models/trained/model.safetensors"],
    "evaluate": ["metrics/test_scores.parquet", "metrics/robustness.json", "metrics/test.json"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="the folder of the other checkout")
    parser.add_argument("stage", choices=MODELS)
    parser.add_argument(
        "models", nargs="*", metavar="model", help="default: quick resnet18 vit_tiny; for evaluate the released ones"
    )
    parser.add_argument("--turns", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of a training (default: %(default)s)")
    arguments = parser.parse_args()
    load_params()  # says so when this is not the root of the repository
    claim()
    stage, models = arguments.stage, arguments.models or MODELS[arguments.stage]
    commits = (f"{side} {commit_of(folder)}" for side, folder in (("before", arguments.before), ("after", ".")))
    print(heading(f"{stage} before and after", *commits))
    print(f"| | before | after | after / before, of {arguments.turns} turns | the same bytes |")
    print("| --- | ---: | ---: | ---: | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        sides = [clone(arguments.before, Path(temporary, "before")), clone(".", Path(temporary, "after"))]
        for model in models:
            for side in sides:
                choose(side, model, arguments.epochs)
                if stage == "evaluate":
                    shutil.copytree(Path("models", model), side / "models/trained", dirs_exist_ok=True)
            found: list[list[float]] = [[], []]
            for _ in tqdm(range(arguments.turns), desc=model, unit=" turns", disable=None):
                for side, numbers in zip(sides, found, strict=True):
                    numbers.append(images_per_second(side) if stage == "train" else seconds(side))
            before, after = map(statistics.median, found)
            ratios = sorted(b / a for a, b in zip(*found, strict=True))
            same = all(file_sha256(sides[0] / file) == file_sha256(sides[1] / file) for file in OUTPUTS[stage])
            unit, digits = ("images/s", 0) if stage == "train" else ("s", 1)
            print(
                f"| {model} | {before:,.{digits}f} {unit} | {after:,.{digits}f} {unit} | "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {'yes' if same else 'no'} |",
                flush=True,
            )


def commit_of(checkout: str) -> str:
    return output_of(Path.cwd(), "git", "-C", checkout, "rev-parse", "HEAD")[:10]


def clone(checkout: str, folder: Path) -> Path:
    """Clone what is committed in a checkout, and prepare the sample there. Returns the folder."""
    output_of(Path.cwd(), "git", "clone", "--quiet", checkout, str(folder))
    choose(folder, "quick", 1)
    output_of(folder, sys.executable, "-m", "stages.prepare")
    return folder


def choose(folder: Path, model: str, epochs: int) -> None:
    """Write a clone's params.yaml for a short run of the model on the sample."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["dataset"], params["model"] = "sample", model
    params["models"][model]["epochs"] = epochs
    params["evaluate"]["explained"] = 100
    yaml.dump(params, folder / "params.yaml")


def images_per_second(folder: Path) -> float:
    """Train from the start. Returns the median over the epochs."""
    shutil.rmtree(folder / ".dvc/tmp", ignore_errors=True)  # or a finished training would not run again
    said = output_of(folder, sys.executable, "-m", "stages.train")
    return statistics.median(float(match[2]) for match in EPOCH.finditer(said))


def seconds(folder: Path) -> float:
    began = time.perf_counter()
    output_of(folder, sys.executable, "-m", "stages.evaluate")
    return time.perf_counter() - began


def output_of(folder: Path, *words: str) -> str:
    """Run a program in a folder. Returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{' '.join(words[1:])} in {folder.name}: {why}")
    return done.stdout


if __name__ == "__main__":
    run(main)
