"""`dvc repro` and `dvc exp run` from end to end, on the sample."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from ruamel.yaml import YAML

from tests.conftest import ROOT, TINY, Project

ELSEWHERE = re.compile("^https:")
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

OUTPUTS = [
    "data/fingerprint.json",
    "data/train/index.safetensors",
    "models/trained/model.safetensors",
    "metrics/prepare.json",
    "metrics/train.json",
    "metrics/test.json",
    "metrics/robustness.json",
    "metrics/test_scores.parquet",
    "plots/training/plots/metrics/val/accuracy.tsv",
    "plots/test/mistakes.png",
    "models/exported/model.onnx",
    "models/exported/README.md",
    "metrics/export.json",
    "data/external.json",
    "metrics/external.json",
    "metrics/external_sources.json",
    "plots/external/sources.csv",
]


def test_the_pipeline_writes_all_its_outputs_and_then_has_nothing_to_do(pipeline: Path, tmp_path: Path) -> None:
    for name in OUTPUTS:
        assert (pipeline / name).exists(), name
    project = Project(shutil.copytree(pipeline, tmp_path / "project"))
    assert project.changed_stages() == set()
    assert set(re.findall(r"Running stage '(\w+)'", project.run("dvc", "repro").stdout)) == {"fingerprint"}
    assert project.run("git", "status", "--short").stdout == ""
    tracked = project.run("git", "ls-files").stdout.splitlines()
    assert "metrics/test.json" in tracked
    outputs = [name for name in tracked if not name.startswith("detector/")]
    assert not [name for name in outputs if name.endswith((".safetensors", ".onnx")) or "test_scores" in name]


@pytest.mark.long
def test_an_experiment_stands_beside_the_committed_run(pipeline: Path, tmp_path: Path) -> None:
    project = Project(shutil.copytree(pipeline, tmp_path / "project"))
    vit = {"timm": "test_vit", "args": {"img_size": 32, "patch_size": 8}, "stem": None, "epochs": 1}
    project.set(models__another=TINY | vit)
    for file in ("dvc.yaml", "dvc.lock"):
        project.leave_out(file, "export", "external", "card")
    project.commit("another model")

    # it leaves the work tree as it is
    said = project.run("dvc", "exp", "run", "--temp", "--name", "other", "-S", "model=another").stdout
    assert "Stage 'prepare' didn't change" in said
    assert project.run("git", "status", "--short").stdout == ""
    (other,) = json.loads(project.run("dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    shown = other["revs"][0]["data"]
    assert shown["params"]["params.yaml"]["data"]["model"] == "another"
    assert 0 < shown["metrics"]["metrics/test.json"]["data"]["accuracy"] <= 1

    # DVC's extension of VS Code reads the same table and these plots
    plots = json.loads(
        project.run("dvc", "plots", "diff", "main", "other", "--json", "--split", "--out", "page").stdout
    )
    drawn = {
        name: {revision for plot in found for revision in plot["revisions"]} for name, found in plots["data"].items()
    }
    for name in ("Loss by epoch", "Confusion matrix (test images)", "ROC curve (positive class FAKE)"):
        assert drawn[name] == {"main", "other"}, name

    # in words: unit and direction
    report = project.tool("metrics_report", "main", "other").stdout
    assert re.search(
        r"^\| accuracy \| [\d.]+ % \| [\d.]+ % \| [+-][\d.]+ pp \| higher \| (better|worse) \|$", report, re.MULTILINE
    )

    # a change to one model's numbers does not concern another
    project.set(models__another__learning_rate=0.01)
    assert "up to date" in project.run("dvc", "status", "train", "evaluate").stdout

    project.run("dvc", "plots", "diff", "main", "other", "--out", "page")
    page = (project.path / "page/index.html").read_text()
    assert "Calibration" in page

    # a misspelt model names the ones there are
    failed = project.run("dvc", "exp", "run", "--temp", "-S", "model=anohter", ok=False)
    assert "params.yaml has resnet18, vit_tiny, " in failed.stdout + failed.stderr
    assert "small_resnet, tiny, another" in failed.stdout + failed.stderr


@pytest.mark.long
def test_a_page_of_plots_says_what_it_needs_and_shows_its_pictures_without_a_network(
    here: Project, browser: Browser
) -> None:
    here.run("dvc", "plots", "show", "--out", "page")
    page = browser.new_page()
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url.partition("/npm")[0]) if "http" in request.url else None)
    page.route(ELSEWHERE, lambda route: route.abort())
    page.goto((here.path / "page/index.html").as_uri())
    assert asked == {"https://cdn.jsdelivr.net"}
    expect(page.get_by_text("comes from cdn.jsdelivr.net")).to_be_visible()
    sides = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sides) >= 2
    assert all(sides)
    page.unroute(ELSEWHERE)
    page.route(ELSEWHERE, lambda route: route.fulfill(body="window.vegaEmbed = () => {}"))
    page.reload()
    expect(page.get_by_text("comes from cdn.jsdelivr.net")).to_have_count(0)
    page.close()


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if not stage.get("always_changed")])
def test_the_deps_of_a_stage_are_its_folder_and_the_shared_modules_it_imports(pipeline: Path, stage: str) -> None:
    """One too few, and an edit would train nothing anew; one too many, and it would train what it does not concern."""
    imported = set(json.loads((pipeline / "imports" / stage).read_text()))
    folder = f"stages/{stage}"
    own = {folder} if (ROOT / folder).is_dir() else set()
    if "detector/pool.py" in imported:  # it starts processes, which decode pictures and which the trace does not reach
        imported |= worker_modules()
    shared = {name for name in imported if not name.startswith((f"{folder}/", "imports/"))}
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("stages", "detector"))}
    assert declared == own | shared


def worker_modules() -> set[str]:
    """Return the files of this repository that a decoding process imports."""
    program = (
        "import sys; from detector.worker import import_decoders; import_decoders();"
        r"print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('detector')), sep='\n')"
    )
    listed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return {Path(line).relative_to(ROOT).as_posix() for line in listed.stdout.split()}
