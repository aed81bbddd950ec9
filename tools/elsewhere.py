"""Say what a model's answers are worth on the data sets of `evaluate.external` in params.yaml.

The model may be a released one or any other that is here: nothing is trained, and nothing written.
"""

import argparse

from detector.detector import Detector
from detector.errors import UserError, run
from stages.external.__main__ import Row, external_rows, external_summary
from stages.params import load_params
from tools.leaderboard import ELSEWHERE, cell_elsewhere, markdown, source_title

EXAMPLES = """examples:
  python -m tools.elsewhere models/vit_tiny
  python -m tools.elsewhere hf://OWNER/NAME    once `python -m detector fetch` brought it
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.elsewhere",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="its folder")
    detector = Detector.load(parser.parse_args().model)
    rows = external_rows(detector, load_params())
    if not rows:
        raise UserError("no data set of evaluate.external in params.yaml is here that it was not trained on")
    print(f"\n{table(rows)}\n")
    summary = external_summary(rows)
    print(", ".join(f"{name} {value:.4f}" for name, value in summary.items()) or "controls alone: no mean counts them")


def table(rows: list[Row]) -> str:
    """Return Markdown: a row for each source, with 95 % intervals."""
    lines = [["Source", "Class", "Images", *ELSEWHERE.values()]]
    for row in rows:
        cells = [source_title(row), row["class"], f"{row['images']:,}"]
        found = {heading: [row[name]] if row.get(name) else [] for name, heading in ELSEWHERE.items()}
        lines.append(cells + [cell_elsewhere(numbers, heading) for heading, numbers in found.items()])
    return markdown(lines)


if __name__ == "__main__":
    run(main)
