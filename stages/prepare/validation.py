"""The validation split, which CIFAKE lacks: a part of the train split."""

import numpy as np

from detector.errors import UserError
from detector.labels import CLASSES, FAKE, REAL
from stages.prepare.decoding import DecodedSplit


def validation_mask(train: DecodedSplit, fraction: float, seed: int) -> np.ndarray:
    """Return which images of train become the validation split: bool (N).

    Stratified by label and object class; the copies of an image stay on one side, or the validation
    split would leak into train as CIFAKE's test split does. Raises UserError where a split would be empty.
    """
    rng = np.random.default_rng(seed)
    _, first, size = np.unique(train.hashes, return_index=True, return_counts=True)
    chosen = np.zeros(len(train.labels), bool)
    for label in (FAKE, REAL):
        total = taken = 0
        for object_class in np.unique(train.object_class):
            stratum = (train.labels[first] == label) & (train.object_class[first] == object_class)
            total += int(size[stratum].sum())
            for group in rng.permutation(np.flatnonzero(stratum)):
                # The rounding of one stratum is made up for in the next
                if taken + size[group] <= round(fraction * total):
                    taken += int(size[group])
                    chosen[first[group] : first[group] + size[group]] = True  # copies are neighbours
        if not 0 < taken < total:
            raise UserError(
                f"prepare.val_fraction={fraction} of {total} {CLASSES[label]} images leaves the train or the "
                "validation split without any: choose another one"
            )
    return chosen
