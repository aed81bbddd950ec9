"""How well each trait of a picture's file, size and colour alone tells FAKE from REAL.

Where one does, a detector can learn it instead of how a generator draws, and fails on pictures without it: in GenImage
compression and size are such (Grommelt et al. 2024, "Fake or JPEG? Revealing Common Biases in Generated Image Detection
Datasets").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.intervals import FEWEST, Z95, auroc_and_errors
from stages.prepare.traits import TRAITS

# An AUROC is an alarm where its interval lies above this: of a trait of the file, and of one of the content, in which
# any two collections differ. CIFAKE's FAKE images are darker (0.61), the sample's have less plain surface (0.67).
ALARM_FILE, ALARM_CONTENT = 0.6, 0.7
CONTENT = ("bytes per pixel", "red", "green", "blue", "brightness", "flat")
# The distance from 0.5, in standard errors of a trait that tells nothing, from which it is no chance, whichever of the
# 14 traits it is. The intervals alone raise an alarm in one of four sets of twenty pictures; ten never reach this.
NO_CHANCE = 4
MOST = 200_000  # pictures that are looked at, at random: enough for an AUROC to 0.002
PREFIX = "datasets.<name>"  # of the parameters that an advice names

ENCODING = f"a detector learns how the files were made. Re-encode both alike: {PREFIX}.reencode"
SIZE = (
    "a detector learns the traces of resizing. Take pictures of like sizes, or crop both alike before they are resized"
)
COLOUR = "a detector learns the colours. Take REAL pictures of the same subjects, and look at plots/data"
DETAIL = (
    "one class has less detail: plain borders, drawings, stronger compression. Look at plots/data, take like pictures"
)
METADATA = (
    "a detector does not see metadata, but the classes came by different ways. See that both were resized and encoded "
    f"alike, or re-encode them: {PREFIX}.reencode"
)
# Traits that tell of one cause raise one alarm, and get one advice.
CAUSES = {
    ENCODING: ("format", "encoder", "chroma"),
    SIZE: ("size", "width", "height", "aspect"),
    COLOUR: ("red", "green", "blue", "brightness"),
    DETAIL: ("flat", "bytes per pixel"),
    METADATA: ("metadata",),
}


@dataclass(frozen=True)
class Shortcut:
    """How well one trait tells the classes apart."""

    name: str
    auroc: float  # 0.5 not at all, 1 without a mistake, whichever of the classes has more of it
    low: float  # the 95 % interval of auroc
    high: float
    says: str  # what differs, in words: "FAKE is all PNG, REAL all JPEG"
    advice: str | None  # what to do; None where it is no alarm


def shortcuts(traits: np.ndarray, is_fake: np.ndarray) -> list[Shortcut]:
    """Return how well each trait tells the classes apart, the most telling first.

    traits: TRAITS (N). is_fake: bool (N). Numbers are scored by rank. Names (format, encoder, size...) are scored by
    how much more frequent they are among the FAKE ones of the *other* half of the pictures, or a name that one picture
    has would tell its class; an AUROC below 0.5 is then chance. Encoder and chroma are compared among the JPEGs alone.
    An AUROC is 0.5, its interval 0 to 1, where a class has fewer than FEWEST pictures with the trait.
    """
    if len(traits) > MOST:
        chosen = np.random.default_rng(0).choice(len(traits), MOST, replace=False)
        traits, is_fake = traits[chosen], is_fake[chosen]
    found = []
    for name, values, which in columns(traits):
        values, fake = values[which], is_fake[which]
        if min(fake.sum(), (~fake).sum()) < FEWEST:
            found.append(Shortcut(name, 0.5, 0.0, 1.0, "too few pictures", None))
            continue
        numeric = values.dtype.kind == "f"
        auroc, error, null_error = auroc_of_numbers(values, fake) if numeric else auroc_of_names(values, fake)
        low, high = max(0.0, auroc - Z95 * error), min(1.0, auroc + Z95 * error)
        alarm = low > (ALARM_CONTENT if name in CONTENT else ALARM_FILE) and auroc - 0.5 > NO_CHANCE * null_error
        says = compare_medians(name, values, fake) if numeric else compare_shares(values, fake)
        advice = next(advice for advice, names in CAUSES.items() if name in names) if alarm else None
        found.append(Shortcut(name, auroc, low, high, says, advice))
    return sorted(found, key=lambda shortcut: -shortcut.auroc)


def columns(traits: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, values (N) and which of them count, bool (N), of each trait: float64 are numbers, others names."""
    assert traits.dtype == TRAITS
    every = np.ones(len(traits), bool)
    width, height = traits["width"].astype(np.float64), traits["height"].astype(np.float64)
    red, green, blue = (traits[name].astype(np.float64) for name in ("red", "green", "blue"))
    is_jpeg = traits["encoder"] != b"-"
    yield "format", traits["format"], every
    yield "encoder", traits["encoder"], is_jpeg
    yield "chroma", traits["chroma"], is_jpeg
    yield "metadata", traits["metadata"], every
    yield "bytes per pixel", traits["bytes"] / np.maximum(1, width * height), every
    yield "width", width, every
    yield "height", height, every
    # the longer side by the shorter: portraits and landscapes would hide that the other class is square
    yield "aspect", np.maximum(width, height) / np.maximum(1, np.minimum(width, height)), every
    # as a name: 512x512 may lie in the middle of all other sizes
    yield "size", traits["width"].astype(np.int64) << 32 | traits["height"], every
    yield "red", red, every
    yield "green", green, every
    yield "blue", blue, every
    yield "brightness", 0.299 * red + 0.587 * green + 0.114 * blue, every  # ITU-R BT.601
    yield "flat", traits["flat"].astype(np.float64), every


