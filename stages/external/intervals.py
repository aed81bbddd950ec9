"""Shares and AUROCs with 95 % intervals, of independent images or of images in groups."""

import numpy as np

from stages.metrics import wilson_interval
from stages.prepare.shortcuts import FEWEST, Z95, auroc_and_errors

RESAMPLES = 2000
Interval = list[float]  # the value, and the ends of its 95 % interval, 0 to 1


def share_interval(is_one: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """Return the share of images, bool (N), that is true: by Wilson where they are independent, else by bootstrap.

    groups: names (N); images of one group are not independent of each other. The interval is then never narrower than
    Wilson's, since where the share is 0 in every group, the bootstrap would have it that it is 0 everywhere.
    """
    share = float(is_one.mean())
    low, high = wilson_interval(int(is_one.sum()), len(is_one))
    if groups is not None:
        weights = resampled(groups)
        lowest, highest = np.quantile(weights @ is_one / weights.sum(1), (0.025, 0.975))
        low, high = min(low, lowest), max(high, highest)
    return rounded(share, low, high)


def auroc_interval(p_fake: np.ndarray, is_fake: np.ndarray, groups: np.ndarray | None = None) -> Interval | None:
    """Return the AUROC of P(FAKE), float64 (N): by DeLong where images are independent, else by bootstrap.

    None where a class has so few images that nothing could be said.
    """
    if min(is_fake.sum(), (~is_fake).sum()) < FEWEST:
        return None
    auroc, error, _ = auroc_and_errors(p_fake, is_fake)
    if groups is None:
        return rounded(auroc, max(0.0, auroc - Z95 * error), min(1.0, auroc + Z95 * error))
    order = np.argsort(p_fake, kind="stable")
    _, start = np.unique(p_fake[order], return_index=True)
    weights = resampled(groups)[:, order]
    fakes = np.add.reduceat(weights * is_fake[order], start, axis=1)  # by value of P(FAKE), (RESAMPLES, values)
    reals = np.add.reduceat(weights * ~is_fake[order], start, axis=1)
    both = (fakes.sum(1) > 0) & (reals.sum(1) > 0)
    fakes, reals = fakes[both], reals[both]
    pairs = (fakes * (np.cumsum(reals, 1) - reals / 2)).sum(1)
    return rounded(auroc, *np.quantile(pairs / fakes.sum(1) / reals.sum(1), (0.025, 0.975)))


def resampled(groups: np.ndarray) -> np.ndarray:
    """Return how often each image is drawn where whole groups are drawn with replacement: float64 (RESAMPLES, N).

    The cluster bootstrap (Davison & Hinkley 1997, section 3.8). Of three groups it says little more than by how much
    they differ.
    """
    names, number = np.unique(groups, return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    return np.random.default_rng(0).multinomial(len(names), shares, RESAMPLES)[:, number].astype(np.float64)


def rounded(*numbers: float) -> Interval:
    return [round(float(number), 6) for number in numbers]
