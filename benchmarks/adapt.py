"""What `python -m detector adapt` is worth on pictures that it was not adapted to.

    python -m benchmarks.adapt --real TRAIN.parquet TEST.parquet --fake flow TRAIN.parquet TEST.parquet \\
        > benchmarks/results/adapt.md

Tables as those of CIFAKE: columns `image` (bytes) and `label`. From the first of each pair, 20, 50 and 100 photographs
and as many fakes are drawn three times, written as files, and a released model is adapted to them. It is then asked
about 600 photographs and 600 fakes of the second. `--fake` may be given several times.
"""

import argparse
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

from benchmarks.heading import heading, model_fact
from detector import Detector
from detector.adapt import adapt
from detector.errors import run
from detector.features import write_extractor
from detector.head import Head, extract
from detector.labels import FAKE, REAL, is_answered, probability
from detector.record import ExportedRecord
from detector.released import DEFAULT
from detector.session import open_session

SIZES, DRAWS, OTHERS = (20, 50, 100), 3, 600
COLUMNS = ("before", "accuracy", "in cross-validation", "UNSURE", "right, of the others", "out of distribution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs=2, required=True, metavar=("TRAIN", "TEST"))
    parser.add_argument("--fake", nargs=3, required=True, action="append", metavar=("NAME", "TRAIN", "TEST"))
    parser.add_argument("--model", type=Path, default=DEFAULT, help="(default: %(default)s)")
    options = parser.parse_args()
    base = Detector.load(options.model)
    print(heading("Adapted to a few pictures", model_fact(base.title, base.sha256)))
    print(f"In %, on {OTHERS} photographs and {OTHERS} fakes that it was not adapted to; mean of {DRAWS} draws ± their")
    print("standard deviation. *before* is the accuracy of the model that was adapted.\n")
    print(f"| adapted to | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    train, test = (pictures(path, REAL) for path in options.real)
    with TemporaryDirectory() as extractor:
        write_extractor(Path(extractor))
        for name, *paths in options.fake:
            fake_train, fake_test = (pictures(path, FAKE) for path in paths)
            others = Others(options.model, Path(extractor), draw(test, OTHERS, 0), draw(fake_test, OTHERS, 0))
            for size in SIZES:
                rows = []
                for seed in range(DRAWS):
                    with TemporaryDirectory() as temporary:
                        folder = Path(temporary)
                        write(draw(train, size, seed), folder / "real")
                        write(draw(fake_train, size, seed), folder / "fake")
                        with contextlib.redirect_stderr(io.StringIO()):
                            record = adapt(folder / "real", folder / "fake", options.model, folder / "model")
                        accuracy, *more = others.answers(folder / "model")
                        rows.append([accuracy, record.validation.accuracy, *more])
                cells = [spread(column) for column in zip(*rows, strict=True)]
                print(f"| {name}, {size} + {size} | {100 * others.before:.1f} | {' | '.join(cells)} |", flush=True)


class Others:
    """Pictures that no model was adapted to. What all adapted models compute of them is computed once."""

    def __init__(self, model: Path, extractor: Path, photographs: Sequence[bytes], fakes: Sequence[bytes]) -> None:
        base = Detector.load(model)
        pixels = np.stack([base.preprocess(data).pixels for data in [*photographs, *fakes]])
        self.is_fake = np.repeat([False, True], [len(photographs), len(fakes)])
        self.logits = base.logits(pixels)
        self.features = np.concatenate(list(extract(open_session(extractor / "features.onnx"), pixels)))
        p_fake = probability(self.logits, base.record.temperature)
        self.before = ((p_fake >= base.record.threshold) == self.is_fake).mean()

    def answers(self, folder: Path) -> list[float]:
        """Return accuracy at the model's threshold, share of UNSURE, accuracy of the others, share out of
        distribution."""
        record = ExportedRecord.read(folder)
        logits, ood_scores = Head.read(folder).score(self.features, self.logits)
        p_fake = probability(logits, record.temperature)
        right = (p_fake >= record.threshold) == self.is_fake
        answered = is_answered(p_fake, record.abstention_band)
        selective = right[answered].mean() if answered.any() else np.nan
        far = ood_scores > record.out_of_distribution.threshold
        return [float(value) for value in (right.mean(), (~answered).mean(), selective, far.mean())]


def spread(shares: Sequence[float]) -> str:
    """Return mean and standard deviation in %; a dash where one is not there, as of no answers."""
    return "-" if np.isnan(shares).any() else f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1):.1f}"


def pictures(path: str, label: int) -> list[bytes]:
    """Return the files of one class."""
    return [row["image"]["bytes"] for row in pq.read_table(path).to_pylist() if row["label"] == label]


def draw(files: Sequence[bytes], count: int, seed: int) -> list[bytes]:
    return [files[place] for place in np.random.default_rng(seed).permutation(len(files))[:count]]


def write(files: Sequence[bytes], folder: Path) -> None:
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number:03}.jpg").write_bytes(data)


if __name__ == "__main__":
    run(main)
