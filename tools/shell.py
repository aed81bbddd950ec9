"""Programs that tools start."""

import re
import subprocess
import sys
from pathlib import Path

from detector.errors import UserError

DVC = str(Path(sys.executable).with_name("dvc"))  # of this environment, whether it is activated or not


def command(*words: str) -> str:
    """Return what a program prints. Raises UserError with one line of its message if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        # git says what is wrong first, and much about it afterwards
        said = [line.strip() for line in lines if line.startswith(("fatal:", " ! ", "ERROR:"))]
        raise UserError(f"{' '.join(words)}: {said[0] if said else lines[-1]}")
    return done.stdout


def head() -> str:
    """Return the commit that is checked out."""
    return command("git", "rev-parse", "HEAD").strip()


def experiments() -> list[tuple[str, str, str]]:
    """Return the experiments that have a result: name, commit that it started from, its own commit."""
    found = []
    for line in command("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines():
        reference, revision = line.split()
        if match := re.fullmatch(r"refs/exps/(\w{2})/(\w{38})/(.+)", reference):
            found.append((match[3], match[1] + match[2], revision))
    return found


def find_experiment(name: str) -> tuple[str, str]:
    """Return the commit that an experiment started from, and its own. Raises UserError where not exactly one exists."""
    found = [commits for experiment, *commits in experiments() if experiment == name]
    if not found:
        raise UserError(f"there is no experiment {name}: `dvc exp list` names them")
    if len(found) > 1:
        raise UserError(f"{len(found)} experiments are called {name}: `dvc exp rename` the one to be published")
    (start, own), *_ = found
    return start, own


def check_up_to_date(target: str) -> None:
    """Raise UserError where `dvc repro` would have something to do.

    Files may be missing, but those that are there must be the ones in dvc.lock. The stage `fingerprint` always runs.
    """
    running = re.findall(
        r"^Running stage '(\w+)'", command(DVC, "repro", "--dry", "--allow-missing", target), re.MULTILINE
    )
    if set(running) - {"fingerprint"}:
        raise UserError("dvc.lock is not up to date: `dvc repro` first, and see `dvc status`")
