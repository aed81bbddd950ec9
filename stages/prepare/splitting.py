"""What stays together, and what is cut off: the validation split, and the test split where the data have none."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detector.errors import UserError
from detector.labels import CLASSES, FAKE, REAL


def group_ids(count: int, *links: np.ndarray) -> np.ndarray:
    """Return a number for each of so many images, the same for those that are linked: int64 (N).

    links: int64 (P, 2) each, pairs of images. Groups are numbered by their first image.
    """
    pairs = np.concatenate([np.empty((0, 2), np.int64), *links])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    found = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def links_of(keys: np.ndarray) -> np.ndarray:
    """Return pairs that link all images with the same key: int64 (P, 2)."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    pairs = np.column_stack([first[inverse], np.arange(len(keys))])
    return pairs[pairs[:, 0] != pairs[:, 1]]


def cut_off(
    labels: np.ndarray, strata: np.ndarray, groups: np.ndarray, fraction: float, seed: int, what: str
) -> np.ndarray:
    """Return which images are cut off, about a share `fraction` of them: bool (N).

    Stratified by label and stratum (such as the source), in random order; a group is on one side. labels, strata,
    groups: int64 (N). Raises UserError, with `what` was asked for, where a side would be without a class.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    size = np.diff(starts, append=len(order))
    first = order[starts]  # of each group
    chosen = np.zeros(len(labels), bool)
    for label in (FAKE, REAL):
        total = taken = 0
        for stratum in np.unique(strata):
            of_stratum = (labels[first] == label) & (strata[first] == stratum)
            total += int(size[of_stratum].sum())
            for group in rng.permutation(np.flatnonzero(of_stratum)):
                # The rounding of one stratum is made up for in the next
                if taken + size[group] <= round(fraction * total):
                    taken += int(size[group])
                    chosen[order[starts[group] : starts[group] + size[group]]] = True
        has = labels == label
        if not chosen[has].any() or chosen[has].all():
            together = int((labels[first] == label).sum())
            raise UserError(
                f"{what}={fraction} of {int(has.sum())} {CLASSES[label]} images, {together} with those that stay "
                "together counted once, leaves one of the two sides without any: choose another share"
            )
    return chosen
