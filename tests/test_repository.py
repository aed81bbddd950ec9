"""What somebody who clones this repository relies on."""

import json
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from app.schemas import OCCLUSION_MAP, PHOTOGRAPH, SHA256
from detector import Detector
from detector.limit import LIMIT
from detector.released import DEFAULT
from tests.conftest import BIN, ROOT, Project

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_lists_every_target_with_one_line() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", said, re.MULTILINE))
    assert set(lines) == TARGETS
    assert len(said.splitlines()) == len(TARGETS)


@pytest.mark.parametrize(
    "document", ["README.md", "docs/remote.md", "docs/how-to/serve.md", ".ci/run", ".github/workflows/tests.yml"]
)
def test_every_make_target_that_is_mentioned_exists(document: str) -> None:
    # in code only: in prose, people make up their minds
    mentioned = set(re.findall(r"(?:^|[`:] *|run: )make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE))
    assert mentioned <= TARGETS


@pytest.mark.long
def test_every_tool_has_help_and_refuses_what_it_does_not_know(clone: Project) -> None:
    tools = [path.stem for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text()]
    assert "unpack" in tools
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda name: clone.tool(name, "--help").stdout, tools))
        refused = list(pool.map(lambda name: clone.tool(name, "--no-such-option", ok=False), tools))
    assert [name for name, text in zip(tools, told, strict=True) if not text.startswith("usage: ")] == []
    assert {name: done.returncode for name, done in zip(tools, refused, strict=True) if done.returncode != 2} == {}
    assert clone.run("git", "status", "--short").stdout == ""


def test_dvc_task_is_one_whose_workers_do_not_stop_each_other() -> None:
    found = re.search(r"^dvc-task==(\d+)\.(\d+)\.(\d+)$", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert found is not None
    assert tuple(map(int, found.groups())) >= (0, 40, 2)


def test_dockerfiles_follow_the_rules_and_copy_what_there_is() -> None:
    files = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
    said = subprocess.run([BIN / "hadolint", *files], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")
    for file in files:
        sources = re.findall(r"^COPY (?:--\S+ )*((?:[\w./-]+ )+)", file.read_text(), re.MULTILINE)
        names = [name for source in sources for name in source.split() if not name.startswith("models/")]
        assert names
        assert all((ROOT / name).exists() for name in names)
        ignore = file.with_name(f"{file.name}.dockerignore").read_text()
        assert all(f"!{name}\n" in ignore for source in sources for name in source.split())


def test_no_file_in_git_is_larger_than_5_mb_but_the_released_models() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in git("ls-files").splitlines() if (ROOT / name).is_file()}
    assert sizes
    released = {name: size for name, size in sizes.items() if name.startswith("released/")}
    assert {name: size for name, size in sizes.items() if size > 5_000_000 and name not in released} == {}
    assert sum(released.values()) < 62_500_000, "the ImageNet weights, and for each model only its newest release"


def test_a_commit_passes_the_hooks_whatever_the_pipeline_and_a_release_wrote() -> None:
    excluded = re.compile(YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["exclude"])
    tracked = [name for name in git("ls-files").splitlines() if (ROOT / name).is_file()]
    assert [excluded.search(name) is None for name in ("dvc.lock", "metrics/test.json", "README.md")] == [0, 0, 1]
    for name in tracked:
        data = (ROOT / name).read_bytes()
        if excluded.search(name) or b"\0" in data or not data:
            continue
        assert data.endswith(b"\n"), name
        assert not data.endswith(b"\n\n"), name
        assert not re.search(rb"[ \t]+$", data, re.MULTILINE), name
        assert len(data) < 5_000_000, name


@pytest.fixture
def clone(tmp_path: Path) -> Project:
    git("clone", "-q", ".", str(tmp_path / "clone"))
    return Project(tmp_path / "clone")


def test_the_table_in_the_readme_is_what_the_records_say(clone: Project) -> None:
    clone.tool("leaderboard")
    assert clone.run("git", "status", "--short").stdout == ""


def test_the_released_models_come_with_a_clone_and_know_what_they_are_shown(clone: Project) -> None:
    # a proxy that is not there: whoever asks the network fails
    clone.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    pulled = clone.run("dvc", "pull", DEFAULT, timeout=20)
    assert "ERROR" not in pulled.stdout + pulled.stderr
    assert not (clone.path / "models/vit_tiny").exists()
    # all there is, and the names of what there is not; nobody waits for a bucket
    failed = clone.run("dvc", "pull", ok=False, timeout=20)
    assert "models/vit_tiny" in failed.stdout
    assert "data/train" in failed.stderr
    truth = {
        "ship.png": "FAKE",
        "frog.png": "FAKE",
        "cat.jpg": "REAL",
        "astronaut.jpg": "REAL",
        "coffee.jpg": "no matter",
        "flower.jpg": "REAL",  # the page says that such fakes pass for it
    }
    files = [f"app/static/examples/{name}" for name in truth]
    for model in (DEFAULT, "models/vit_tiny"):
        command = [sys.executable, "-m", "detector", *files, "--model", model, "--json"]
        rows = {Path(row["file"]).name: row for row in json.loads(clone.run(*command).stdout)}
        wrong = {"FAKE": "REAL", "REAL": "FAKE"}
        assert [name for name, verdict in truth.items() if rows[name]["verdict"] == wrong.get(verdict)] == []
        assert rows["ship.png"]["verdict"] == "FAKE"
        if model == DEFAULT:  # what the API's description gives as its answer
            said = rows["coffee.jpg"] | {"file": "coffee.jpg", "p_fake": round(rows["coffee.jpg"]["p_fake"], 2)}
            expected = PHOTOGRAPH | {"p_fake": round(PHOTOGRAPH["p_fake"], 2), "model_sha256": SHA256}
            assert said == expected, "the examples are answers of another model"
            explanation = Detector.load(clone.path / model).explain(ROOT / "app/static/examples/coffee.jpg")
            np.testing.assert_allclose(explanation.occlusion_map, OCCLUSION_MAP, atol=0.03)


def test_every_metric_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))
    for name in ("prepare", "train", "test", "export", "external"):
        path = ROOT / f"metrics/{name}.json"
        names = json.loads(path.read_text()) if path.exists() else {}
        assert {name for name in names if name not in explained and not name.startswith("ood_")} == set()


