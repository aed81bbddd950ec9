"""`python -m tools.several_sources`, with the sample in the place of CIFAKE."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, Project, copy_project, the_error


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project beside which a parquet file of another generator lies, flow.parquet."""
    project = Project(tmp_path / "project")
    project.path.mkdir()
    copy_project(project.path)
    project.set(datasets__cifake__strict=False)
    project.env["CIFAKE_SOURCE"] = "data/few"
    (project.path / "data/few").mkdir()
    for split in ("train", "test"):
        rows = pq.read_table(ROOT / f"data/sample/{split}.parquet")
        rows = pa.concat_tables([rows.slice(0, 20), rows.slice(len(rows) - 20, 20)])
        pq.write_table(rows, project.path / f"data/few/{split}.parquet")
    fakes = rows.filter(pa.compute.equal(rows["label"], 0)).select(["image", "label"])
    pq.write_table(fakes.append_column("source", pa.array(["flow"] * len(fakes))), project.path / "flow.parquet")
    return project


def test_what_has_test_in_its_name_goes_into_the_test_split(project: Project) -> None:
    names = ("Mine-Test.parquet", "flowtest.parquet", "mine.parquet")
    for name in names:
        shutil.copy(project.path / "flow.parquet", project.path / name)
    said = project.tool("several_sources", "several", *names).stdout
    written = {path.name for path in (project.path / "several").iterdir()}
    assert written == {
        *("train-cifake.parquet", "test-cifake.parquet"),
        *("test-Mine-Test.parquet", "test-flowtest.parquet", "train-mine.parquet"),
    }
    images = {tuple(line.split()[:2]): int(line.split()[-1]) for line in said.splitlines()}
    assert images["test", "flow"] == 2 * images["train", "flow"]


def test_a_file_with_gaps_or_plain_bytes_is_refused_before_anything_is_written(project: Project) -> None:
    rows = pq.read_table(project.path / "flow.parquet")
    gaps = pa.array([None, *rows["source"].to_pylist()[1:]])
    plain = pa.array([image["bytes"] for image in rows["image"].to_pylist()])
    for name, values in (("source", gaps), ("image", plain)):
        pq.write_table(rows.set_column(rows.column_names.index(name), name, values), project.path / "odd.parquet")
        refused = the_error(project.tool("several_sources", "several", "odd.parquet", ok=False))
        assert "odd.parquet is no parquet file with image, label and source: " in refused
    assert not (project.path / "several").exists()


def test_no_file_takes_the_place_of_another_one(project: Project) -> None:
    for folder in ("a", "b"):
        (project.path / folder).mkdir()
        shutil.copy(project.path / "flow.parquet", project.path / folder)
    shutil.copy(project.path / "flow.parquet", project.path / "cifake.parquet")
    refused = project.tool("several_sources", "several", "a/flow.parquet", "b/flow.parquet", ok=False)
    assert "b/flow.parquet would take the place of a/flow.parquet" in the_error(refused)
    refused = project.tool("several_sources", "several", "cifake.parquet", ok=False)
    assert "cifake.parquet would take the place of that of CIFAKE" in the_error(refused)
    assert not (project.path / "several").exists()
