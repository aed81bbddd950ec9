"""What an adapted model computes: the frozen extractor's features, a linear head on them, and an OOD score.

`python -m detector adapt` fits it (detector/adapt.py); `Detector` answers with it, by numpy alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file

from detector.errors import UserError
from detector.features import LEAST_SIDE
from detector.sizes import images_at_a_time

HEAD = "head.safetensors"
EXTRACTED = 1000  # pictures of 32 px whose features are computed at a time


@dataclass(frozen=True)
class Head:
    """A logistic regression on D features and the base model's logit, and the Mahalanobis distance of the features.

    center, scale: (D + 1), of the pictures that it was fitted to. weights: (D + 1), bias: (1), of the standardized
    numbers. whitening: float16 (D, D), of the standardized features; the length of the product is the OOD score.
    The others are float32.
    """

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    whitening: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> "Head":
        return cls(**load_file(folder / HEAD))

    def write(self, folder: Path) -> None:
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, folder / HEAD)

    def score(self, features: np.ndarray, base_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, D) and the base model's logits (N) -> logits of FAKE and OOD scores, each float32 (N)."""
        numbers = (np.column_stack([features, base_logits]) - self.center) / self.scale
        logits = numbers @ self.weights + self.bias
        ood_scores = np.linalg.norm(numbers[:, :-1] @ self.whitening.astype(np.float32), axis=1)
        if not (np.isfinite(logits).all() and np.isfinite(ood_scores).all()):
            raise UserError("the adapted model gives scores that are not finite: adapt it anew")
        return logits.astype(np.float32), ood_scores.astype(np.float32)


@dataclass(frozen=True)
class AdaptedPart:
    """What an adapted model has beyond the one that it was made from. extractor: of features.onnx."""

    extractor: onnxruntime.InferenceSession
    head: Head

    def score(self, images: np.ndarray, base_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images, uint8 (N, S, S, 3), and the base model's logits (N) -> what `Head.score` does."""
        return self.head.score(np.concatenate(list(extract(self.extractor, images))), base_logits)


def extract(session: onnxruntime.InferenceSession, images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the features of images, uint8 (N, S, S, 3), some images at a time: float32 (K, D). session: of
    features.onnx."""
    step = images_at_a_time(EXTRACTED, max(images.shape[1], LEAST_SIDE))
    for start in range(0, len(images), step):
        (features,) = session.run(None, {"images": images[start : start + step]})
        yield features
