"""Whether two detectors differ on the same images: McNemar's exact test (1947), which asks whether the images that only
one of them gets right are shared out evenly; Holm's procedure (1979) says which of several such tests hold together.
"""

from collections import Counter
from itertools import combinations

from scipy.stats import binomtest

from tools.record import RunRecord


def mcnemar(first_wrong: set[int], second_wrong: set[int]) -> tuple[str, float]:
    """Return how many images only the first gets right, how many only the second, and the p-value: as text; and it."""
    first, second = len(second_wrong - first_wrong), len(first_wrong - second_wrong)
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return f"{first} : {second} (p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'})", p


def holm(p_values: list[float], level: float = 0.05) -> int:
    """Return how many of these tests, from the lowest p-value on, hold together at the level."""
    passed = [p <= level / (len(p_values) - place) for place, p in enumerate(sorted(p_values))]
    return passed.index(False) if False in passed else len(passed)


def compare_pairs(runs: list[RunRecord]) -> tuple[list[list[str]], list[float]]:
    """Return a table with a row for each two recipes and a column for each seed that several of them have, and the
    p-values in it. Each cell is of `mcnemar`, or - where one of the two has no run of that seed."""
    recipes = {record.recipe: record.model for record in runs}
    wrong = {(record.recipe, record.seed): set(record.mistakes) for record in runs}
    counts = Counter(record.seed for record in runs)
    seeds = sorted(seed for seed, count in counts.items() if count > 1)
    rows, p_values = [["Pair", *(f"Seed {seed}" for seed in seeds)]], []
    for first, second in combinations(sorted(recipes, key=lambda recipe: (recipes[recipe], recipe)), 2):
        both = [seed for seed in seeds if {(first, seed), (second, seed)} <= wrong.keys()]
        found = {seed: mcnemar(wrong[first, seed], wrong[second, seed]) for seed in both}
        p_values += [p for _, p in found.values()]
        cells = [found[seed][0] if seed in found else "-" for seed in seeds]
        rows.append([f"{recipes[first]} : {recipes[second]}", *cells])
    return rows, p_values