def test_make_lock_tells_a_lock_that_is_older_than_the_code(pipeline: Path, tmp_path: Path) -> None:
    project = Project(shutil.copytree(pipeline, tmp_path / "project"))
    shutil.copy(ROOT / "Makefile", project.path)
    (project.path / ".venv").symlink_to(BIN.parent)
    lock = ("make", "-o", ".venv/.run-time", "lock")  # -o: what is installed counts as new
    assert "error" not in project.run(*lock).stderr
    with (project.path / "stages/train/step.py").open("a") as file:
        file.write("# changed\n")
    assert "error: dvc.lock is older than the code: run 'dvc repro'" in project.run(*lock, ok=False).stderr


def test_make_restore_takes_back_what_an_experiment_left(pipeline: Path, tmp_path: Path) -> None:
    project = Project(shutil.copytree(pipeline, tmp_path / "project"))
    shutil.copy(ROOT / "Makefile", project.path)
    project.commit("the Makefile")
    (project.path / ".venv").symlink_to(BIN.parent)
    project.set(seed=1)
    for name in ("metrics/test.json", "dvc.lock", "models/trained/model.safetensors", "data/val/index.safetensors"):
        (project.path / name).unlink()
        (project.path / name).write_text("of another run")
    (project.path / "plots/test/mistakes.csv").unlink()
    results = {"metrics/published/mine.json", "metrics/leave_one_out/mine.json"}  # no experiment leaves these
    for name in results:
        (project.path / name).parent.mkdir(exist_ok=True)
        (project.path / name).write_text("{}")
    project.run("git", "add", *results)
    project.run("make", "-o", ".venv/.run-time", "restore")
    status = project.run("git", "status", "--short", "--untracked-files=no").stdout
    assert set(status.splitlines()) == {f"A  {name}" for name in results}
    assert all((project.path / name).exists() for name in results)
    assert project.changed_stages() == set()
    assert project.weights() == Project(pipeline).weights()


@pytest.mark.long
def test_an_experiment_is_taken_over_in_a_clone_that_lacks_a_released_model(clone: Project) -> None:
    (clone.path / ".venv").symlink_to(BIN.parent)
    clone.run("make", "INSTALL=:", ".venv/.run-time")
    clone.run("dvc", "pull", DEFAULT)
    for file in ("dvc.yaml", "dvc.lock"):
        clone.leave_out(file, "prepare", "train", "evaluate", "export", "external", "card")
    clone.commit("only the first stage: the others take time")
    clone.run("dvc", "exp", "run", "--name", "mine", "-S", "seed=1")
    restore = ("make", "-o", ".venv/.run-time", "restore")
    clone.run(*restore)
    shutil.rmtree(clone.path / "models/vit_tiny")
    clone.run("dvc", "exp", "apply", "mine")
    assert "+seed: 1" in clone.run("git", "diff").stdout
    assert {Path(DEFAULT).name, "vit_tiny"} <= {path.name for path in (clone.path / "models").iterdir()}
    clone.run(*restore)
    assert clone.run("git", "status", "--short", "--untracked-files=no").stdout == ""


