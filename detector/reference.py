"""What a model's validation pictures were like: the reference that pictures are compared with when they arrive.

`export` writes it beside the model; `python -m detector drift` and the service read it. It holds numbers, no pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from detector.errors import UserError
from detector.record import ExportedRecord
from detector.sizes import images_at_a_time
from detector.two_sample import Rows

if TYPE_CHECKING:
    from detector.session import Scores

FILE = "reference.safetensors"
MOST = 10_000  # pictures
COMPONENTS = 16
STATISTICS_AT_A_TIME = 1000  # pictures of 32 px
STEPS = 16  # of a standard deviation, to which features are rounded
LARGEST = 60_000.0  # float16 ends at 65,504

# The scalars of a picture, and what they are called for people.
SCALARS = {
    "logit": "score (the logit of FAKE)",
    "ood_score": "OOD score",
    "brightness": "brightness",
    "contrast": "contrast",
    "saturation": "saturation",
    "warmth": "warmth (red minus blue)",
    "sharpness": "sharpness",
}


class Images(Protocol):
    """uint8 (N, S, S, 3), in memory or in a packed split."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice) -> np.ndarray: ...


@dataclass(frozen=True)
class Reference:
    """What is kept of a validation split.

    ood_threshold: the OOD score above which a picture is out of distribution. rows: of the split's pictures; their
    features are the largest COMPONENTS principal components of the features that the OOD score is made of. Those were
    fitted to training images: fitted to the split, they would fit new pictures less well, and raise false alarms.
    """

    ood_threshold: float
    rows: Rows

    @classmethod
    def fit(cls, scores: "Scores", statistics: np.ndarray, ood_threshold: float) -> "Reference":
        """Keep MOST pictures of a validation split, of what the model says of them and their `statistics_of`."""
        chosen = np.sort(np.random.default_rng(0).permutation(len(statistics))[:MOST])
        scores = type(scores)(*(part[chosen] for part in scores))
        return cls(ood_threshold, make_rows(scores, statistics[chosen], ood_threshold))

    def rows_of(self, images: np.ndarray, scores: "Scores") -> Rows:
        """Return what the tests compare, of images, uint8 (N, S, S, 3), that the model scored."""
        return make_rows(scores, statistics_of(images), self.ood_threshold)

    def write(self, folder: Path) -> None:
        features = (self.rows.features * STEPS).astype(np.int8)
        save_file({"features": features, "scalars": self.rows.scalars.astype(np.float16)}, folder / FILE)

    @classmethod
    def read(cls, folder: Path, record: ExportedRecord) -> "Reference":
        """Raises UserError where the model has none, or another one's."""
        if record.adapted is not None:
            raise UserError(
                f"{folder} is an adapted model, which has no validation split to compare with: name the model that it "
                f"was made from, --model models/{record.adapted.base}"
            )
        if FILE not in record.sha256:
            raise UserError(
                f"{folder} has no {FILE} to compare pictures with: pull a newer release (`git pull`, `dvc pull "
                f"{folder}`), or export your own model anew (`dvc repro export`)"
            )
        try:
            record.check_files(folder, FILE)
        except FileNotFoundError:
            raise UserError(f"no {FILE} in {folder}: fetch or make the folder anew") from None
        stored = load_file(folder / FILE)
        features, scalars = stored["features"].astype(np.float32) / STEPS, stored["scalars"].astype(np.float32)
        threshold = record.out_of_distribution.threshold
        rows = Rows(features, scalars, is_far(scalars, threshold))
        return cls(threshold, rows)


def make_rows(scores: "Scores", statistics: np.ndarray, ood_threshold: float) -> Rows:
    """Return what the tests compare, rounded as a reference is stored, to 8 and 16 bits: nothing may differ by the
    rounding alone."""
    largest = scores.features[:, -COMPONENTS:] * np.sqrt(scores.features.shape[1])  # to deviations of 1
    features = (largest * STEPS).round().clip(-127, 127) / STEPS
    scalars = np.column_stack([scores.logits, scores.ood_scores, statistics]).clip(-LARGEST, LARGEST)
    scalars = scalars.astype(np.float16).astype(np.float32)
    return Rows(features.astype(np.float32), scalars, is_far(scalars, ood_threshold))


def is_far(scalars: np.ndarray, ood_threshold: float) -> np.ndarray:
    """Return which pictures are out of distribution, bool (N), by their scalars (N, K)."""
    return scalars[:, list(SCALARS).index("ood_score")] > ood_threshold


def statistics_of(images: Images) -> np.ndarray:
    """Return brightness, contrast, saturation, warmth and sharpness of images, uint8 (N, S, S, 3): float32 (N, 5)."""
    step = images_at_a_time(STATISTICS_AT_A_TIME, images.shape[1])
    return np.concatenate([block_statistics(images[start : start + step]) for start in range(0, len(images), step)])


def block_statistics(images: np.ndarray) -> np.ndarray:
    """On the scale of 0 to 255: mean and standard deviation of the luma; the mean distance between a pixel's largest
    and smallest colour; the mean of red minus blue; the standard deviation of the Laplacian of the luma."""
    colours = images.astype(np.float32)
    luma = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    inside = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return np.column_stack(
        [
            luma.mean((1, 2)),
            luma.std((1, 2)),
            np.ptp(colours, axis=3).mean((1, 2)),
            (colours[..., 0] - colours[..., 2]).mean((1, 2)),
            (around - 4 * inside).std((1, 2)),
        ]
    )
