"""What becomes of a picture before a network sees it. No decoder is imported here: asking leaves those to workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from detector.errors import UserError

SAYS_LITTLE = "the answer says little"  # the end of notes that weigh more than the verdict


@dataclass(frozen=True)
class Claim:
    """What a picture file itself says of how it was made (detector/claims.py).

    source: where in the file it stands, such as `EXIF Software`, `PNG parameters` or `C2PA`. says: what it says, in one
    line. signed: it is part of Content Credentials whose signature fits the file as it is. What is not signed, anyone
    can have written.
    """

    source: str
    says: str
    signed: bool


@dataclass(frozen=True)
class Preprocessed:
    """A picture made ready: pixels, uint8 (size, size, 3), RGB, and the notes on what was done to it.

    seen_region: which part of the upright picture the pixels show: left, top, right and bottom, as shares of its width
    and height. (0, 0, 1, 1) is all of it. claims: what its file says of how it was made, which decoding workers read;
    of arrays and PIL images there are none. thumbnail: all of the upright picture, uint8 (height, width, 3), where one
    was asked for.
    """

    pixels: np.ndarray
    notes: list[str]
    seen_region: tuple[float, float, float, float]
    claims: list[Claim] = field(default_factory=list)
    thumbnail: np.ndarray | None = None


def says_little(notes: Sequence[str]) -> bool:
    """Return whether the notes of an answer take its worth away."""
    return any(note.endswith(SAYS_LITTLE) for note in notes)


class TooManyPixelsError(UserError):
    """A picture that is refused for its size."""
