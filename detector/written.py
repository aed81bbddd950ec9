"""Where the shell's programs may write: checked before the work is done, not after it."""

import os
import re
from pathlib import Path

from detector.errors import UserError

MADE_BY = "AI Art Detector"  # PNG's Software of a drawing: another program's picture is not replaced by one

# Where Excel reads decimal commas, as in German, it splits a line of CSV at ; and not at the commas. The wide signs
# are those of East Asian keyboards.
FORMULA = re.compile(r"([;\t]\s*)(?=[=+\-@{0}])|((?:^|,)\"?)(?=[{0}])".format(r"\uff1d\uff0b\uff0d\uff20"))


def without_formulas(line: str) -> str:
    """Return a line of CSV in which ' stands before whatever a spreadsheet may take for a formula, and
    detector/output.py leaves as it is."""
    return FORMULA.sub(r"\g<0>'", line)


def file_to_write(path: str | Path, *endings: str) -> Path:
    """Return the path of a file that is to be written: its name has one of these endings, in lower case.

    Raises UserError for another name, for a folder, whose contents would be gone, and where a folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it, such as {path / f'answer{endings[0]}'}")
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: name a file that ends in {endings[0]}")
    require_folder(path.parent)
    return path


def drawing_to_write(path: str | Path) -> Path:
    """The same for a drawing. Raises UserError where a picture is there already that is no drawing: a shell that
    replaces *.png by names puts a picture where the drawing's name was left out."""
    path = file_to_write(path, ".png")
    if path.exists():
        from PIL import Image

        try:
            with Image.open(path) as there:
                is_drawing = there.info.get("Software") == MADE_BY
        except OSError:
            is_drawing = False
        if not is_drawing:
            raise UserError(f"{path} is there already and is no drawing of this program's: name another file")
    return path


def table_to_write(path: Path, header: str) -> Path:
    """The same for the CSV beside a report, which nobody named. Raises UserError where a file is there already whose
    first line is another one."""
    path = file_to_write(path, ".csv")
    if path.exists():
        with path.open("rb") as there:
            if there.readline(1000).rstrip() != header.encode():
                raise UserError(f"{path} is there already and is no CSV of this program's: name another report")
    return path


def require_folder(path: Path) -> None:
    """Raises UserError where a folder that is to be made, or written in, would lie in a file or may not be written."""
    nearest = next((parent for parent in (path, *path.parents) if parent.exists()), None)
    if nearest is None:
        return
    if not nearest.is_dir():
        raise UserError(f"{nearest} is no folder: nothing can be written below it")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} may not be written to: name another folder")
