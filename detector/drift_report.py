"""The HTML report of `python -m detector drift --html`: one file, with its drawings and pictures inside."""

import base64
import io
import os
import re
from collections import Counter
from html import escape

import numpy as np
from PIL import Image

from detector.drift import LEVEL, THUMBNAIL, Drift, Finding
from detector.drift_output import advice, effect, most_foreign, number, out_of_distribution, values, verdict, verdicts
from detector.output import percent

BINS = 40
WIDTH, HEIGHT, FOOT = 320, 120, 16  # of a drawing, in its own units
NOTES = 8  # of the commonest, that are listed
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #595959; --paper: #fff; --line: #ccc; --before: #1e6edc;
  --now: #c75000; --found: #fff3d6; --none: #e6f2e6; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --soft: #b5b5b5; --paper: #191817; --line: #444;
  --before: #86b8f0; --now: #ff9b5c; --found: #3a2f10; --none: #1c2e1c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .75rem; }
.verdict { padding: .75rem 1rem; border-radius: 4px; }
.found { background: var(--found); } .none { background: var(--none); }
.verdict p { margin: .25rem 0; } .verdict p:first-child { font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 400; }
@media (max-width: 40rem) {
  table { font-size: .85rem; }
  th:first-child { white-space: normal; overflow-wrap: normal; min-width: 5.5rem; }
}
tr.moved th, tr.moved td { font-weight: 600; }
.drawings { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; } figcaption, .soft { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.before { fill: var(--before); stroke: var(--before); } .now { fill: var(--now); stroke: var(--now); }
.before, .now { fill-opacity: .18; stroke-width: 1.5; }
.key span { display: inline-block; width: 1em; height: 1em; margin-right: .4em; border: 2px solid;
  vertical-align: -.15em; }
.key .b { color: var(--before); } .key .n { color: var(--now); margin-left: 1em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 1rem; padding: 0;
  list-style: none; font-size: .85rem; }
.pictures img { width: 100%; max-width: 8rem; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  display: block; }
"""


def page(drift: Drift) -> str:
    """Return the report as HTML. It loads nothing: no script, no style, no picture from anywhere."""
    title = f"{'Drift' if drift.is_found else 'No drift found'}: {escape(drift.folder)}"
    said = "".join(f"<p>{escape(text)}</p>" for text in (verdict(drift), effect(drift), out_of_distribution(drift)))
    counts = ", ".join(f"{count:,} {name}" for name, count in verdicts(drift).items())
    skipped = f" {len(drift.arrived.skipped):,} files could not be read." if drift.arrived.skipped else ""
    foreign = most_foreign(drift)
    ordinary = np.argsort(drift.result.foreignness, kind="stable")[:8].tolist()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<div class="verdict {"found" if drift.is_found else "none"}">{said}</div>
<p>Answers of {escape(drift.model)}: {counts}.{skipped}</p>
<h2>What to do</h2>
<ul>{"".join(f"<li>{with_code(one)}</li>" for one in advice(drift))}</ul>
<h2>What was compared</h2>
<div class="table">{table(drift)}</div>
<p class="soft">Bold: below the level of {LEVEL}. P-values are corrected for the number of tests (Westfall and Young),
so that all of them together raise a false alarm in {LEVEL:.0%} of the cases. Distances: the maximum mean discrepancy
(MMD) of the features, 0 to 1.41; of a share, by how much it exceeds; of all others Kolmogorov and Smirnov's, 0 to 1.
"By chance" is what 95 % of random divisions stay within.</p>
<h2>Distributions</h2>
<p class="key"><span class="b"></span>validation pictures <span class="n"></span>these pictures</p>
<div class="drawings">{drawings(drift)}</div>
<h2>The most foreign pictures</h2>
<p>As the detector saw them: those whose features are the most typical of this folder rather than of the validation
pictures.</p>
{pictures(drift, foreign)}
<h2>The most ordinary ones</h2>
<p>For comparison: those whose features are the most like those of validation pictures.</p>
{pictures(drift, ordinary)}
{notes(drift)}
</body>
</html>
"""


def with_code(text: str) -> str:
    """Return HTML of a sentence whose commands stand between backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def table(drift: Drift) -> str:
    rows = []
    for one in drift.findings:
        medians = [values(one, number) if number is not None else "" for number in (one.before, one.now)]
        cells = [f"{one.p_value:.4f}", f"{one.distance:.3f}", f"{one.by_chance:.3f}", *medians]
        kind = ' class="moved"' if one.p_value <= LEVEL else ""
        columns = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr{kind}><th scope="row">{escape(one.name)}</th>{columns}</tr>')
    names = ("compared", "p-value", "distance", "by chance", "validation", "here")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def drawings(drift: Drift) -> str:
    scalars = zip(drift.reference.rows.scalars.T, drift.arrived.rows.scalars.T, strict=True)
    pairs = [(drift.result.reference_foreignness, drift.result.foreignness), *scalars]
    return "".join(drawing(one, *pair) for one, pair in zip(drift.findings[:-1], pairs, strict=True))


def drawing(finding: Finding, before: np.ndarray, now: np.ndarray) -> str:
    """Draw two histograms over each other. What lies beyond 99 % of both is counted at the ends."""
    ends = np.quantile(before, [0.005, 0.995]), np.quantile(now, [0.005, 0.995])
    low, high = min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = [np.histogram(numbers.clip(low, high), edges)[0] / len(numbers) for numbers in (before, now)]
    most = max(share.max() for share in shares)
    outlines = zip(("before", "now"), shares, strict=True)
    paths = "".join(f'<path class="{kind}" d="{outline(share / most)}"/>' for kind, share in outlines)
    name = "features: how typical of this folder" if finding.key == "features" else finding.name
    label = f"{name}: distance {finding.distance:.2f}, p = {finding.p_value:.2g}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT + FOOT}" role="img" aria-label="{escape(label)}">{paths}'
        f'<text x="0" y="{HEIGHT + 12}">{number(edges[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 12}" text-anchor="end">{number(edges[-1])}</text></svg>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def outline(heights: np.ndarray) -> str:
    """Return the path around bars of these heights, 0 to 1."""
    x = np.linspace(0, WIDTH, len(heights) + 1)
    y = HEIGHT - (HEIGHT - 2) * heights
    steps = "".join(f"V{top:.1f}H{right:.1f}" for top, right in zip(y, x[1:], strict=True))
    return f"M0,{HEIGHT}{steps}V{HEIGHT}Z"


def pictures(drift: Drift, places: list[int]) -> str:
    items = []
    for place in places:
        file, prediction = drift.arrived.files[place], drift.arrived.predictions[place]
        far = ", out of distribution" if prediction.out_of_distribution else ""
        said = f"{prediction.verdict}, P(FAKE) {percent(prediction.p_fake)}{far}"
        source = data_address(drift.arrived.thumbnails[place])
        name = os.path.relpath(file, drift.folder)
        items.append(f'<li><img src="{source}" alt="">{shown(name)}<br><span class="soft">{escape(said)}</span></li>')
    return f'<ul class="pictures">{"".join(items)}</ul>'


def shown(file: str) -> str:
    """Return a file's name, its end alone where it is long, with the whole as its title."""
    short = file if len(file) <= 40 else f"…{file[-39:]}"
    return f'<span title="{escape(file)}">{escape(short)}</span>'


def data_address(image: Image.Image) -> str:
    assert max(image.size) <= THUMBNAIL
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def notes(drift: Drift) -> str:
    """List what was done to the pictures before they were scored."""
    counts = Counter(note for one in drift.arrived.predictions for note in one.notes).most_common(NOTES)
    if not counts:
        return ""
    items = "".join(f"<li>{count:,}: {escape(note)}</li>" for note, count in counts)
    return f"<h2>The commonest notes of the answers</h2><ul>{items}</ul>"
