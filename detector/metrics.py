"""What the scores of a detector are worth. The positive class is FAKE everywhere.

Throughout, `logits` are the network's logits of FAKE, shape (N); `p_fake` are probabilities of
FAKE, float64 (N); `is_fake` is bool (N). Temperature and threshold are chosen on validation, once,
and travel in model.json.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import binom
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from detector.errors import UserError

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


def probability(logits: Array, temperature: float) -> NDArray[np.float64]:
    """Return P(FAKE) = sigmoid(logit / temperature).

    In float64: in float32 every logit above 17 would tie at 1.
    """
    return expit(np.asarray(logits, np.float64) / temperature)


def fit_temperature(logits: Array, is_fake: Mask) -> float:
    """Return the temperature, 0.01 to 100, with the least negative log likelihood.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The targets are Platt's (1999),
    (n + 1) / (n + 2) in place of 1: a finite sample that is separated without a mistake then asks
    for high confidence, not for an infinite one.
    """
    z = np.asarray(logits, np.float64)
    fakes = int(is_fake.sum())
    reals = len(z) - fakes
    target = np.where(is_fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def nll(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled))

    best = minimize_scalar(nll, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


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


def choose_unsure(p_fake: Array, is_fake: Mask, share_right: float) -> tuple[float, float]:
    """Return (low, high), the ends of the UNSURE band: p_fake < low is answered REAL, p_fake > high FAKE.

    The band is the narrowest about 0.5 for which `share_right` of the answers are right with 95 % confidence. Bands are
    tried from a wide one on, each with an exact binomial test, and the first that fails ends the search, so that the
    confidence holds for all together (fixed sequence testing; Angelopoulos et al. 2021, "Learn then Test"). It is that
    of a detector fixed beforehand: an epoch chosen on the same images makes it a little optimistic. Where nothing can
    be promised the band is (0, 1), everything is UNSURE: 598 images without a mistake prove 99.5 %, not fewer.
    """
    p = np.asarray(p_fake, np.float64)
    confidence = np.abs(p - 0.5)
    order = np.argsort(-confidence, kind="stable")
    wrong = ((p > 0.5) != is_fake)[order]
    confidence = np.append(confidence[order], 0)
    # so many prove it without a mistake; the first test is of four times as many, and allows six
    least = int(np.ceil(np.log(0.05) / np.log(share_right)))
    answered = np.unique(np.linspace(min(4 * least, len(p)), len(p), 100).astype(int))
    proven = binom.cdf(wrong.cumsum()[answered - 1], answered, 1 - share_right) <= 0.05
    kept = answered[np.logical_and.accumulate(proven)]
    if not len(kept):
        return 0.0, 1.0
    margin = float(confidence[kept[-1] - 1 : kept[-1] + 1].mean())
    return 0.5 - margin, 0.5 + margin


def calibration_bins(
    p_fake: Array, is_fake: Mask, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean P(FAKE), share of FAKE and number of images of bins of equal mass, each (bins).

    Nixon et al. 2019, "Measuring Calibration in Deep Learning". Bins of equal width are all but
    empty between 0.1 and 0.9.
    """
    p = np.asarray(p_fake, np.float64)
    _, group, size = np.unique(p, return_inverse=True, return_counts=True)
    # equal scores share their labels, or the order of the images would decide who gets the fakes
    share = (np.bincount(group, weights=is_fake) / size)[group]
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    mean_p = np.array([p[part].mean() for part in parts])
    mean_share = np.array([share[part].mean() for part in parts])
    return mean_p, mean_share, np.array([len(part) for part in parts])


def expected_calibration_error(p_fake: Array, is_fake: Mask, bins: int = 15) -> float:
    """Return the mean of |mean P(FAKE) - share of FAKE| over bins of equal mass, 0 to 1.

    It is about P(FAKE), the number people are shown, not the confidence in the predicted class.
    """
    mean_p, share, count = calibration_bins(p_fake, is_fake, bins)
    return float(np.average(np.abs(mean_p - share), weights=count))


def classification_metrics(is_fake: Mask, p_fake: Array, threshold: float) -> dict[str, float]:
    """Return accuracy, auroc, average_precision, f1, fake_recall, real_recall, tpr_at_1_fpr and ece, all 0 to 1.

    tpr_at_1_fpr is the share of the FAKE images that is caught where 1 % of the REAL ones are taken for FAKE.

    Raises UserError when one class is absent: ranking and recall mean nothing then.
    """
    is_fake = np.asarray(is_fake, bool)
    if is_fake.all() or not is_fake.any():
        raise UserError("accuracy, AUROC and recall need FAKE and REAL images, one kind is absent")
    p = np.asarray(p_fake, np.float64)
    said_fake = p >= threshold
    false_alarms, caught, _ = roc_curve(is_fake, p, drop_intermediate=False)
    return {
        "accuracy": float(np.mean(said_fake == is_fake)),
        "auroc": float(roc_auc_score(is_fake, p)),
        "average_precision": float(average_precision_score(is_fake, p)),
        "f1": float(f1_score(is_fake, said_fake, zero_division=0)),
        "fake_recall": float(np.mean(said_fake[is_fake])),
        "real_recall": float(np.mean(~said_fake[~is_fake])),
        "tpr_at_1_fpr": float(caught[false_alarms <= 0.01].max()),
        "ece": expected_calibration_error(p, is_fake),
    }
