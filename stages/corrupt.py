"""Images as they come out of the web: what `evaluate` measures a detector on, beside the images as they are.

Made by the libraries that people's images go through, in whole numbers, with fixed random numbers: the same images for
every model. Training has its own, quicker approximations of them (stages/augment.py).
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from detector.images import decode

CHUNK = 1000  # images at a time: as float64 they take eight times the memory


def corrupt(images: np.ndarray, kind: str, strength: float) -> np.ndarray:
    """uint8 (N, H, W, 3) -> uint8 (N, H, W, 3). Kinds and what their strength is:

    noise: Gaussian, its standard deviation (of 1). blur: Gaussian, its sigma in pixels. jpeg: encoded and decoded, with
    4:2:0 chroma, at that quality. rescale: bicubic to that many pixels in height and width, and back.
    """
    random = np.random.default_rng(0)
    chunks = [KINDS[kind][0](images[i : i + CHUNK], strength, random) for i in range(0, len(images), CHUNK)]
    return np.concatenate(chunks)


def noise(images: np.ndarray, sd: float, random: np.random.Generator) -> np.ndarray:
    return to_uint8(images + 255 * sd * random.standard_normal(images.shape))


def blur(images: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    return to_uint8(gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0)))


def jpeg(images: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    decoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
        decoded.append(decode(file.getvalue()))
    return np.stack(decoded)


def rescale(images: np.ndarray, size: float, _: np.random.Generator) -> np.ndarray:
    height, width = images.shape[1:3]
    pictures = [Image.fromarray(image).resize((int(size), int(size)), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)) for picture in pictures])


def to_uint8(images: np.ndarray) -> np.ndarray:
    return images.round().clip(0, 255).astype(np.uint8)


# With the least and the largest strength.
KINDS: dict[str, tuple[Callable[[np.ndarray, float, np.random.Generator], np.ndarray], float, float]] = {
    "noise": (noise, 0.001, 1),
    "blur": (blur, 0.1, 16),
    "jpeg": (jpeg, 1, 95),
    "rescale": (rescale, 1, 1024),
}
