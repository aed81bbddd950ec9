"""Say what a change does to the metrics: before, after, the difference with its unit, and which way is better.

    python -m tools.metrics_report main                  the work tree against a commit
    python -m tools.metrics_report main my-experiment    an experiment against it

The tables are Markdown. Shares are shown in percent, and their differences in points (pp).
"""

import argparse
import json
import sys
from typing import Any

from detector.errors import run
from tools.shell import DVC, command

HIGHER, LOWER, NEITHER = "higher", "lower", "-"
SHARE, SCORE, COUNT, PAIRS, SECONDS, RATE, MEGABYTES = "%", "", "images", "pairs", "s", "images/s", "MB"

# docs/reference/metrics.md says what each is. A key that is missing here is shown as it is, without unit and direction.
MEANING = {
    "accuracy": (SHARE, HIGHER),
    "auroc": (SCORE, HIGHER),
    "auroc_low": (SCORE, HIGHER),
    "auroc_high": (SCORE, HIGHER),
    "average_precision": (SCORE, HIGHER),
    "f1": (SCORE, HIGHER),
    "fake_recall": (SHARE, HIGHER),
    "real_recall": (SHARE, HIGHER),
    "tpr_at_1_fpr": (SHARE, HIGHER),
    "ece": (SHARE, LOWER),
    "accuracy_without_leaked": (SHARE, HIGHER),
    "coverage": (SHARE, HIGHER),
    "selective_accuracy": (SHARE, HIGHER),
    "worst_accuracy": (SHARE, HIGHER),
    "corrupted_accuracy": (SHARE, HIGHER),
    "rescaled_accuracy": (SHARE, HIGHER),
    "deletion_important": (SCORE, HIGHER),
    "deletion_random": (SCORE, LOWER),
    "val_accuracy": (SHARE, HIGHER),
    "val_auroc": (SCORE, HIGHER),
    "offset": (SCORE, NEITHER),
    "temperature": (SCORE, NEITHER),
    "seconds": (SECONDS, LOWER),
    "images_per_second": (RATE, HIGHER),
    "peak_memory_mb": (MEGABYTES, LOWER),
    "parameters": ("", LOWER),
    "epochs": ("", NEITHER),
    "best_epoch": ("", NEITHER),
    "largest_difference": (SCORE, LOWER),
    "exported_accuracy": (SHARE, HIGHER),
    "ood_test": (SHARE, LOWER),
    "ood_noise": (SHARE, HIGHER),
    "ood_colour": (SHARE, HIGHER),
    "ood_enlarged": (SHARE, HIGHER),
    "ood_inverted": (SHARE, HIGHER),
    "compared": (COUNT, NEITHER),
    "confidently_wrong_elsewhere": (SHARE, LOWER),
    "auroc_elsewhere": (SCORE, HIGHER),
    "caught_elsewhere": (SHARE, HIGHER),
    "false_alarms_elsewhere": (SHARE, LOWER),
    "duplicates": (PAIRS, LOWER),
    "duplicates_train": (PAIRS, LOWER),
    "duplicates_test": (PAIRS, LOWER),
    "duplicates_across": (PAIRS, LOWER),
    "near_duplicates": (PAIRS, LOWER),
    "near_duplicates_across": (PAIRS, LOWER),
    "leaked": (COUNT, LOWER),
    "near_leaked": (COUNT, LOWER),
    "damaged": (COUNT, LOWER),
    "noted": (COUNT, LOWER),
    "shortcut_auroc": (SCORE, LOWER),
    "alarms": ("", LOWER),
}
EXAMPLES = """examples:
  python -m tools.metrics_report main
  python -m tools.metrics_report main bumpy-cars
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.metrics_report",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", help="a commit, branch or experiment")
    parser.add_argument("after", nargs="?", help="another one; without it, the work tree")
    arguments = parser.parse_args()
    revisions = [arguments.before, *([arguments.after] if arguments.after else [])]
    changes = json.loads(command(DVC, "metrics", "diff", "--json", *revisions))
    sys.stdout.write(report(changes))


def report(changes: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return Markdown for {file: {key: {"old": value, "new": value}}}, as `dvc metrics diff --json` prints it."""
    tables = []
    for path, values in sorted(changes.items()):
        rows = [row(key, change.get("old"), change.get("new")) for key, change in sorted(values.items(), key=rank)]
        head = ["| Metric | Before | After | Change | Better is | |", "| --- | ---: | ---: | ---: | --- | --- |"]
        tables.append("\n".join([f"### {path}", "", *head, *rows]))
    return "\n\n".join(tables or ["No metric changes."]) + "\n"


def rank(item: tuple[str, Any]) -> tuple[int, str]:
    """Known metrics come first, in the order of `MEANING`."""
    key = item[0]
    return (list(MEANING).index(key) if key in MEANING else len(MEANING), key)


def row(key: str, old: Any, new: Any) -> str:
    unit, direction = MEANING.get(key, ("", NEITHER))
    change = verdict = ""
    if is_number(old) and is_number(new):
        difference = new - old
        change = written(difference, unit, sign="+").replace(" %", " pp")
        if direction != NEITHER and difference:
            verdict = "better" if (difference > 0) == (direction == HIGHER) else "worse"
    return f"| {key} | {written(old, unit)} | {written(new, unit)} | {change} | {direction} | {verdict} |"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def written(value: Any, unit: str, sign: str = "") -> str:
    """Return a value with its unit; "none" where a metric is missing."""
    if value is None:
        return "none"
    if not is_number(value):
        return str(value).replace("|", "\\|")
    if unit == SHARE:
        return f"{100 * value:{sign}.2f} %"
    number = f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign},.5g}"
    return f"{number} {unit}".strip()


if __name__ == "__main__":
    run(main)