def auroc_of_numbers(values: np.ndarray, is_fake: np.ndarray) -> tuple[float, float, float]:
    """Return max(AUROC, 1 - AUROC) of values, (N), its standard error, and that of values which tell nothing."""
    auroc, error, null_error = auroc_and_errors(values, is_fake)
    return max(auroc, 1 - auroc), error, null_error


def auroc_of_names(names: np.ndarray, is_fake: np.ndarray) -> tuple[float, float, float]:
    """Return the AUROC of names, (N) of any dtype, scored out of fold, and its errors as `auroc_of_numbers` does.

    The mean of both halves; a constant gets 0.5 exactly, whatever the shares of the classes in them.
    """
    _, code = np.unique(names, return_inverse=True)
    rng, half = np.random.default_rng(0), np.zeros(len(names), bool)
    for label in (True, False):
        of_class = rng.permutation(np.flatnonzero(is_fake == label))
        half[of_class[: len(of_class) // 2]] = True
    results = []
    for scored in (half, ~half):
        fakes = np.bincount(code[~scored & is_fake], minlength=code.max() + 1)
        reals = np.bincount(code[~scored & ~is_fake], minlength=code.max() + 1)
        # a twentieth of a picture more of each: a name that the other half lacks is neutral
        share_fake, share_real = (fakes + 0.05) / fakes.sum(), (reals + 0.05) / reals.sum()
        score = np.where(fakes + reals > 0, share_fake / (share_fake + share_real), 0.5)
        results.append(auroc_and_errors(score[code][scored], is_fake[scored]))
    auroc = float(np.mean([result[0] for result in results]))
    errors = [math.hypot(*(result[k] for result in results)) / 2 for k in (1, 2)]
    return max(0.5, auroc), errors[0], errors[1]


def compare_medians(name: str, values: np.ndarray, is_fake: np.ndarray) -> str:
    fake, real = np.median(values[is_fake]), np.median(values[~is_fake])
    if name == "aspect":
        squares = [(values[of_class] == 1).mean() for of_class in (is_fake, ~is_fake)]
        if abs(squares[0] - squares[1]) > 0.2:
            return f"square: {percent(squares[0])} of FAKE, {percent(squares[1])} of REAL"
    return f"median {name} {fake:.3g} in FAKE, {real:.3g} in REAL"


def compare_shares(names: np.ndarray, is_fake: np.ndarray) -> str:
    """Say which name most of each class have, or which of them differs most where that is the same or none."""
    values, code = np.unique(names, return_inverse=True)
    fake, real = (np.bincount(code[c], minlength=len(values)) / c.sum() for c in (is_fake, ~is_fake))
    top_fake, top_real = int(fake.argmax()), int(real.argmax())
    if top_fake != top_real and min(fake[top_fake], real[top_real]) >= 0.5:
        return (
            f"FAKE is {share(fake[top_fake])}{text(values[top_fake])}, "
            f"REAL {share(real[top_real])}{text(values[top_real])}"
        )
    k = int(np.abs(fake - real).argmax())
    return f"{text(values[k])}: {percent(fake[k])} of FAKE, {percent(real[k])} of REAL"


def share(part: float) -> str:
    return "all " if part == 1 else f"{percent(part)} "


def percent(part: float) -> str:
    """A share as people read it; what is not all or nothing does not become 100 % or 0 %."""
    return f"{100 * part:.0f} %" if part in (0, 1) or 0.01 <= part <= 0.99 else f"{100 * part:.2g} %"


def text(value: np.ndarray | np.bytes_ | np.integer) -> str:
    if isinstance(value, bytes):
        return "no metadata" if value == b"none" else value.decode()
    return f"{int(value) >> 32}x{int(value) & 0xFFFFFFFF}"


def alarm_lines(found: list[Shortcut], dataset: str) -> list[str]:
    """Return a line for each cause of alarm in data set `dataset`: what differs most, how much, and what to do."""
    lines = []
    for advice in dict.fromkeys(shortcut.advice for shortcut in found if shortcut.advice):
        worst, *others = [shortcut for shortcut in found if shortcut.advice == advice]
        also = f"; also {', '.join(other.name for other in others)}" if others else ""
        lines.append(
            f"{worst.name} alone tells the classes apart (AUROC {worst.auroc:.2f}{also}): {worst.says}; "
            f"{advice.replace('<name>', dataset)}"
        )
    return lines


def shortcuts_table(found: list[Shortcut]) -> list[tuple[str, float, float, float]]:
    """Return the rows of plots/data/shortcuts.csv: trait, auroc, low, high."""
    return [(shortcut.name, shortcut.auroc, shortcut.low, shortcut.high) for shortcut in found]
