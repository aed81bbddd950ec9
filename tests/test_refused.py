"""A machine that refuses, for real: a disk that is read-only, a mount in the way, too little address space."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, Project, the_error
from tests.serving import make_model

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'
MOUNTED = 'mount -t tmpfs none "$0" && exec "$@"'


def mounted(how: str, folder: Path, *command: str) -> list[str]:
    """The command, in a namespace of its own where the folder is mounted so."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no user namespaces: no folder can be made read-only for the administrator")
    return ["unshare", "-rm", "sh", "-c", how, str(folder), *command]


@pytest.fixture
def asking(tmp_path: Path) -> Project:
    """A folder with what asking takes: the code, a model and a picture."""
    shutil.copytree(ROOT / "detector", tmp_path / "detector", ignore=shutil.ignore_patterns("__pycache__"))
    make_model(tmp_path / "models/weighing")
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "grey.png")
    return Project(tmp_path)


def ask(*options: str) -> list[str]:
    return [sys.executable, "-m", "detector", "grey.png", "--model", "models/weighing", *options]


def test_asking_needs_no_disk_that_it_may_write(asking: Project) -> None:
    assert "grey.png" in asking.run(*mounted(READ_ONLY, asking.path, *ask())).stdout
    refused = asking.run(*mounted(READ_ONLY, asking.path, *ask("--explain", "why.png")), ok=False)
    assert the_error(refused) == "error: . may not be written to: name another folder"


@pytest.mark.long
@pytest.mark.parametrize("name", ["prepare", "train", "evaluate", "export", "external", "card"])
def test_a_stage_on_a_read_only_disk_says_so_in_one_line(here: Project, name: str) -> None:
    stage = [sys.executable, "-m", f"stages.{name}"]
    before = here.outputs()
    here.env["CIFAKE_SOURCE"] = "data/sample"
    assert "the file system is read-only" in the_error(here.run(*mounted(READ_ONLY, here.path, *stage), ok=False))
    assert here.outputs() == before


def test_a_mount_in_the_place_of_an_out_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write = (
        "from detector.errors import run; from detector.files import atomic_write\n"
        "def main():\n"
        f"    with atomic_write({str(tmp_path / 'out')!r}) as new: new.mkdir()\n"
        "run(main)"
    )
    command = mounted(MOUNTED, tmp_path / "out", sys.executable, "-c", write)
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert the_error(refused).startswith("error: in use by the system")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.long
def test_what_cannot_be_removed_while_cleaning_up_stops_nobody(tmp_path: Path) -> None:
    """A mount in the checkpoint of a training that has ended, and in one that nobody resumed."""
    busy = tmp_path / ".dvc/tmp/train/old/busy"
    busy.mkdir(parents=True)
    for command in (
        "from stages.train.checkpoint import Checkpoint; Checkpoint('old').remove(); print('ended')",
        "import os; os.utime('.dvc/tmp/train/old/busy', (0, 0)); os.utime('.dvc/tmp/train/old', (0, 0))\n"
        "from stages.leftovers import tidy; tidy(); print('ended')",
    ):
        project = Project(tmp_path)
        project.env["PYTHONPATH"] = str(ROOT)
        assert project.run(*mounted(MOUNTED, busy, sys.executable, "-c", command)).stdout == "ended\n"
        assert busy.exists()


def limited(megabytes: int) -> dict[str, object]:
    """For `Project.run`: what `ulimit -v` does."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6,) * 2)}


@pytest.mark.parametrize("megabytes", [70, 150, 250, 350])
def test_asking_with_too_little_address_space_is_one_line(asking: Project, megabytes: int) -> None:
    line = the_error(asking.run(*ask(), ok=False, **limited(megabytes)))
    assert "out of memory" in line or "not enough memory" in line


@pytest.mark.parametrize("megabytes", [400, 1200])
def test_so_is_training(project: Project, megabytes: int) -> None:
    assert "out of memory" in the_error(project.stage("train", ok=False, **limited(megabytes)))