def test_installing_is_done_once_and_asks_no_bucket_for_a_model_of_the_user_s_own(clone: Project) -> None:
    (clone.path / ".venv").mkdir()  # its own, since make notes there what it has installed
    for name in ("bin", "lib", "pyvenv.cfg"):
        (clone.path / ".venv" / name).symlink_to(BIN.parent / name)
    tracker = (clone.path / "models/vit_tiny.dvc").read_text()
    own = re.sub("md5: .{8}", "md5: 00000000", tracker).replace("  remote: released\n", "")
    (clone.path / "models/mine.dvc").write_text(own.replace("path: vit_tiny", "path: mine"))
    with socket.create_server(("127.0.0.1", 0)) as bucket:  # takes connections, never says anything
        clone.run("dvc", "remote", "add", "--default", "mine", f"http://127.0.0.1:{bucket.getsockname()[1]}/")
        clone.run("make", "INSTALL=:", ".venv/.run-time", timeout=30)
    for file in (clone.path / "models").glob("*.dvc"):
        file.touch()  # as an experiment does
    clone.run("make", "INSTALL=false", ".venv/.run-time")
    clone.run("dvc", "checkout", "models/vit_tiny")


def test_make_ask_answers_about_a_picture_without_dvc(clone: Project) -> None:
    (clone.path / ".venv").symlink_to(BIN.parent)
    ask = ("make", "--no-print-directory", "-o", ".venv/.ask", "ask")  # -o: what is installed counts as new
    clone.env["PATH"] = "/usr/bin:/bin"  # no dvc
    said = clone.run(*ask, "PICTURES=app/static/examples/ship.png app/static/examples/cat.jpg")
    assert [line.split()[:2] for line in said.stdout.splitlines()[-2:]] == [
        ["app/static/examples/ship.png", "FAKE"],
        ["app/static/examples/cat.jpg", "REAL"],
    ]
    assert LIMIT in said.stderr
    for name in ("my ship (1).png", "it's a ship.png", "$(shell touch made)$HOME.png"):
        shutil.copy(clone.path / "app/static/examples/ship.png", clone.path / name)
        assert clone.run(*ask, f"PICTURES={name}").stdout.splitlines()[-1].startswith(f"{name}  FAKE ")
    assert not (clone.path / "made").exists()
    both = clone.run(*ask, """PICTURES='my ship (1).png' "it's a ship.png" app/static/examples/c*.jpg""").stdout
    assert re.findall(r"(FAKE|REAL|UNSURE) ", both) == ["FAKE", "FAKE", "REAL", "UNSURE"]
    assert "say which: make ask PICTURES=photo.jpg" in clone.run(*ask, ok=False).stderr

    pulled = clone.run(str(BIN / "dvc"), "pull", DEFAULT, "models/vit_tiny").stdout
    assert "added" not in pulled, "DVC brings other files"
    assert "modified" not in pulled, "DVC brings other files"
    assert clone.run("git", "status", "--short", "--untracked-files=no").stdout == ""

    shutil.rmtree(clone.path / "models/vit_tiny")
    (digest,) = re.findall(r"md5: (\w+)\.dir", (clone.path / "models/vit_tiny.dvc").read_text())
    (clone.path / "released/files/md5" / digest[:2] / f"{digest[2:]}.dir").unlink()
    assert "is missing: `git checkout released` brings it back" in clone.run(*ask, "PICTURES=x.png", ok=False).stderr
    assert not (clone.path / "models/vit_tiny").exists()


@pytest.mark.long
def test_the_notebook_shows_answers_and_an_explanation_of_a_released_model(clone: Project) -> None:
    clone.tool("unpack")
    notebook = nbformat.read(clone.path / "notebooks/predict.ipynb", as_version=4)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code"), "git holds no outputs"
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": clone.path / "notebooks"}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert LIMIT in said
    assert "ship.png: no notes" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2, "the answers; the explanation"
    pinned = (ROOT / "notebooks/requirements.txt").read_text()
    (matplotlib,) = re.findall(r"^matplotlib==.+$", pinned, re.MULTILINE)
    assert matplotlib in (ROOT / "requirements.in").read_text().splitlines()


def test_examples_in_prose_are_what_the_released_model_answers(clone: Project) -> None:
    clone.tool("unpack")
    asked = clone.run(sys.executable, "-m", "detector", "app/static/examples/ship.png", "--json").stdout
    (answer,) = json.loads(asked)
    reference = (ROOT / "docs/reference/http.md").read_text()
    example = re.search(r'\{"file": "ship.png".*\}', reference)
    assert example is not None
    assert f'"model_sha256": "{answer.pop("model_sha256")}"' in reference
    assert json.loads(example[0]) == answer | {"file": "ship.png", "p_fake": round(answer["p_fake"], 4)}
    title = Detector.load(clone.path / DEFAULT).title
    assert title in (ROOT / "benchmarks/results/load.md").read_text().splitlines()[2]


def test_the_readme_is_no_second_copy_of_the_how_tos() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900
