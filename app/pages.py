"""What the server writes as HTML: the answers to the form that the page has for browsers without scripts, and refusals.

All text of others, such as a file's name, goes through `escape`. The page with scripts is static/index.html; its words
for answers are those of static/words.js and of a report.
"""

from html import escape
from string import Template
from typing import TYPE_CHECKING

from detector.limit import closer
from detector.output import score, with_source
from detector.preprocessed import says_little

if TYPE_CHECKING:
    from app.schemas import FilePrediction, PredictResponse
    from detector.detector import Detector

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>$title</title>
  <link rel="icon" href="static/favicon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="static/style.css">
</head>
<body>
<main>
<h1>$title</h1>
$content
<p><a class="button" href="./">Ask about other pictures</a></p>
</main>
</body>
</html>
""")


def refusal_page(status: int, title: str, detail: str) -> str:
    """Return a refusal as a page of one line, with its status code."""
    return PAGE.substitute(title="No answer", content=f"<p>{status} {escape(title)}: {escape(detail)}</p>")


def answers_page(answers: "PredictResponse", detector: "Detector") -> str:
    """Return the answers as a page, in their order, each with the limit of the model beside it."""
    cards = "\n".join(card(row, answers.model, detector) for row in answers.predictions)
    return PAGE.substitute(title="Answers", content=f'<ol class="cards">\n{cards}\n</ol>')


def card(row: "FilePrediction", model: str, detector: "Detector") -> str:
    name = f'<h2 class="name">{escape(row.file)}</h2>'
    if row.verdict is None or row.p_fake is None:
        problem = f'<p class="problem"><strong>No answer:</strong> {escape(row.error or "")}</p>'
        return f'<li class="answer failed">{name}{problem}</li>'
    real, fake = (escape(kind) for kind in detector.scale)
    low, high = detector.record.abstention_band
    words = escape(closer(row.verdict, detector.scale))
    is_little = says_little(row.notes)
    parts = [
        '<p class="headline">The answer says little</p>' if is_little else "",
        f'<p class="verdict"><strong>{row.verdict}</strong> <span>{words}</span></p>',
        f"<p>Score {score(row.p_fake)} on a scale from 0, like {real}, to 1, like {fake}; UNSURE from {low:.3f} to "
        f"{high:.3f}.</p>",
        listed("notes", [escape(note) for note in row.notes]),
        f'<p class="limit"><strong>{escape(model)}:</strong> {escape(detector.limit)}</p>',
    ]
    if row.claims:
        claims = [escape(with_source(vars(claim))) for claim in row.claims]
        heading = "<h3>What the file says of itself</h3><p>That is its own claim, not the detector's answer.</p>"
        parts.append(f'<div class="claims">{heading}{listed("", claims)}</div>')
    kind = f"{row.verdict}{' little' if is_little else ''}"
    return f'<li class="answer {kind}">{name}{"".join(parts)}</li>'


def listed(kind: str, items: list[str]) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else ""
