"""Fit the head of an adapted model to a few dozen or hundred pictures, and say by cross-validation what it is worth.

It needs scikit-learn, which answering does without. Throughout: `numbers` are float32 (N, D + 1), the features of N
pictures and, last, the base model's logit; `is_fake` is bool (N); `groups`, int64 (N), are equal for pictures that
belong together, which are never on both sides of a split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from detector.calibration import fit_temperature
from detector.head import Head

FOLDS = 5
STRENGTHS = np.logspace(-3, 1, 5)  # of the regression, C in scikit-learn: the larger, the less it is regularized
SHARES = (0.25, 0.5, 1.0)  # of the pictures, for the learning curve


@dataclass(frozen=True)
class Held:
    """What cross-validation gives: for each of SHARES, how many pictures a head was fitted to on average, and the
    logits of FAKE that it gives the pictures it was not fitted to, float64 (3, N); and their OOD scores, (N)."""

    pictures: list[int]
    logits: np.ndarray
    ood_scores: np.ndarray


def cross_validate(numbers: np.ndarray, is_fake: np.ndarray, groups: np.ndarray, fitted: Callable[[], object]) -> Held:
    """Fit heads to four fifths of the pictures, and to a quarter and a half of those, and score the other fifth; five
    times. fitted: is called after each of the FOLDS * len(SHARES) heads."""
    rng = np.random.default_rng(0)
    pictures = np.zeros(len(SHARES))
    logits, ood_scores = np.zeros((len(SHARES), len(is_fake))), np.zeros(len(is_fake))
    for train, test in folds(is_fake, groups, FOLDS):
        ranks = rng.permutation(groups.max() + 1)[groups[train]]
        for place, share in enumerate(SHARES):
            chosen = train[first_groups(ranks, is_fake[train], share)]
            head = fit_head(numbers[chosen], is_fake[chosen], groups[chosen])
            # the OOD scores that stay are those of the last head, which is fitted to all
            logits[place, test], ood_scores[test] = head.score(numbers[test, :-1], numbers[test, -1])
            pictures[place] += len(chosen) / FOLDS
            fitted()
    return Held([round(mean) for mean in pictures], logits, ood_scores)


def first_groups(ranks: np.ndarray, is_fake: np.ndarray, share: float) -> np.ndarray:
    """Return which pictures belong to the groups of the lowest ranks, this share of the groups of each class: bool
    (N). ranks: int64 (N), one for each group."""
    chosen = np.zeros(len(ranks), bool)
    for of_class in (is_fake, ~is_fake):
        in_order = np.unique(ranks[of_class])
        chosen |= of_class & np.isin(ranks, in_order[: int(np.ceil(share * len(in_order)))])
    return chosen


def folds(is_fake: np.ndarray, groups: np.ndarray, most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return indices of both sides of each split, stratified by class, with no more folds than a class has groups."""
    number = min(most, *(len(np.unique(groups[of_class])) for of_class in (is_fake, ~is_fake)))
    return list(StratifiedGroupKFold(number, shuffle=True, random_state=0).split(is_fake, is_fake, groups))


