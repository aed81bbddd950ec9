"""Shares and AUROCs with 95 % intervals, of independent images or of images in groups."""

import math
from typing import Any

import numpy as np
from scipy.stats import binomtest

Z95 = 1.96  # the half width of a 95 % interval in standard errors
FEWEST = 4  # images of a class that are compared
RESAMPLES = 2000
Interval = list[float]  # the value, and the ends of its 95 % interval, 0 to 1


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of the share `count` of `total`, 0 to 1 (Wilson 1927); 0 to 1 of nothing."""
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def images_behind(prepare: dict[str, Any], test: dict[str, Any]) -> dict[str, int]:
    """Return of how many test images each share in metrics/test.json is, by its name.

    prepare and test: metrics/prepare.json and metrics/test.json.
    """
    fakes, photographs = prepare["test_fake"], prepare["test_real"]
    images = fakes + photographs
    return {
        "accuracy": images,
        "fake_recall": fakes,
        "real_recall": photographs,
        "tpr_at_1_fpr": fakes,  # at the threshold that these photographs give, as if it had been known before
        "accuracy_without_leaked": images - prepare["leaked"],
        "coverage": images,
        "selective_accuracy": round(test["coverage"] * images),
    }


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

    The interval of groups is never narrower than DeLong's: the bootstrap of three groups that happen to agree would be.
    None where a class has so few images that nothing could be said.
    """
    if min(is_fake.sum(), (~is_fake).sum()) < FEWEST:
        return None
    auroc, error, _ = auroc_and_errors(p_fake, is_fake)
    low, high = max(0.0, auroc - Z95 * error), min(1.0, auroc + Z95 * error)
    if groups is None:
        return rounded(auroc, low, high)
    order = np.argsort(p_fake, kind="stable")
    _, start = np.unique(p_fake[order], return_index=True)
    weights = resampled(groups)[:, order]
    fakes = np.add.reduceat(weights * is_fake[order], start, axis=1)  # by value of P(FAKE), (RESAMPLES, values)
    reals = np.add.reduceat(weights * ~is_fake[order], start, axis=1)
    both = (fakes.sum(1) > 0) & (reals.sum(1) > 0)
    fakes, reals = fakes[both], reals[both]
    pairs = (fakes * (np.cumsum(reals, 1) - reals / 2)).sum(1)
    lowest, highest = np.quantile(pairs / fakes.sum(1) / reals.sum(1), (0.025, 0.975))
    return rounded(auroc, min(low, lowest), max(high, highest))


def auroc_and_errors(values: np.ndarray, is_fake: np.ndarray) -> tuple[float, float, float]:
    """Return the AUROC of values, (N), for is_fake, bool (N), at least two of each class; its standard error (DeLong,
    DeLong & Clarke-Pearson 1988); and the standard error of values that tell nothing (Mann & Whitney 1947, for ties
    Lehmann 1975). From counts by value, so ties cost nothing."""
    _, code = np.unique(values, return_inverse=True)
    fakes, reals = (np.bincount(code[of_class], minlength=code.max() + 1) for of_class in (is_fake, ~is_fake))
    m, n = int(fakes.sum()), int(reals.sum())
    reals_below = (np.cumsum(reals) - reals / 2) / n  # the share of REAL that a FAKE of this value exceeds
    fakes_above = 1 - (np.cumsum(fakes) - fakes / 2) / m
    auroc = float(fakes @ reals_below / m)
    variance = float(fakes @ (reals_below - auroc) ** 2) / (m - 1) / m
    variance += float(reals @ (fakes_above - auroc) ** 2) / (n - 1) / n
    both, total = (fakes + reals).astype(np.float64), m + n
    ties = float((both**3 - both).sum()) / (total * (total - 1))
    null_variance = (total + 1 - ties) / (12 * m * n)
    return auroc, math.sqrt(variance), math.sqrt(max(0.0, null_variance))


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
