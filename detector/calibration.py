"""What is chosen on validation, once: the offset, which becomes part of the network, and what travels in model.json:
temperature, threshold, abstention band.

Training chooses them on the validation split; `python -m detector adapt` chooses temperature and band by
cross-validation. It needs scipy, which asking does without.

Throughout, `logits` are the network's logits of FAKE, shape (N); `p_fake` are probabilities of FAKE, float64 (N);
`is_fake` is bool (N).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import binom

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

LOG_TEMPERATURES = np.log(0.01), np.log(100)


def fit_temperature(logits: Array, is_fake: Mask) -> float:
    """Return the temperature, 0.01 to 100, with the least negative log likelihood.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The targets are Platt's (1999), (n + 1) / (n + 2) in
    place of 1: a finite sample that is separated without a mistake then asks for high confidence, not an infinite one.
    """
    z, target = np.asarray(logits, np.float64), platt_targets(is_fake)

    def nll(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled))

    best = minimize_scalar(nll, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def fit_offset(logits: Array, is_fake: Mask) -> float:
    """Return what, added to the logits, gives the least negative log likelihood, at the temperature that is best then.

    Platt's (1999) sigmoid(a * logit + b): the offset is b / a and the temperature 1 / a. A network may lean to one
    class, which no temperature undoes. The offset puts the boundary somewhere among the logits.
    """
    z, target = np.asarray(logits, np.float64), platt_targets(is_fake)

    def nll(parameters: Array) -> tuple[float, Array]:
        log_temperature, offset = parameters
        scaled = (z + offset) / np.exp(log_temperature)
        slope = (expit(scaled) - target) / len(z)  # of the mean, by each scaled logit
        gradient = np.array([-(slope @ scaled), slope.sum() / np.exp(log_temperature)])
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled)), gradient

    start = np.array([np.log(fit_temperature(z, is_fake)), np.clip(0, -z.max(), -z.min())])
    best = minimize(nll, start, jac=True, method="L-BFGS-B", bounds=[LOG_TEMPERATURES, (-z.max(), -z.min())])
    return float(best.x[1])


def platt_targets(is_fake: Mask) -> Array:
    """Return Platt's (1999) targets, float64 (N): a little less than 1 for FAKE, a little more than 0 for REAL."""
    fakes = int(is_fake.sum())
    reals = len(is_fake) - fakes
    return np.where(is_fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))


def choose_threshold(p_fake: Array, is_fake: Mask) -> float:
    """Return the threshold with the best accuracy, FAKE being p_fake >= threshold.

    It lies half way between two neighbouring scores (or a score and 0 or 1), so that no image sits
    on it. Of several equally accurate ones the nearest to 0.5 is taken, where calibrated
    probabilities would put it.
    """
    scores, group = np.unique(np.asarray(p_fake, np.float64), return_inverse=True)
    fakes = np.bincount(group, weights=is_fake, minlength=len(scores))
    reals = np.bincount(group, weights=~is_fake, minlength=len(scores))
    # cut i puts the i lowest distinct scores on the REAL side
    correct = np.append(0, reals.cumsum()) + np.append(0, fakes[::-1].cumsum())[::-1]
    below, above = np.append(0, scores), np.append(scores, 1)
    middle = (below + above) / 2
    middle = np.where(middle > below, middle, above)  # nothing lies between neighbouring floats
    possible = above > below  # a score of exactly 0 or 1 leaves no room outside it
    best = possible & (correct == correct[possible].max())
    return float(min(middle[best], key=lambda threshold: abs(threshold - 0.5)))


def choose_abstention_band(p_fake: Array, is_fake: Mask, selective_accuracy: float) -> tuple[float, float]:
    """Return (low, high), the ends of the abstention band: p_fake < low counts as REAL, p_fake
    > high as FAKE.

    The band is the narrowest around 0.5 outside of which `selective_accuracy`, the share of the answers that are right,
    is reached with 95 % confidence. Bands are tried from a wide one on, each with an exact binomial test, and the first
    that fails ends the search, so that the confidence holds for all tests together (fixed sequence testing;
    Angelopoulos et al. 2021, "Learn then Test"). The confidence is that of a detector fixed beforehand: an epoch and
    an offset chosen on the same images make it a little optimistic. Where nothing can be promised the band is (0, 1)
    and everything is UNSURE: to prove 99.5 % takes 598 images without a mistake.
    """
    p = np.asarray(p_fake, np.float64)
    confidence = np.abs(p - 0.5)
    order = np.argsort(-confidence, kind="stable")
    wrong = ((p > 0.5) != is_fake)[order]
    confidence = np.append(confidence[order], 0)
    # `least` answers prove it if none is wrong. The first test has four times as many and allows six mistakes; of few
    # images it has half, for all of them would be a band of no width.
    least = int(np.ceil(np.log(0.05) / np.log(selective_accuracy)))
    first = min(4 * least, max(least, len(p) // 2), len(p))
    counts = np.unique(np.linspace(first, len(p), 100).astype(int))
    proven = binom.cdf(wrong.cumsum()[counts - 1], counts, 1 - selective_accuracy) <= 0.05
    kept = counts[np.logical_and.accumulate(proven)]
    if not len(kept):
        return 0.0, 1.0
    margin = float(confidence[kept[-1] - 1 : kept[-1] + 1].mean())
    return 0.5 - margin, 0.5 + margin
