"""A two-sample permutation test: do new pictures have the distribution of the reference? NumPy alone.

Several tests are made at once: the maximum mean discrepancy (MMD) of the features (Gretton et al. 2012, "A Kernel
Two-Sample Test"; its Gaussian kernel by random Fourier features, Rahimi and Recht 2007), the Kolmogorov-Smirnov
distance of each scalar on quantiles of the reference, and the share of pictures out of distribution. Each statistic is
a function of the difference between two means, that of the sample and that of the reference, so all of them are
calibrated by the same permutations: which pictures are the sample is drawn anew, PERMUTATIONS times.

The p-values are corrected for the number of tests by the distribution, under these permutations, of the largest of the
standardized statistics (Westfall and Young 1993, "max T"): exact, whatever the tests have in common, where Bonferroni's
and Holm's corrections would be too strict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 1999
FREQUENCIES = 64  # of the Fourier features; each is a cosine and a sine
QUANTILES = 32  # of the reference, at which distribution functions are compared
BLOCK = 200  # permutations whose sums are computed at a time


@dataclass(frozen=True)
class Rows:
    """What is known of N pictures. features: float32 (N, D). scalars: float32 (N, K). flagged: bool (N)."""

    features: np.ndarray
    scalars: np.ndarray
    flagged: np.ndarray

    def __len__(self) -> int:
        return len(self.flagged)

    def take(self, places: Sequence[int] | np.ndarray) -> "Rows":
        """Return some of the pictures."""
        places = np.asarray(places)
        return Rows(self.features[places], self.scalars[places], self.flagged[places])


def concatenate(parts: Sequence[Rows]) -> Rows:
    features, scalars, flagged = zip(*((part.features, part.scalars, part.flagged) for part in parts), strict=True)
    return Rows(np.concatenate(features), np.concatenate(scalars), np.concatenate(flagged))


@dataclass(frozen=True)
class TwoSampleResult:
    """What the tests say of one sample. In this order: the features, each scalar, the flagged share.

    distances: float64 (K + 2): the MMD of the features, 0 to 1.41; the Kolmogorov-Smirnov distances, 0 to 1; by how
    much the flagged share exceeds that of the reference. by_chance: float64 (K + 2), what 95 % of the permutations stay
    within. p_values: float64 (K + 2), corrected for the number of tests; the smallest is the p-value of all together.
    foreignness: float32 (N), how typical the features of each picture of the sample are of the sample rather than of
    the reference (the MMD's witness function). reference_foreignness: float32 (M), the same of the reference's.
    """

    distances: np.ndarray
    by_chance: np.ndarray
    p_values: np.ndarray
    foreignness: np.ndarray
    reference_foreignness: np.ndarray

    @property
    def p_value(self) -> float:
        return float(self.p_values.min())


class TwoSampleTest:
    """The tests against one reference of M pictures. Threads may share one."""

    def __init__(self, reference: Rows) -> None:
        random = np.random.default_rng(0)
        pairs = random.integers(0, len(reference), (2, 2000))
        apart = np.linalg.norm(reference.features[pairs[0]] - reference.features[pairs[1]], axis=1)
        bandwidth = np.median(apart[apart > 0]) if apart.any() else 1.0  # the median heuristic
        directions = random.standard_normal((reference.features.shape[1], FREQUENCIES))
        self.frequencies = (directions / bandwidth).astype(np.float32)
        levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
        self.quantiles = np.quantile(reference.scalars, levels, axis=0).astype(np.float32)
        self.columns = self._columns(reference)
        self.total = self.columns.sum(0, dtype=np.float64)
        self._permuted: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, sample: Rows) -> TwoSampleResult:
        """Compare a sample with the reference. The first sample of a size takes a second, further ones less."""
        columns = self._columns(sample)
        if len(sample) not in self._permuted:
            self._permuted[len(sample)] = self._permute(len(sample))
        of_reference, chosen = self._permuted[len(sample)]
        own = columns.sum(0, dtype=np.float64)
        sums = np.vstack([own, of_reference + chosen @ columns])
        statistics = self._statistics(self._differences(sums, own, len(sample)))
        standardized = (statistics - statistics.mean(0)) / (statistics.std(0) + 1e-12)
        largest = standardized.max(1)
        corrected = (largest[:, None] >= standardized[0]).mean(0)
        witness = self._differences(own[None], own, len(sample))[0, : 2 * FREQUENCIES].astype(np.float32)
        return TwoSampleResult(
            statistics[0],
            np.quantile(statistics[1:], 0.95, axis=0),
            corrected,
            columns[:, : 2 * FREQUENCIES] @ witness,
            self.columns[:, : 2 * FREQUENCIES] @ witness,
        )

    def _columns(self, rows: Rows) -> np.ndarray:
        """Return the functions whose means are compared, float32 (N, 2 FREQUENCIES + K QUANTILES + 1)."""
        angles = rows.features @ self.frequencies
        waves = np.concatenate([np.cos(angles), np.sin(angles)], 1) / np.sqrt(FREQUENCIES)
        below = (rows.scalars[:, :, None] <= self.quantiles.T).reshape(len(rows), -1)
        return np.concatenate([waves, below, rows.flagged[:, None]], 1, dtype=np.float32)

    def _permute(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """For each permutation: the sum of the reference's columns that fall into the sample, float32 (PERMUTATIONS,
        columns), and which of the sample's pictures do, float32 (PERMUTATIONS, size), 0 or 1. The same for every sample
        of one size, so they are drawn once."""
        random = np.random.default_rng(size)
        sums, chosen = [], []
        known = len(self.columns)
        for start in range(0, PERMUTATIONS, BLOCK):
            drawn = np.zeros((min(BLOCK, PERMUTATIONS - start), known + size), np.float32)
            for row in drawn:
                row[random.choice(known + size, size, replace=False, shuffle=False)] = 1
            sums.append(drawn[:, :known] @ self.columns)
            chosen.append(drawn[:, known:])
        return np.concatenate(sums), np.concatenate(chosen)

    def _differences(self, sums: np.ndarray, own: np.ndarray, size: int) -> np.ndarray:
        """Sums over samples (P, columns) -> mean of the sample minus mean of the rest (P, columns). own: the sum over
        the pictures that are new."""
        return sums / size - (self.total + own - sums) / len(self.columns)

    def _statistics(self, differences: np.ndarray) -> np.ndarray:
        """Differences of means (P, columns) -> statistics (P, K + 2)."""
        waves, below, flagged = np.split(differences, [2 * FREQUENCIES, differences.shape[1] - 1], axis=1)
        by_scalar = np.abs(below).reshape(len(below), -1, QUANTILES).max(2)
        return np.column_stack([np.linalg.norm(waves, axis=1), by_scalar, flagged[:, 0]])
