"""Whether DVC can keep an experiment that runs in a copy of the repository: asked before anything is computed.

    python -m stages.keeping        `make demo` asks so

`dvc exp run --temp` and the queue run in a copy, and move the result into this repository with git at the end. Where
that cannot be, DVC computes everything, exits with 0 as like as not, and the experiment is nowhere.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

from detector.errors import UserError, run


def check_started_experiment() -> None:
    """For the first stage: check where `dvc exp run` has started this run. Raises UserError.

    In the work tree itself, without `--temp` and the queue, nothing is moved and nothing can be lost.
    """
    if "DVC_EXP_BASELINE_REV" in os.environ and Path(os.environ["DVC_ROOT"]).resolve() != Path.cwd():
        check_can_be_kept(Path(os.environ["DVC_ROOT"]))


def check_can_be_kept(repository: Path) -> None:
    """Raise UserError where the result of a run in a copy of the repository could not be brought back into it."""
    path = str(repository.resolve())
    # DVC makes a URL of the path
    if not path.isascii() or any(mark in path for mark in "#?") or unquote(path) != path:
        raise UserError(
            f"DVC cannot keep experiments in {path}: only letters of ASCII, no # and ? and nothing like %20 may be in "
            "the path; move the repository"
        )
    if shutil.which("git") is None:
        raise UserError("there is no program git: experiments are kept with it")
    if git(repository, "rev-parse", "--is-inside-work-tree") != "true":
        raise UserError(
            f"{path} is no git repository, and experiments are kept in one: clone the project with git, or, for a copy "
            "without its history, `git init && git add . && git commit -m start`"
        )
    if not git(repository, "rev-parse", "--verify", "--quiet", "HEAD"):
        raise UserError(f"{path} has no commit, and an experiment starts from one: `git add . && git commit -m start`")
    if git(repository, "rev-parse", "--is-shallow-repository") == "true":
        raise UserError(
            "this clone is shallow, and DVC loses experiments in one: `git fetch --unshallow` brings its history"
        )
    store = repository / git(repository, "rev-parse", "--git-common-dir")
    if not os.access(store, os.W_OK):
        raise UserError(f"no permission to write into {store}, where experiments are kept")


def git(repository: Path, *words: str) -> str:
    """Return what git prints, nothing where it fails."""
    return subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    run(lambda: check_can_be_kept(Path()))
