"""Sources left out of training, and `python -m tools.leave_one_out`, through DVC's queue."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detector.errors import UserError
from detector.labels import FAKE
from stages.data import Split, load_split
from stages.prepare.__main__ import main as prepare
from tests.conftest import ROOT, Project, copy_project, the_error
from tools.leave_one_out import table

ENTRY = {"path": "data/several", "source": "source", "near_duplicates": "anywhere"}


@pytest.fixture
def several(tmp_path: Path) -> Project:
    """A project with the sample's images, of which every third FAKE is said to be of another generator."""
    copy_project(tmp_path / "project")
    project = Project(tmp_path / "project")
    folder = project.path / "data/several"
    folder.mkdir()
    for name in ("train", "test"):
        rows = pq.read_table(ROOT / f"data/sample/{name}.parquet")
        rows = rows.take(np.arange(0, len(rows), 5))
        labels = rows["label"].to_numpy()
        sources = np.where(labels != FAKE, "photos", np.where(np.arange(len(labels)) % 3, "flow", "gan's"))
        pq.write_table(rows.append_column("source", pa.array(sources)), folder / f"{name}.parquet")
    project.set(dataset="several", datasets__several=ENTRY)
    return project


def splits(project: Project) -> dict[str, Split]:
    return {name: load_split(project.path / f"data/{name}") for name in ("train", "val", "test")}


def counts(split: Split) -> dict[str, int]:
    return {name: int((split.source == number).sum()) for number, name in enumerate(split.info["sources"])}


def test_a_source_that_is_left_out_is_in_the_test_split_alone(
    several: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(several.path)
    prepare()
    whole = splits(several)
    several.set(datasets__several__leave_out=["flow"])
    prepare()
    left = splits(several)
    assert np.array_equal(left["test"].images[:], whole["test"].images[:])
    for name in ("train", "val"):
        assert counts(left[name]) == counts(whole[name]) | {"flow": 0}
        kept = whole[name].source != whole[name].info["sources"].index("flow")
        assert np.array_equal(left[name].images[:], whole[name].images[kept])  # what stays is split as before
    assert "flow,FAKE,left out,160" in (several.path / "plots/data/counts.csv").read_text()

    several.set(datasets__several__leave_out=["flaw"])
    with pytest.raises(UserError, match="leave_out names flaw, and the sources are flow, gan's, photos"):
        prepare()
    several.set(datasets__several__leave_out=["flow", "gan's"])
    with pytest.raises(UserError, match="leaves the train split without FAKE images"):
        prepare()


@pytest.mark.parametrize(
    ("split", "source", "becomes", "reason"),
    [
        ("test", "flow", "gan's", "its test split has no images of flow"),
        ("train", "flow", "gan's", "without gan's its train split has no FAKE images"),
        ("test", "photos", "flow", "flow has images of both classes"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_queued(
    several: Project, split: str, source: str, becomes: str, reason: str
) -> None:
    file = several.path / f"data/several/{split}.parquet"
    rows = pq.read_table(file)
    sources = [becomes if one == source else one for one in rows["source"].to_pylist()]
    pq.write_table(rows.set_column(rows.schema.get_field_index("source"), "source", pa.array(sources)), file)
    several.repository()
    assert f"datasets.several: {reason}" in the_error(several.tool("leave_one_out", "several", ok=False))
    assert not (several.path / ".dvc/tmp/exps").exists()


@pytest.mark.slow
def test_each_source_is_left_out_in_turn(several: Project) -> None:
    several.set(dataset="cifake", model="small_resnet")
    several.repository()
    shutil.rmtree(several.path / "models")
    said = several.tool("leave_one_out", "several", "-S", "models.small_resnet.epochs=1").stdout
    rows = json.loads((several.path / "metrics/leave_one_out/several.json").read_text())
    assert [row["left_out"] for row in rows] == ["", "flow", "gan's"]
    for row in rows:
        (reference,) = several.run("git", "for-each-ref", f"refs/exps/**/{row['experiment']}").stdout.split()[-1:]
        test = json.loads(several.run("git", "show", f"{reference}:metrics/test.json").stdout)
        if row["left_out"]:
            assert test["sources"][row["left_out"]]["recall"] == row["recall"]
            assert row["images"] == {"flow": 40, "gan's": 20}[row["left_out"]]
            assert f"| {row['left_out']} | {row['auroc']:.4f} |" in said
        else:
            assert test["accuracy"] == row["accuracy"]
    # the same table again, of experiments that have run
    again = several.tool("leave_one_out", "several", "--experiments", *(row["experiment"] for row in rows)).stdout
    assert again.strip() == said[said.index("| Left out") :].strip()
    assert "one source of FAKE images, FAKE: to leave one out takes two" in the_error(
        several.tool("leave_one_out", "sample", ok=False)
    )


def test_the_rest_are_all_images_but_those_of_the_source_that_is_left_out() -> None:
    def test_metrics(accuracy: float, caught: float, photos: float) -> dict[str, object]:
        shares = {"a": caught, "b": 0.9, "photos": photos}
        sources = {name: {"images": 100, "recall": share, "low": 0.0, "high": 1.0} for name, share in shares.items()}
        return {"accuracy": accuracy, "sources": sources}

    runs = [
        {"experiment": "one", "left_out": "a", "test": test_metrics(0.7, 0.2, 1.0), "params": {"seed": 0}},
        {"experiment": "two", "left_out": "", "test": test_metrics(0.9, 0.9, 0.9), "params": {"seed": 0}},
    ]
    whole, without = table(runs)
    assert whole == {"left_out": "", "accuracy": 0.9, "experiment": "two"}
    assert (without["recall"], without["recall_with"]) == (0.2, 0.9)
    assert without["accuracy_on_the_rest"] == 0.95
    runs[0]["params"] = {"seed": 1}
    with pytest.raises(UserError, match="one and two differ in more parameters than the source that is left out"):
        table(runs)
