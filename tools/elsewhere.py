"""Say what a model's answers are worth on the data sets of `evaluate.external` in params.yaml.

The model may be a released one or any other that is here: nothing is trained, and nothing written.
"""

import argparse

from detector.detector import Detector
from detector.errors import UserError, run
from stages.external.__main__ import Row, external_rows, external_summary
from stages.params import load_params

HEADINGS = {  # metrics/external_sources.json: heading
    "auroc": "AUROC",
    "caught": "Caught",
    "false_alarms": "Called FAKE",
    "coverage": "Answered",
    "out_of_distribution": "Out of distribution",
    "confidently_wrong": "Confidently wrong",
}
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
    lines = [f"| Source | Class | Images | {' | '.join(HEADINGS.values())} |", "| --- " * (len(HEADINGS) + 3) + "|"]
    for row in rows:
        control = " (control)" if row["control"] else ""
        cells = [f"{row['dataset']}: {row['source']}{control}", row["class"], f"{row['images']:,}"]
        for name in HEADINGS:
            if row.get(name) is None:
                cells.append("")
                continue
            scale, unit, digits = (1, "", 3) if name == "auroc" else (100, " %", 1)
            value, low, high = (f"{scale * number:.{digits}f}" for number in row[name])
            cells.append(f"{value}{unit} ({low} to {high})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
