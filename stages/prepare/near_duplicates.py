"""Pairs of pictures that are copies of each other but for encoding, size, brightness or a slight crop.

A near-copy of a training image in the test split leaks as an identical one does: CIFAR-10's test split has 3.25 % of
them (Barz & Denzler 2020, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates").

First the candidates, by perceptual hash: multi-index hashing (Norouzi, Punjani & Fleet 2012, "Fast Search in Hamming
Space with Multi-Index Hashing") with pairs of bands as keys (Manku, Jain & Das Sarma 2007, "Detecting Near-Duplicates
for Web Crawling"): long keys, so that millions of hashes do not share one. Then the pixels of each candidate decide.
"""

import itertools
from collections.abc import Callable

import numpy as np

from detector.copies import DETAIL, WHOLE, unit_thumbnails

# Chosen on CIFAKE: of 200 planted near-copies of each kind, all but 3 % of the 4 % crops are candidates (48 % with a
# distance of 3), and there are 0.07 candidates for each picture.
BANDS = 7  # of the hash's 64 bits; equal in two of them is a candidate: 21 keys of 18 or 19 bits
MOST_BITS = 8  # in which the hashes of a candidate differ
WINDOW = 8  # pictures with the same key that each is compared with, next to it in the order of their hashes
MOST_PARTNERS = 8  # candidates for the first picture of a pair

BLOCK_BYTES = 2**24  # of pixels that are compared at a time


def near_duplicates(
    hashes: np.ndarray, pixel_hashes: np.ndarray, read: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the pairs i < j of pictures that are near-copies, but not identical: int64 (P, 2), in order.

    hashes: uint64 (N), of `perceptual_hashes`. pixel_hashes: (N), of any dtype that np.unique takes, equal where the
    pixels are: of identical pictures only the first is compared, so that a thousand black ones are one.
    read: indices, int64 (K) -> images, uint8 (K, S, S, 3).

    Time and memory grow in proportion to N: a picture has at most WINDOW neighbours by each key, and is the first of at
    most MOST_PARTNERS pairs. In a group of more pictures than that, not all pairs are found, but as a rule enough to
    connect it: count groups (`stages.prepare.splitting.group_ids`), not pairs. Pictures without contrast or detail
    (black, a clear sky) are nobody's copy: their correlation is that of noise.
    """
    first = np.sort(np.unique(pixel_hashes, return_index=True)[1])
    pairs = first[candidates(hashes[first])]
    if not len(pairs):
        return pairs
    size = max(1, BLOCK_BYTES // read(pairs[0, :1]).nbytes)
    blocks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return np.concatenate([block[are_copies(block, read)] for block in blocks])


def candidates(hashes: np.ndarray) -> np.ndarray:
    """Return pairs i < j of hashes, uint64 (N), that differ in few bits: int64 (P, 2), in order, at most MOST_PARTNERS
    with the same i.

    Of hashes that differ in at most 5 bits all are found, where WINDOW and MOST_PARTNERS leave them: 5 bits leave two
    of seven bands as they are.
    """
    n = len(hashes)
    by_hash = np.argsort(hashes, kind="stable")  # of the same key, the most alike come to lie near each other
    in_order = hashes[by_hash]
    # every seventh bit, so that each band has high and low frequencies
    bands = [sum(1 << bit for bit in range(band, 64, BANDS)) for band in range(BANDS)]
    pairs = np.empty((0, 2), np.int64)
    for one, other in itertools.combinations(bands, 2):
        keys = in_order & np.uint64(one | other)
        by_key = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[by_key], in_order[by_key]
        found = [pairs]
        for step in range(1, WINDOW + 1):
            left = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(left):
                break
            left = left[np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[left + step]) <= MOST_BITS]
            found.append(np.sort(np.column_stack([by_hash[by_key[left]], by_hash[by_key[left + step]]]), axis=1))
        pairs = thin(hashes, np.unique(np.concatenate(found) @ [n, 1]))
    return pairs


def thin(hashes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the pairs i * N + j, int64 (P) in order, as int64 (K, 2), with at most MOST_PARTNERS of each i: half are
    the nearest j by hash, half the farthest, for the nearest alone would leave a crowd in many unconnected parts."""
    i, j = codes // len(hashes), codes % len(hashes)
    # by i and distance: one number, which sorts faster than two
    order = np.argsort(i * 64 + np.bitwise_count(hashes[i] ^ hashes[j]), kind="stable")
    rank = np.empty(len(i), np.int64)
    rank[order] = np.arange(len(i)) - np.searchsorted(i, i)  # i is in order in both
    count = np.bincount(i, minlength=len(hashes))[i]
    kept = (rank < MOST_PARTNERS // 2) | (count - rank <= MOST_PARTNERS // 2)
    return np.column_stack([i[kept], j[kept]])


def are_copies(pairs: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return which pairs, int64 (P, 2), are copies: bool (P). read: as for `near_duplicates`.

    By the correlation of their thumbnails (detector/copies.py).
    """
    rows, places = np.unique(pairs, return_inverse=True)
    i, j = places.reshape(-1, 2).T
    whole, detail = unit_thumbnails(read(rows))
    correlations = (np.einsum("kd,kd->k", part[i], part[j]) for part in (whole, detail))
    return np.logical_and(*(c >= least for c, least in zip(correlations, (WHOLE, DETAIL), strict=True)))
