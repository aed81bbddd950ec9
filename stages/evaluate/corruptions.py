"""Corruptions: test images as they come out of the web, on which `evaluate` measures a detector as well.

They are made by the libraries that people's images go through, with fixed random numbers: the same images for every
model. A new corruption is a function here, its entries in KINDS and SUMMARIES, and a list of strengths in params.yaml.
Training has quicker approximations of its own (stages/train/corruption.py).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from detector.errors import UserError
from detector.images import jpeg_roundtrip
from detector.sizes import REFERENCE_SIDE


def corruption(kind: str, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what corrupts a test split, block by block in order: uint8 (N, H, W, 3) -> uint8 (N, H, W, 3).

    Kinds and what their strength is:

    noise: Gaussian, its standard deviation (of 1). blur: Gaussian, its sigma in pixels of an image of 32 px. jpeg:
    encoded and decoded, with 4:2:0 chroma, at that quality. rescale: bicubic to so many pixels of 32 in height and
    width, and back. Blur and rescaling grow with the side: sigma 0.5 is 3.5 px in an image of 224 px, and 16 of 32 is
    112 of 224.
    """
    random = np.random.default_rng(0)
    return lambda images: KINDS[kind][0](images, strength, random)


def noise(images: np.ndarray, sd: float, random: np.random.Generator) -> np.ndarray:
    return to_uint8(images + 255 * sd * random.standard_normal(images.shape))


def blur(images: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    sigma = sigma * images.shape[1] / REFERENCE_SIDE
    return to_uint8(gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0)))


def jpeg(images: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    return np.stack([jpeg_roundtrip(image, int(quality)) for image in images])


def rescale(images: np.ndarray, size: float, _: np.random.Generator) -> np.ndarray:
    height, width = images.shape[1:3]
    side = max(1, int(size * height / REFERENCE_SIDE))

    def there_and_back(image: np.ndarray) -> np.ndarray:
        rescaled = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(rescaled.resize((width, height), Image.Resampling.BICUBIC))

    return np.stack([there_and_back(image) for image in images])


def to_uint8(images: np.ndarray) -> np.ndarray:
    return images.round().clip(0, 255).astype(np.uint8)


# With the smallest and the largest strength, whatever the side of the images.
KINDS: dict[str, tuple[Callable[[np.ndarray, float, np.random.Generator], np.ndarray], float, float]] = {
    "noise": (noise, 0.001, 1),
    "blur": (blur, 0.1, 16),
    "jpeg": (jpeg, 1, 95),
    "rescale": (rescale, 1, 1024),
}


# metrics/test.json has the mean accuracy over these kinds.
SUMMARIES = {"corrupted_accuracy": ("noise", "blur", "jpeg"), "rescaled_accuracy": ("rescale",)}


def check_corruptions(corruptions: Any) -> None:
    """Raise UserError for `evaluate.corruptions` that `corruption` cannot make, before anything is scored."""
    if not isinstance(corruptions, dict) or not set(corruptions) <= set(KINDS):
        raise UserError(f"evaluate.corruptions in params.yaml takes lists of strengths, of {', '.join(KINDS)}")
    for kind, strengths in corruptions.items():
        _, low, high = KINDS[kind]
        numbers = strengths if isinstance(strengths, list) else []
        if not numbers or not all(isinstance(n, int | float) and low <= n <= high for n in numbers):
            raise UserError(
                f"evaluate.corruptions.{kind} is {strengths!r} in params.yaml: a list of numbers from {low} to {high}"
            )
