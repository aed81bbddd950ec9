"""`dvc repro` and `dvc exp run` from end to end, on the sample."""

import json

from tests.conftest import TINY, Project

OUTPUTS = [
    "data/train.safetensors",
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
]


def test_the_pipeline_from_end_to_end(project: Project) -> None:
    project.set(models__tiny__epochs=1, models__another=TINY | {"epochs": 1, "timm": "test_vit", "stem": None})
    project.set(models__another__args={"img_size": 32, "patch_size": 8})
    project.repository()

    project.run("dvc", "repro")
    for name in OUTPUTS:
        assert (project.path / name).exists(), name
    assert "up to date" in project.run("dvc", "status").stdout
    project.run("git", "add", "-A")
    assert "test_scores.parquet" not in project.run("git", "diff", "--cached", "--name-only").stdout
    project.run("git", "commit", "-qm", "published")
    assert "up to date" in project.run("dvc", "repro").stdout

    # an experiment leaves the work tree as it is, and stands beside the committed run in the table
    said = project.run("dvc", "exp", "run", "--temp", "--name", "other", "-S", "model=another").stdout
    assert "Stage 'prepare' didn't change" in said
    assert project.run("git", "status", "--short").stdout == ""
    commit, _ = (row for row in json.loads(project.run("dvc", "exp", "show", "--json").stdout) if row["rev"] != "")
    (other,) = json.loads(project.run("dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    shown = other["revs"][0]["data"]
    assert shown["params"]["params.yaml"]["data"]["model"] == "another"
    assert 0 < shown["metrics"]["metrics/test.json"]["data"]["accuracy"] <= 1
    assert commit["rev"]

    # a change to one model's numbers does not concern another
    project.set(models__another__learning_rate=0.01)
    assert "up to date" in project.run("dvc", "status", "train", "evaluate").stdout

    project.run("dvc", "plots", "diff", "main", "other", "--out", "page")
    page = (project.path / "page/index.html").read_text()
    assert "Calibration" in page

    # a misspelt model names the ones there are
    failed = project.run("dvc", "exp", "run", "--temp", "-S", "model=anohter", ok=False)
    assert "resnet18, vit_tiny, quick, small_resnet, tiny, another" in failed.stdout + failed.stderr
