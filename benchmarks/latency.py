"""How long an answer takes, and how much has to be downloaded for it: a row of docs/leaderboard.md for each model.

    python -m benchmarks.latency > benchmarks/results/latency.json

Each released model answers about the test images of the embedded sample as JPEG files in memory, one at a time and then
64 at a time, on all cores, after a first hundred. The first answer is that of `python -m detector` on one picture, from
the start of the process: the best of five.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pyarrow.parquet

from benchmarks import plain_environment  # noqa: F401
from detector import Detector
from detector.errors import run
from detector.released import DEFAULT
from stages.device import device_name

SAMPLE = "data/sample/test.parquet"
PICTURE = "app/static/examples/ship.png"
WARM = 100  # pictures before the clock starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[Path(DEFAULT).name, "vit_tiny"], help="(default: %(default)s)")
    folders = [Path("models") / name for name in parser.parse_args().models]
    pictures = [row["bytes"] for row in pyarrow.parquet.read_table(SAMPLE)["image"].to_pylist()]
    result = {
        "machine": device_name(),
        "onnxruntime": version("onnxruntime"),
        "date": date.today().isoformat(),
        "models": {folder.name: measure(folder, pictures) for folder in folders},
    }
    print(json.dumps(result, indent=1))


def measure(folder: Path, pictures: list[bytes]) -> dict[str, float]:
    detector = Detector.load(folder)
    detector.predict(pictures[:WARM])
    seconds = []
    for picture in pictures:
        began = time.perf_counter()
        detector.predict([picture])
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    detector.predict(pictures)
    together = time.perf_counter() - began
    return {
        "megabytes": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
        "milliseconds": round(1000 * median(seconds), 2),
        "pictures_per_second": round(len(pictures) / together),
        "first_answer_seconds": round(min(first_answer(folder) for _ in range(5)), 2),
    }


def first_answer(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "detector", PICTURE, "--model", folder], check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
