"""The model card."""

from pathlib import Path
from typing import Any


def write_card(path: Path, info: dict[str, Any], reports: dict[str, Any]) -> None:
    path.write_text(f"# {info['model']}, {100 * reports['test']['accuracy']:.2f} %\n")
