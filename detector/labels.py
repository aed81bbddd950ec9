"""The two labels, and how a network's logit becomes a probability and a verdict.

Label 0 is FAKE and 1 is REAL in storage; the positive class of every metric, and the probability that people see, is
FAKE.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FAKE, REAL = 0, 1
CLASSES: tuple[Literal["FAKE"], Literal["REAL"]] = ("FAKE", "REAL")


def probability(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return P(FAKE) = sigmoid(logit / temperature) of logits of FAKE, (N).

    In float64: in float32 every logit above 17 would tie at 1. By logaddexp, which overflows for no logit.
    """
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64) / temperature))


def is_answered(p_fake: NDArray[np.float64], abstention_band: tuple[float, float]) -> NDArray[np.bool_]:
    """Return which P(FAKE), (N), lie outside the abstention band: the others are UNSURE."""
    low, high = abstention_band
    return (p_fake < low) | (p_fake > high)


def verdict(p_fake: float, abstention_band: tuple[float, float]) -> str:
    """Return FAKE, REAL, or UNSURE inside the abstention band."""
    low, high = abstention_band
    return "REAL" if p_fake < low else "FAKE" if p_fake > high else "UNSURE"
