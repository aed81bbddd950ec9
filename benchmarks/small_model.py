"""What a smaller file costs: released models with float16 and int8 weights, on CIFAKE's validation split.

    python -m benchmarks.small_model > benchmarks/results/small_model.md          some ten minutes

The test split stays unread: it is `evaluate`'s.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.heading import heading, model_fact
from detector.errors import run
from detector.folder import read_record
from detector.labels import FAKE, probability
from detector.released import DEFAULT
from detector.session import score
from stages.data import load_split
from tools.small_model import MOST_BYTES, SmallModel, expand, shrink

BATCH = 500
SIZES = {"as released": 10**9, "int8 where it must be": MOST_BYTES, "int8": 0}
COLUMNS = [
    *("model", "weights", "MB", "right, %", "other verdict, %", "P(FAKE) within 0.02, %", "P(FAKE), at most"),
    "OOD score, at most, %",
]


def open_small(model: SmallModel) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    names, arrays = zip(*expand(model.weights).items(), strict=True)
    buffers = [array.tobytes() for array in arrays]
    options.add_external_initializers_from_files_in_memory(list(names), buffers, [len(one) for one in buffers])
    return onnxruntime.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="data/val", help="the folder of a packed split (default: %(default)s)")
    split = load_split(parser.parse_args().split)
    opposite = 0
    records = {folder: read_record(folder) for folder in (Path(DEFAULT), Path("models/vit_tiny"))}
    facts = [model_fact(folder.name, sha256) for folder, (_, sha256) in records.items()]
    print(heading("Smaller weights", *facts, versions=("onnxruntime",)))
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"| --- | ---{' | ---:' * (len(COLUMNS) - 2)} |")
    for folder, (record, _) in records.items():
        released = None
        for weights, most in SIZES.items():
            small = shrink(folder, most)
            session = open_small(small)
            starts = range(0, len(split.images), BATCH)
            scores = [score(session, split.images[start : start + BATCH], record.flip_tta_margin) for start in starts]
            p = probability(np.concatenate([one.logits for one in scores]), record.temperature)
            ood = np.concatenate([one.ood_scores for one in scores])
            verdicts = np.digitize(p, record.abstention_band)  # 0 REAL, 1 UNSURE, 2 FAKE
            released = (p, ood, verdicts) if released is None else released
            change, other = np.abs(p - released[0]), np.abs(verdicts - released[2])
            cells = [
                f"{sum(map(len, small)) / 1e6:.1f}",
                f"{100 * ((p >= record.threshold) == (split.labels == FAKE)).mean():.2f}",
                f"{100 * (other > 0).mean():.2f}",
                f"{100 * (change <= 0.02).mean():.2f}",
                f"{change.max():.3f}",
                f"{100 * np.abs(ood / released[1] - 1).max():.2f}",
            ]
            print(f"| {folder.name} | {weights} | {' | '.join(cells)} |", flush=True)
            opposite += int((other == 2).sum())
    print(f"\nREAL became FAKE, or FAKE REAL: {opposite}")


if __name__ == "__main__":
    run(main)
