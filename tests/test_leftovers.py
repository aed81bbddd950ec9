"""What DVC and killed processes leave behind, and model folders and splits that are links into DVC's cache."""

import fcntl
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from detector import Detector
from stages.data import load_split
from stages.leftovers import CHECKPOINT_DAYS, tidy
from tests.conftest import TINY, Project


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def link_into_cache(folder: Path, cache: Path, kind: str) -> None:
    """Make the files of a folder what DVC's cache of this type makes of them: read-only, in the cache, and linked."""
    for file in folder.iterdir():
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        stored = cache / "files/md5" / digest[:2] / digest[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        file.rename(stored)
        stored.chmod(0o444)
        file.symlink_to(stored) if kind == "symlink" else file.hardlink_to(stored)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_a_model_and_a_split_are_read_through_links(here: Project, tmp_path: Path, kind: str) -> None:
    model, split = here.path / "models/exported", here.path / "data/test"
    images = load_split(split).images[:8]
    expected = Detector.load(model).logits(images)
    link_into_cache(model, tmp_path / "cache", kind)
    link_into_cache(split, tmp_path / "cache", kind)
    assert np.array_equal(load_split(split).images[:8], images)
    assert np.array_equal(Detector.load(model).logits(images), expected)
    linked = tmp_path / "elsewhere"  # a link to the folder, on top of it
    linked.symlink_to(model)
    assert np.array_equal(Detector.load(linked).logits(images), expected)


def test_links_to_what_the_cache_lacks_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    lost = "/nowhere/files/md5/00/" + "0" * 30
    for name in ("models/trained/model.json", "data/train/index.safetensors", "metrics/test_scores.parquet"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).symlink_to(lost)
    Path("data/mine").mkdir()
    Path("data/mine/of-the-user").symlink_to("/nowhere/at/all")
    Path("data/mine/whole").symlink_to(tmp_path)
    tidy()
    assert names("data") == ["mine"]
    assert names("data/mine") == ["of-the-user", "whole"]
    assert names("models") == names("metrics") == []


def test_outs_that_a_killed_stage_hid_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"models/.trained.{dead.pid}.old", f"models/.trained.{dead.pid}.new", f"plots/.test.{dead.pid}.new"):
        Path(name).mkdir(parents=True)
    Path(f"models/.trained.{dead.pid}.old/model.json").write_text("old")
    tidy()
    assert [str(path) for path in sorted(Path().rglob("*"))] == [
        "models",
        "models/trained",
        "models/trained/model.json",
        "plots",
    ]


@pytest.mark.parametrize(
    ("text", "stays"), [("", False), ('{"write": {"a', False), ('{"write": {}, "read": {}}', True)]
)
def test_a_lock_that_a_killed_dvc_left_broken_is_removed(
    text: str, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    lock = tmp_path / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_text(text)
    monkeypatch.chdir(tmp_path)
    tidy()
    assert lock.exists() == stays


def test_only_old_checkpoints_that_nobody_holds_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    train = tmp_path / ".dvc/tmp/train"
    for name, days in (("old", CHECKPOINT_DAYS + 1), ("held", CHECKPOINT_DAYS + 1), ("recent", CHECKPOINT_DAYS - 1)):
        (train / name).mkdir(parents=True)
        for file in (train / name / "lock", train / name / "checkpoint.safetensors"):
            file.write_text("")
            os.utime(file, (time.time() - days * 86400,) * 2)
    with (train / "held/lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tidy()
    assert names(train) == ["held", "recent"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_an_experiment_is_run_and_applied_with_a_cache_of_links(here: Project, tmp_path: Path, kind: str) -> None:
    """From a clone whose cache has nothing of the committed run, as after `git clone`."""
    clone = Project(tmp_path / "clone")
    here.run("git", "clone", "-q", str(here.path), str(clone.path))
    clone.env |= {"CIFAKE_SOURCE": str(here.path / "data/sample"), "OMP_NUM_THREADS": "1"}
    clone.run("dvc", "config", "--local", "cache.type", kind)
    clone.run("dvc", "config", "--local", "cache.shared", "group")
    clone.run("dvc", "cache", "dir", "--local", str(tmp_path / "shared cache"))
    clone.run("dvc", "exp", "run", "--temp", "--name", "one", "-S", f"models.tiny.epochs={TINY['epochs'] - 1}")
    clone.run("dvc", "exp", "apply", "one")
    outs = [file for name in ("data", "models", "metrics") for file in (clone.path / name).rglob("*")]
    assert [file for file in outs if not file.exists()] == []
    assert any(file.is_symlink() for file in outs) == (kind == "symlink")
    assert json.loads((clone.path / "metrics/train.json").read_text())["epochs"] == TINY["epochs"] - 1
    # the stages replace links, never what they lead to
    clone.stage("export")
    assert clone.run("dvc", "exp", "show").returncode == 0
    Detector.load(clone.path / "models/exported")
