"""Asking a model: `python -m detector`'s path beside a Hugging Face `pipeline("image-classification")`.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.ask > benchmarks/results/ask.md
    python -m benchmarks.ask --images 1000 --batch-sizes 1 64                a quick look

JPEG files of the test split on disk in, an answer for each out. The pipeline has the same network with the same weights
(timm, in transformers' TimmWrapper); it scores each image once, while ours scores the flipped image as well where the
logit is near 0 (flip test-time augmentation). Each runs in a process of its own with all cores, and is timed after a
first hundred files. The answers must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import plain_environment  # noqa: F401
from benchmarks.heading import heading, model_fact
from detector import Detector
from detector.errors import UserError, run
from detector.released import DEFAULT
from stages.data import load_split

WARM = 100  # files before the clock starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=5_000, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1, 8, 64, 256],
        help="of the pipeline, whose own default is 1 (default: %(default)s)",
    )
    parser.add_argument("--one", metavar="WAY", help=argparse.SUPPRESS)  # in its own process: ours, or a batch size
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        time_answers(arguments.one, arguments.model, sorted(map(str, Path(arguments.folder).iterdir())))
        return
    if find_spec("transformers") is None:
        raise UserError("transformers not installed: pip install -r benchmarks/requirements.txt")

    images = load_split("data/test").images[: arguments.images]
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            Image.fromarray(image).save(f"{folder}/{number:06}.jpg", quality=95)
        results = {}
        for way in ["ours", *map(str, arguments.batch_sizes)]:
            print(f"{way} ...", file=sys.stderr)
            command = [sys.executable, "-m", "benchmarks.ask", "--one", way, "--folder", folder]
            done = subprocess.run([*command, "--model", arguments.model], capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"{way}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
            results[way] = json.loads(done.stdout.splitlines()[-1])
    detector = Detector.load(arguments.model)
    fact, record = model_fact(detector.title, detector.sha256), detector.record
    print(heading("Asking a model", fact, versions=("torch", "onnxruntime", "transformers")))
    print(report(record.model, record.flip_tta_margin, len(images), results))


def time_answers(way: str, model: str, files: list[str]) -> None:
    """Print the images/s, and P(FAKE) of every file."""
    answer = ours(model) if way == "ours" else pipeline(model, int(way))
    answer(files[:WARM])
    began = time.perf_counter()
    p_fake = answer(files)
    seconds = time.perf_counter() - began
    print(json.dumps({"rate": len(files) / seconds, "p_fake": p_fake}))


def ours(model: str) -> Any:
    detector = Detector.load(model)
    return lambda files: [prediction.p_fake for prediction in detector.predict(files)]


def pipeline(model: str, batch_size: int) -> Any:
    """transformers' own, around the same network: of timm's, TimmWrapper would build the one without our stem."""
    import torch
    import transformers

    from stages.model import load_model

    transformers.utils.logging.disable_progress_bar()
    network, record = load_model(model)
    size, temperature = record.input_size, record.temperature

    class BothClasses(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logit = self.network(pixels) / temperature
            return torch.cat([torch.zeros_like(logit), logit], 1)

    config = transformers.TimmWrapperConfig(
        architecture=record.timm, num_labels=2, label2id={"REAL": 0, "FAKE": 1}, id2label={0: "REAL", 1: "FAKE"}
    )
    wrapper = transformers.TimmWrapperForImageClassification(config)
    wrapper.timm_model = BothClasses()
    prepared = {"input_size": (3, size, size), "mean": list(record.mean), "std": list(record.std), "crop_pct": 1.0}
    processor = transformers.TimmWrapperImageProcessor(prepared | {"interpolation": "bicubic"})
    ask = transformers.pipeline("image-classification", model=wrapper.eval(), image_processor=processor, device="cpu")

    def answer(files: list[str]) -> list[float]:
        # a list would be taken apart into single pictures; a generator is batched
        answers = ask((file for file in files), batch_size=batch_size)
        return [one["score"] for labels in answers for one in labels if one["label"] == "FAKE"]

    return answer


def report(model: str, flip_tta_margin: float, images: int, results: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table. Raises UserError where the ways do not agree on what is in front of them."""
    first = np.array(results["ours"]["p_fake"]) > 0.5
    flips = (
        "scores the flipped image as well where the logit is near 0" if flip_tta_margin else "scores each image once"
    )
    lines = [
        f"{images:,} images of the test split as JPEG files, {model}. Ours {flips}.\n",
        "| | images/s | ours is | on the same side of 0.5 |\n| --- | ---: | ---: | ---: |",
    ]
    for way, result in results.items():
        name = "`Detector.predict`" if way == "ours" else f"`pipeline`, batch size {way}"
        agree = float((first == (np.array(result["p_fake"]) > 0.5)).mean())
        if agree < 0.9:
            raise UserError(f"{name} gives other answers: only {agree:.1%} of P(FAKE) lie on the same side of 0.5")
        ratio = results["ours"]["rate"] / result["rate"]
        cells = ["", ""] if way == "ours" else [f"{ratio:.1f} times as fast", f"{agree:.1%}"]
        lines.append(f"| {name} | {result['rate']:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
