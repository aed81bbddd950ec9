"""Files and folders are either whole or as they were."""

import errno
import os
import signal
import stat
import subprocess
import sys
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


# Killed between the two renames of a folder: the old one is hidden, the new one not there yet.
KILLED = """
import os, signal
from pathlib import Path
from detector.files import atomic_write

with atomic_write("folder") as new:
    new.mkdir()
    (new / "one").write_text("new")
    rename = Path.rename
    def killing(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = killing
"""


def test_what_a_killed_process_hid_comes_back_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_text("old")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    with pytest.raises(ValueError, match="no"), atomic_write(tmp_path / "folder"):
        raise ValueError("no")  # the next one fails before it has written anything
    assert content(tmp_path) == {"folder/one": "old"}


@pytest.mark.parametrize("name", ["file", "with [brackets]*", "one.two"])
def test_only_what_dead_processes_left_of_this_very_path_is_swept(name: str, tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    others = [f".{name}.{os.getppid()}.new", f".{name}.backup.new", f".x{name}.{dead.pid}.new"]
    for leftover in (f".{name}.{dead.pid}.new", f".{name}.{dead.pid}.old", f".{name}.{os.getpid()}.new", *others):
        (tmp_path / leftover).write_text("half")
    with atomic_write(tmp_path / name) as new:
        new.write_text("whole")
    assert content(tmp_path) == {name: "whole"} | dict.fromkeys(others, "half")


def test_a_refusal_while_cleaning_up_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def write() -> None:
        with atomic_write(tmp_path / "file") as new:
            new.write_text("half")
            monkeypatch.setattr(Path, "unlink", refuse)
            raise ValueError("the error itself")

    with pytest.raises(ValueError, match="the error itself"):
        write()