def fit_head(numbers: np.ndarray, is_fake: np.ndarray, groups: np.ndarray) -> Head:
    """Fit a logistic regression and the OOD statistics. Strength and temperature are chosen by cross-validation.

    The base model's logit, one number beside hundreds, is scaled to weigh as much as all features together: where the
    base model knows the generator, it decides. The logits of the head are divided by the temperature, so that heads of
    different strength compare. Both classes weigh alike in all three, however many pictures they have.
    """
    center, deviation = numbers.mean(0), numbers.std(0)
    scale = np.maximum(deviation, 0.01 * np.median(deviation))  # a feature may hardly differ between these pictures
    scale[-1] /= np.sqrt(numbers.shape[1] - 1)
    z = ((numbers - center) / scale).astype(np.float64)
    # The weights of a regularized regression are a sum of its pictures: it is as good, and quicker, in their directions
    directions = np.linalg.svd(z, full_matrices=False)[2]
    coordinates = z @ directions.T
    splits = folds(is_fake, groups, FOLDS)
    held = np.zeros((len(STRENGTHS), len(is_fake)))
    for place, strength in enumerate(STRENGTHS):
        for train, test in splits:
            fitted = regression(coordinates[train], is_fake[train], strength)
            held[place, test] = fitted.decision_function(coordinates[test])
    alike = repeated(is_fake)
    losses = np.logaddexp(0, np.where(is_fake, -held, held))[:, alike].mean(1)
    best = int(losses.argmin())
    temperature = fit_temperature(held[best][alike], is_fake[alike])
    fitted = regression(coordinates, is_fake, STRENGTHS[best])
    return Head(
        center=center,
        scale=scale,
        weights=(fitted.coef_[0] @ directions / temperature).astype(np.float32),
        bias=(fitted.intercept_ / temperature).astype(np.float32),
        whitening=whitening(z[:, :-1]).astype(np.float16),
    )


def repeated(is_fake: np.ndarray) -> np.ndarray:
    """Return indices, int64, among which both classes are equally many: all pictures, the smaller class's again and
    again."""
    of_classes = [np.flatnonzero(is_fake), np.flatnonzero(~is_fake)]
    count = max(map(len, of_classes))
    return np.sort(np.concatenate([np.resize(indices, count) for indices in of_classes]))


def independent(is_fake: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return indices, int64, of pictures to count when something is promised: the first of each group, as copies prove
    nothing twice, and as many fakes as photographs, as answers that suit the more frequent class are no merit."""
    of_classes = []
    for of_class in (is_fake, ~is_fake):
        indices = np.flatnonzero(of_class)
        of_classes.append(indices[np.unique(groups[indices], return_index=True)[1]])
    count = min(map(len, of_classes))
    rng = np.random.default_rng(0)
    return np.sort(np.concatenate([rng.permutation(indices)[:count] for indices in of_classes]))


def whitening(z: np.ndarray) -> np.ndarray:
    """Return the matrix after which the length of a standardized picture, (D), is its OOD score: float64 (D, D).

    It is the Mahalanobis distance as root mean square over the dimensions, by the covariance of Ledoit and Wolf (2004,
    "A well-conditioned estimator for large-dimensional covariance matrices"). That is the covariance of a few pictures
    plus the same variance in every direction: of other directions than theirs nothing need be computed.
    """
    count, dimensions = z.shape
    shrinkage = ledoit_wolf_shrinkage(z)
    _, lengths, directions = np.linalg.svd(z, full_matrices=False)
    variances = lengths**2 / count
    added = shrinkage * variances.sum() / dimensions
    less = 1 - np.sqrt(added / ((1 - shrinkage) * variances + added))
    return (np.eye(dimensions) - (directions.T * less) @ directions) / np.sqrt(added * dimensions)


def regression(x: np.ndarray, is_fake: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky").fit(x, is_fake)


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy on so many independent pictures (Wilson's)."""
    low, high = binomtest(round(accuracy * count), count).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def auroc(logits: np.ndarray, is_fake: np.ndarray) -> float:
    return float(roc_auc_score(is_fake, logits))


def auroc_interval(value: float, fakes: int, reals: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC on so many independent pictures of each class.

    Newcombe's (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
    method 5): the AUROCs from which the measured one is no further than their own standard error allows, so that it has
    a width where the measured one is 1.
    """
    z = norm.ppf(0.975)

    def distance(true: float) -> float:
        more = ((fakes + reals) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return float(abs(true - value) - z * np.sqrt(true * (1 - true) * (1 + more) / (fakes * reals)))

    least, most = 1e-9, 1 - 1e-9  # at 0 and 1 the distance is 0 as well
    low = brentq(distance, 0, min(value, most)) if value > least else 0.0
    high = brentq(distance, max(value, least), 1) if value < most else 1.0
    return float(low), float(high)
