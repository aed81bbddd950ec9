"""An experiment that DVC could not keep is refused before anything is computed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.errors import UserError
from detector.files import check_space
from stages.keeping import check_can_be_kept
from tests.conftest import ROOT

QUIET = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": os.devnull}
for role in ("AUTHOR", "COMMITTER"):
    QUIET |= {f"GIT_{role}_NAME": "Tester", f"GIT_{role}_EMAIL": "tester@example.org"}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, env=QUIET, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of two commits."""
    folder = tmp_path / "here"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for name in ("one", "two"):
        (folder / name).write_text(name)
        git(folder, "add", ".")
        git(folder, "commit", "-qm", name)
    return folder


def refusal(folder: Path, module: str, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, env=QUIET | environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_shallow_clone_is_refused_by_the_sweep_and_by_the_first_stage(repository: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    assert "`git fetch --unshallow`" in refusal(shallow, "tools.sweep", "-S", "seed=1,2")
    # as `dvc exp run --temp` starts the first stage: in a copy below the repository
    copy = shallow / ".dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    started = {"DVC_EXP_BASELINE_REV": "0" * 40, "DVC_ROOT": str(shallow)}
    assert "`git fetch --unshallow`" in refusal(copy, "stages.fingerprint", **started)
    # in the work tree itself nothing can be lost: the first stage goes on, and finds no params.yaml here
    assert "params.yaml" in refusal(shallow, "stages.fingerprint", **started)
    git(shallow, "fetch", "-q", "--unshallow")
    check_can_be_kept(shallow)


@pytest.mark.parametrize("name", ["détecteur", "a#b", "50%20of", "what?", "模型"])
def test_a_path_that_dvc_cannot_write_is_refused(repository: Path, name: str) -> None:
    moved = repository.rename(repository.with_name(name))
    assert "move the repository" in refusal(moved, "stages.keeping", PYTHONUTF8="1")


@pytest.mark.parametrize("name", ["with space", "a'b", "50%", "-x", "a:b;$c"])
def test_other_paths_are_none_of_its_business(repository: Path, name: str) -> None:
    check_can_be_kept(repository.rename(repository.with_name(name)))


def test_without_git_and_without_a_commit_it_is_refused(tmp_path: Path) -> None:
    assert "no git repository" in refusal(tmp_path, "stages.keeping")
    git(tmp_path, "init", "-q")
    assert "has no commit" in refusal(tmp_path, "tools.sweep", "-S", "seed=1,2")
    assert "no program git" in refusal(tmp_path, "stages.keeping", PATH="/nonexistent")


def test_a_worktree_of_a_repository_is_one_too(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "beside"))
    check_can_be_kept(tmp_path / "beside")


def test_a_disk_too_full_is_refused_with_both_numbers(tmp_path: Path) -> None:
    check_space(tmp_path, 1, "this")
    with pytest.raises(UserError, match=r"^this will write 1,000,000,000,000 MB, and the disk of .* MB free"):
        check_space(tmp_path, 10**18, "this")
