"""What becomes of a picture before a network sees it. No decoder is imported here: asking leaves those to workers."""

from dataclasses import dataclass

import numpy as np

from detector.errors import UserError


@dataclass(frozen=True)
class Preprocessed:
    """A picture made ready: pixels, uint8 (size, size, 3), RGB, and the notes on what was done to it.

    seen_region: which part of the upright picture the pixels show: left, top, right and bottom, as shares of its width
    and height. (0, 0, 1, 1) is all of it.
    """

    pixels: np.ndarray
    notes: list[str]
    seen_region: tuple[float, float, float, float]


class TooManyPixelsError(UserError):
    """A picture that is refused for its size."""
