"""`make release`, and what it promises: `dvc pull models/<name>` on a fresh clone, without network or
account."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.errors import UserError
from detector.files import file_sha256
from tests.conftest import TINY, Project, the_error
from tests.serving import make_model
from tools.release import check


@pytest.mark.long
def test_a_released_model_comes_to_a_fresh_clone_with_one_command(here: Project, tmp_path: Path) -> None:
    said = here.tool("release", "tiny").stdout
    assert "git add released models/.gitignore detector/released.json models/tiny.dvc && git commit" in said
    digests = {path.name: file_sha256(path) for path in (here.path / "models/tiny").iterdir()}
    assert json.loads((here.path / "detector/released.json").read_text()) == {"tiny": digests}
    here.commit("release")
    assert here.changed_stages() == set()

    here.run("git", "clone", "-q", ".", str(tmp_path / "there"))
    shutil.rmtree(here.path)
    there = Project(tmp_path / "there")
    # a proxy that is not there: whoever asks the network fails
    there.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    pulled = there.run("dvc", "pull", "models/tiny", timeout=30)
    assert "ERROR" not in pulled.stderr
    files = sorted(path.name for path in (there.path / "models/tiny").iterdir())
    assert files == ["README.md", "model.json", "model.onnx", "model.safetensors", "reference.safetensors"]

    Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(tmp_path / "grey.png")
    command = [sys.executable, "-m", "detector", str(tmp_path / "grey.png"), "--model", "models/tiny", "--json"]
    (row,) = json.loads(there.run(*command).stdout)
    assert row["verdict"] in ("FAKE", "REAL", "UNSURE")
    assert there.run("git", "status", "--short").stdout == "", "the pull changed what git tracks"
    said = there.run("dvc", "repro", "--allow-missing").stdout
    assert re.findall(r"Running stage '(\w+)'", said) == ["fingerprint"], "without the data there is nothing to do"
    assert there.run("git", "status", "--short").stdout == ""


@pytest.mark.slow
def test_only_the_newest_release_is_kept_and_git_has_the_earlier_ones(here: Project) -> None:
    def released() -> set[str]:
        return {path.name for path in (here.path / "released").rglob("*") if path.is_file()}

    here.tool("release", "tiny")
    here.commit("release")
    here.run("git", "tag", "tiny-v1")
    first = released()
    assert len(first) == 6, "five files, and the list of them"

    here.env["CIFAKE_SOURCE"] = "data/sample"
    here.set(models__tiny__learning_rate=0.05)
    here.run("dvc", "repro")
    assert "git tag tiny-v2" in here.tool("release", "tiny").stdout
    second = released()
    assert len(second) == 6
    assert second != first
    here.commit("another release")

    shutil.rmtree(here.path / ".dvc/cache")
    here.run("git", "checkout", "-q", "tiny-v1")
    assert released() == first
    shutil.rmtree(here.path / "models/tiny")
    here.run("dvc", "pull", "models/tiny")


@pytest.mark.long
def test_what_is_not_fit_to_be_released_is_refused(here: Project) -> None:
    def refused(name: str = "tiny") -> str:
        said = the_error(here.tool("release", name, ok=False))
        assert not (here.path / "models/tiny.dvc").exists()
        return said

    assert "is a tiny, no resnet18" in refused("resnet18")

    here.set(train__auxiliary_loss=0.2)
    assert "dvc.lock is not up to date: `dvc repro` first" in refused()
    here.run("git", "checkout", "-q", "params.yaml")

    record = here.path / "models/exported/model.json"
    info = json.loads(record.read_text())
    record.write_text(json.dumps(info | {"threshold": 0.1}))
    assert "dvc.lock is not up to date" in refused()
    shutil.rmtree(record.parent)
    assert "no model in models/exported: `dvc repro` makes it" in refused()

    sample = make_model(here.path / "sample", dataset="sample")
    (sample / "README.md").touch()
    with pytest.raises(UserError, match="only models of cifake are released"):
        check("weighing", sample)


@pytest.mark.long
def test_a_model_without_all_its_files_is_refused_and_the_release_stays_as_it_is(here: Project) -> None:
    """What `dvc checkout --allow-missing` and `dvc pull export` leave counts as up to date."""
    here.tool("release", "tiny")
    here.commit("release")
    for name in ("README.md", "model.onnx", "model.json"):
        (here.path / "models/exported" / name).unlink()
        said = the_error(here.tool("release", "tiny", ok=False))
        assert f"the model lacks models/exported/{name}: `dvc repro` makes it" in said
    assert here.run("git", "status", "--short").stdout == ""
    assert (here.path / "models/tiny/model.onnx").exists()


@pytest.mark.long
def test_models_of_several_experiments_are_released_one_after_the_other(here: Project) -> None:
    """Without `dvc exp apply`, which would take the first release back with the second one's work tree."""
    here.env["CIFAKE_SOURCE"] = "data/sample"
    here.set(models__other=TINY | {"epochs": 1})
    here.commit("another model")
    for model in ("tiny", "other"):
        here.run("dvc", "exp", "run", "--temp", "--name", f"{model}-seed0", "-S", f"model={model}")
    for model in ("tiny", "other"):
        here.tool("release", model, f"{model}-seed0")
        here.commit(f"release {model}")
    released = json.loads((here.path / "detector/released.json").read_text())
    assert sorted(released) == ["other", "tiny"]
    for model, digests in released.items():
        assert json.loads((here.path / f"models/{model}/model.json").read_text())["model"] == model
        assert file_sha256(here.path / f"models/{model}/README.md") == digests["README.md"]
    assert "there is no experiment mine" in the_error(here.tool("release", "tiny", "mine", ok=False))


@pytest.mark.long
def test_a_clone_that_has_an_earlier_release_gets_the_new_one(here: Project) -> None:
    here.tool("release", "tiny")
    record = here.path / "models/tiny/model.json"
    of_the_release = record.read_text()
    record.unlink()  # it may be a link into DVC's cache
    record.write_text(of_the_release.replace('"seed": 0', '"seed": 7'))
    assert "models/tiny is ready" in here.tool("unpack").stdout
    assert record.read_text() == of_the_release
    assert here.tool("unpack").stdout == ""
    # a model of the user's own beside it is none of these
    shutil.copytree(here.path / "models/exported", here.path / "models/mine")
    here.run("dvc", "add", "models/mine")
    assert here.tool("unpack").stdout == ""
    here.tool("release", "tiny")
    assert list(json.loads((here.path / "detector/released.json").read_text())) == ["tiny"]
