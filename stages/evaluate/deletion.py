"""The deletion test: whether an answer depends on what its explanation marks."""

from collections.abc import Callable

import numpy as np

from detector.explain import GRID, inpaint
from detector.labels import probability


def deletion_test(
    score: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    logits: np.ndarray,
    maps: np.ndarray,
    said_fake: np.ndarray,
    temperature: float,
) -> dict[str, float]:
    """Return the mean fall of the probability of the answer where the most important quarter of the cells is inpainted,
    `deletion_important`, and where a random quarter is, `deletion_random` (Petsiuk et al. 2018, "RISE").

    score: uint8 (M, S, S, 3) -> logits (M). images: uint8 (N, S, S, 3), with their logits (N), occlusion maps (N, GRID,
    GRID) and whether FAKE was the answer, bool (N).
    """
    side = np.where(said_fake, 1, -1)
    quarter = GRID * GRID // 4

    def fall(weights: np.ndarray) -> float:
        """weights: (N, cells); the quarter of the cells with the largest is inpainted."""
        cells = np.zeros(weights.shape, bool)
        np.put_along_axis(cells, np.argsort(-weights, axis=1, kind="stable")[:, :quarter], True, axis=1)
        inpainted = np.concatenate(
            [inpaint(image, one) for image, one in zip(images, cells.reshape(-1, 1, GRID, GRID), strict=True)]
        )
        falls = probability(logits * side, temperature) - probability(score(inpainted) * side, temperature)
        return round(float(falls.mean()), 6)

    important = maps.reshape(len(images), -1) * side[:, None]
    random = np.random.default_rng(0).random(important.shape)
    return {"deletion_important": fall(important), "deletion_random": fall(random)}
