"""Whether two detectors differ on the same images: McNemar's exact test (1947), which asks whether the images that only
one of them gets right are shared out evenly; Holm's procedure (1979) says which of several such tests hold together.
"""

from scipy.stats import binomtest


def mcnemar(first_wrong: set[int], second_wrong: set[int]) -> tuple[str, float]:
    """Return how many images only the first gets right, how many only the second, and the p-value: as text; and it."""
    first, second = len(second_wrong - first_wrong), len(first_wrong - second_wrong)
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return f"{first} : {second} (p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'})", p


def holm(p_values: list[float], level: float = 0.05) -> int:
    """Return how many of these tests, from the lowest p-value on, hold together at the level."""
    passed = [p <= level / (len(p_values) - place) for place, p in enumerate(sorted(p_values))]
    return passed.index(False) if False in passed else len(passed)
