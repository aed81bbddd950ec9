"""Files and folders are either whole or as they were."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from detector.files import atomic_write


def content(folder: Path) -> dict[str, str]:
    """All files below a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_file_and_a_folder_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_write(tmp_path / "file") as new:
            new.write_text(text)
        with atomic_write(tmp_path / "below/folder") as new:
            new.mkdir()
            (new / text).write_text(text)
    assert content(tmp_path) == {"file": "second", "below/folder/second": "second"}


@pytest.mark.parametrize("stop", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_what_was_there_stays_when_the_writing_stops(stop: BaseException, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_text("old")
    (tmp_path / "file").write_text("old")
    before = content(tmp_path)

    def write_half(name: str, *below: str) -> None:
        with atomic_write(tmp_path / name) as new:
            target = new.joinpath(*below)
            target.parent.mkdir(exist_ok=True)
            target.write_text("new")
            raise stop

    for names in (("file",), ("folder", "half")):
        with pytest.raises(type(stop)):
            write_half(*names)
    assert content(tmp_path) == before


def test_a_folder_that_cannot_be_exchanged_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "folder"):
        pass  # nothing was written that could take its place
    assert content(tmp_path) == {"folder/one": "old"}


def test_others_may_read_what_safetensors_keeps_to_its_owner(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "weights") as new:
            save_file({"x": np.zeros(1)}, new)
        with atomic_write(tmp_path / "folder") as new:
            new.mkdir()
            save_file({"x": np.zeros(1)}, new / "weights")
    finally:
        os.umask(mask)
    for name in ("weights", "folder/weights"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
