"""What `python -m detector drift` says: a verdict, its numbers and advice, as text and as JSON."""

import math
from collections import Counter
from typing import Any

import numpy as np

from detector.drift import LEVEL, Drift, Finding
from detector.output import one_line

# Kolmogorov-Smirnov distances of two normal distributions whose means are 0.5 and 0.8 deviations apart, Cohen's limits
# of a medium and a large effect.
MEDIUM, LARGE = 0.2, 0.31
FOREIGN = 24  # pictures that are named and shown

PROCESSING = (
    "How the pictures look differs ({}): were they resized, compressed, filtered or taken in another way? Ask about "
    "the originals where there are some."
)
SCORE = (
    "Scores differ: {fake} of these pictures are answered FAKE, {real} REAL, {unsure} UNSURE; of the validation "
    "pictures {known} had a score for FAKE. Another share of fakes alone can do that; P(FAKE) supposes that share."
)
FAR = (
    "{share} of the pictures are out of distribution, {known} of the validation pictures are: the answers for these "
    "say little. They have a note each."
)
CONTENT = (
    "What the pictures show, or what made them, differs: look at the most foreign ones. If you know the truth about "
    "some dozens, ask the detector about those; where it errs, `python -m detector adapt` fits it to them."
)
NOT_PROOF = (
    "Drift is no proof that answers are wrong, and no drift is no proof that they are right: only pictures of which "
    "you know the truth tell that."
)


def verdict(drift: Drift) -> str:
    """Return the first sentence."""
    count, p = len(drift.arrived.files), p_value(drift.result.p_value)
    where = f"{count:,} pictures of {one_line(drift.folder)}"
    known = f"those that {drift.model} was validated on ({p}, at a level of {LEVEL})"
    return (
        f"DRIFT: {where} are not like {known}." if drift.is_found else f"No drift found: {where} may be like {known}."
    )


def effect(drift: Drift) -> str:
    """Return how large the largest difference is."""
    if not drift.is_found:
        unseen = max(one.by_chance for one in drift.findings[1:-1])
        return (
            "With so many pictures, a Kolmogorov-Smirnov distance (0 to 1) of less than some "
            f"{unseen:.2f} is taken for chance."
        )
    moved = [one for one in drift.findings if one.p_value <= LEVEL]
    scalars = [one for one in moved if one in drift.findings[1:-1]]
    if not scalars:
        (one, *_) = moved
        within = f"where chance stays within {one.by_chance:.2f}"
        return f"The difference is in the {one.name}: {one.distance:.2f}, {within}."
    one = max(scalars, key=lambda one: one.distance)
    size = "small" if one.distance < MEDIUM else "medium" if one.distance < LARGE else "large"
    assert one.before is not None
    assert one.now is not None
    now, before = number(one.now), number(one.before)
    moves = f"is {'higher' if one.now > one.before else 'lower'}, with a median of {now} instead of {before} and"
    if now == before:
        moves = f"is spread otherwise, with the same median of {now} and"
    return (
        f"The largest difference is {size}: {one.name} {moves} a Kolmogorov-Smirnov distance of {one.distance:.2f}, "
        f"where chance stays within {one.by_chance:.2f}."
    )


def out_of_distribution(drift: Drift) -> str:
    share, known = drift.findings[-1].now, drift.findings[-1].before
    assert share is not None
    assert known is not None
    low, high = share_interval(round(share * len(drift.arrived.files)), len(drift.arrived.files))
    interval = f"95 % interval {low:.1%} to {high:.1%}"
    return f"Out of distribution: {share:.1%} ({interval}), {known:.1%} of the validation pictures."


def advice(drift: Drift) -> list[str]:
    """Return what to do, a sentence or two each."""
    moved = {one.key: one for one in drift.findings if one.p_value <= LEVEL}
    said = []
    if "out_of_distribution" in moved:
        far = moved["out_of_distribution"]
        said.append(FAR.format(share=f"{far.now:.1%}", known=f"{far.before:.1%}"))
    if processing := [moved[key].name for key in ("contrast", "saturation", "sharpness", "ood_score") if key in moved]:
        said.append(PROCESSING.format(", ".join(processing)))
    if "logit" in moved:
        shares = {name: f"{count / len(drift.arrived.files):.0%}" for name, count in verdicts(drift).items()}
        known = f"{float((drift.reference.rows.scalars[:, 0] > 0).mean()):.0%}"
        said.append(SCORE.format(fake=shares["FAKE"], real=shares["REAL"], unsure=shares["UNSURE"], known=known))
    if "features" in moved:
        said.append(CONTENT)
    return [*said, NOT_PROOF]


def verdicts(drift: Drift) -> dict[str, int]:
    """Return how many pictures got each verdict."""
    counts = Counter(one.verdict for one in drift.arrived.predictions)
    return {name: counts[name] for name in ("FAKE", "REAL", "UNSURE")}


def most_foreign(drift: Drift) -> list[int]:
    """Return which pictures are the most foreign, as places in `files`, the most foreign first."""
    return np.argsort(-drift.result.foreignness, kind="stable")[:FOREIGN].tolist()


def as_text(drift: Drift) -> list[str]:
    width = max(len(one.name) for one in drift.findings)
    lines = [verdict(drift), effect(drift), out_of_distribution(drift), ""]
    lines.append(f"{'compared':{width}}  distance  by chance  p-value  median: validation, here")
    for one in drift.findings:
        medians = "" if one.before is None or one.now is None else f"{values(one, one.before)}, {values(one, one.now)}"
        mark = " *" if one.p_value <= LEVEL else ""
        numbers = f"{one.distance:8.3f}  {one.by_chance:9.3f}  {one.p_value:7.4f}"
        lines.append(f"{one.name:{width}}  {numbers}  {medians}{mark}".rstrip())
    if drift.is_found:
        lines.append(f"* differs, at a level of {LEVEL}")
    foreign = ", ".join(one_line(drift.arrived.files[place]) for place in most_foreign(drift)[:5])
    return [*lines, "", f"Most foreign: {foreign}", "", "What to do:", *(f"- {one}" for one in advice(drift))]


def as_json(drift: Drift) -> dict[str, Any]:
    arrived = drift.arrived
    foreign = [
        {"file": arrived.files[place], "foreignness": float(drift.result.foreignness[place])}
        | {name: vars(arrived.predictions[place])[name] for name in ("verdict", "p_fake", "out_of_distribution")}
        for place in most_foreign(drift)
    ]
    return {
        "folder": drift.folder,
        "model": drift.model,
        "pictures": len(arrived.files),
        "drift": drift.is_found,
        "p_value": drift.result.p_value,
        "level": LEVEL,
        "tests": [
            {"name": one.key, **{key: value for key, value in vars(one).items() if key not in ("key", "name")}}
            for one in drift.findings
        ],
        "verdicts": verdicts(drift),
        "notes": dict(Counter(note for one in arrived.predictions for note in one.notes).most_common(20)),
        "most_foreign": foreign,
        "advice": advice(drift),
        "skipped": [{"file": file, "error": one_line(reason)} for file, reason in arrived.skipped],
    }


def p_value(p: float) -> str:
    return f"p = {p:.2g}"


def values(finding: Finding, value: float) -> str:
    return f"{value:.1%}" if finding.key == "out_of_distribution" else number(value)


def number(value: float) -> str:
    return f"{value:.3g}"


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a binomial share (Wilson 1927)."""
    z, share = 1.959964, count / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)
