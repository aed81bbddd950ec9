"""The head of every result: what was measured, on which machine, with which versions, and when."""

import os
from datetime import date
from importlib.metadata import version

from stages.device import device_name


def heading(title: str, *facts: str, versions: tuple[str, ...] = ("torch",)) -> str:
    """Return the first lines of a result, Markdown. versions: of these packages."""
    cores = os.cpu_count()
    parts = [device_name(), f"{cores} core{'s' if cores != 1 else ''}"]
    parts += [f"{name} {version(name)}" for name in versions]
    return f"# {title}\n\n{'; '.join([*parts, *facts, date.today().isoformat()])}.\n"


def model_fact(title: str, sha256: str) -> str:
    """Return which model was asked. title: such as `Detector.title`; sha256: of its model.json."""
    return f"{title}, model.json {sha256[:12]}"
