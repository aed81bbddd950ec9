"""What a detector's scores are worth. The positive class is FAKE everywhere.

Throughout, `p_fake` are probabilities of FAKE, float64 (N), and `is_fake` is bool (N). A new metric of the test split
is one more key of `classification_metrics`.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from detector.errors import UserError

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


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

    tpr_at_1_fpr is the share of the FAKE images that is caught where at most 1 % of these REAL ones are taken for FAKE.

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
