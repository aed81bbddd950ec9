"""`make publish` and `make leaderboard`: a published run is a record, and the table is made from records alone."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Project, the_error
from tools.leaderboard import END, START
from tools.paired import holm

RECORD = "metrics/published/tiny-seed0.json"


def record(project: Project, name: str = RECORD) -> dict[str, Any]:
    return json.loads((project.path / name).read_text())


def test_the_record_says_what_the_run_was_and_what_it_is_worth(here: Project) -> None:
    with (here.path / "dvc.lock").open("a") as lock:  # DVC leaves it what is no stage any more
        lock.write("  of_another_day:\n    cmd: python\n    params:\n      params.yaml:\n        gone: 1\n")
    here.commit("a stage of another day")
    assert RECORD in here.tool("publish").stdout
    run = record(here)
    assert run["commit"] == here.run("git", "rev-parse", "HEAD").stdout.strip()
    assert list(run["params"]["models"]) == ["tiny"]
    assert run["params"]["train"]["selective_accuracy"] == 0.995
    for name in ("prepare", "train", "test", "robustness", "export", "external", "external_sources"):
        assert run["metrics"][name] == json.loads((here.path / f"metrics/{name}.json").read_text())
    assert run["machine"] == run["metrics"]["train"]["device"]
    assert run["versions"].keys() == {"python", "torch", "timm"}
    with (here.path / "plots/test/mistakes.csv").open() as file:
        assert run["mistakes"] == [int(row["index"]) for row in csv.DictReader(file)]
    assert 0 < len(run["mistakes"]) < 600


@pytest.mark.long
def test_an_experiment_is_published_without_applying_it(here: Project) -> None:
    here.tool("publish")
    expected = record(here)
    (here.path / RECORD).unlink()
    here.run("dvc", "exp", "save", "--name", "mine")
    (here.path / "metrics/test.json").write_text("{}")  # the work tree is another run meanwhile
    here.tool("publish", "mine")
    assert record(here, "metrics/published/mine.json") == expected
    assert "there is no experiment yours" in the_error(here.tool("publish", "yours", ok=False))


@pytest.mark.long
def test_results_of_another_model_are_not_published_as_this_one_s(here: Project) -> None:
    """After `dvc exp run train` git still holds what the stages behind it said of the model before."""
    here.env["CIFAKE_SOURCE"] = "data/sample"
    here.run("dvc", "exp", "run", "--name", "trained-alone", "-S", "seed=3", "train")
    said = the_error(here.tool("publish", "trained-alone", ok=False))
    assert "the stage evaluate has not run since models/trained/model." in said


@pytest.mark.long
def test_what_no_commit_stands_for_is_not_published(here: Project) -> None:
    def refused(*arguments: str) -> str:
        said = the_error(here.tool("publish", *arguments, ok=False))
        assert not (here.path / RECORD).exists()
        return said

    here.set(train__auxiliary_loss=0.2)
    assert "dvc.lock is not up to date: `dvc repro` first" in refused()
    here.run("git", "checkout", "-q", "params.yaml")

    with (here.path / "stages/train/step.py").open("a") as file:
        file.write("# changed\n")
    here.run("dvc", "exp", "save", "--name", "changed")
    assert "differ from commit" in refused("changed")
    here.run("dvc", "commit", "--force")  # as after `dvc repro` with code that is not committed
    assert "differ from commit" in refused()
    here.run("git", "checkout", "-q", ".")  # `dvc exp save` has put the edit into dvc.lock

    here.set(dataset="sample")
    here.run("dvc", "exp", "save", "--name", "other-data")
    assert "trained on sample: the leaderboard is of cifake" in refused("other-data")
    here.run("git", "checkout", "-q", ".")

    path = here.path / "tools/sweep.py"  # of a tool no number depends
    path.write_text(path.read_text() + "# changed\n")
    here.tool("publish")


@pytest.mark.long
def test_a_record_is_not_overwritten_by_another_run_nor_written_twice(here: Project) -> None:
    here.tool("publish")
    here.tool("publish")  # the same run again
    here.run("dvc", "exp", "save", "--name", "again")
    said = the_error(here.tool("publish", "again", ok=False))
    assert f"{RECORD} is a run with the same parameters and seed" in said
    run = record(here)
    run["params"]["train"]["warmup"] = 0.5
    (here.path / RECORD).write_text(json.dumps(run))
    assert "is a run with other parameters" in the_error(here.tool("publish", ok=False))
    (here.path / RECORD).write_text("{}")
    assert f"{RECORD} is not valid: it lacks commit, machine" in the_error(here.tool("publish", ok=False))


def test_the_leaderboard_is_made_from_the_records_alone(here: Project) -> None:
    (here.path / "README.md").write_text(f"before\n{START}\n{END}\nafter\n")
    (here.path / "docs").mkdir()
    assert "has no record: `make publish` writes one" in the_error(here.tool("leaderboard", ok=False))

    here.tool("publish")
    first = record(here)
    first["metrics"]["test"]["sources"] = {
        "flux": {"images": 100, "recall": 0.5, "low": 0.404, "high": 0.596, "auroc": 0.7}
    }
    flux = {"dataset": "web", "source": "flux", "caught": [0.125, 0.1, 0.15], "auroc": None}
    # another seed of it, and another model, each with mistakes of its own
    write(here, "tiny-seed1", first, seed=1, mistakes=[*range(1, 4)])
    write(here, "best-seed1", first, seed=1, model="best", mistakes=[3, 4])
    first["metrics"]["external"]["confidently_wrong_elsewhere"] = 0.25
    first["metrics"]["external_sources"] = [flux]
    (here.path / RECORD).write_text(json.dumps(first))
    shutil.rmtree(here.path / ".git")  # no history is asked
    here.tool("leaderboard")
    text = (here.path / "README.md").read_text()
    assert text.startswith(f"before\n{START}\n")
    assert text.endswith(f"{END}\nafter\n")
    accuracy = 100 * first["metrics"]["test"]["accuracy"]
    (_, _, best, tiny) = rows(text)
    assert best[:3] == ["best", "99.67 %", "-"]  # published before it was measured elsewhere
    mean, spread = (accuracy + 99.5) / 2, (99.5 - accuracy) / 2**0.5
    assert tiny[:3] == ["tiny", f"{mean:.2f} ± {spread:.2f} %", "25.0 %"]
    page = rows((here.path / "docs/leaderboard.md").read_text())
    ((_, of_best, of_tiny),) = [row for row in page if row[0] == "Accuracy"]
    assert of_best == "99.67 % (98.79 to 99.91)"  # Wilson's, of 598 in 600
    assert of_tiny.startswith(f"{mean:.2f} ± {spread:.2f} % (")
    assert ["flux", "50.00 % (40.40 to 59.60)", "50.00 % (40.40 to 59.60)"] in page
    assert ["web: flux", "caught", "-", "12.5 % (10.0 to 15.0)"] in page
    assert ["Corrupted in training", "30 % of the images", "30 % of the images"] in page
    runs = [row for row in page if row[-1] == f"`{first['commit'][:7]}`"]
    assert [(row[0], row[1]) for row in runs] == [("best", "1"), ("tiny", "0"), ("tiny", "1")]
    assert page[-1] == ["best : tiny", "2 : 1 (p = 1.0000)"]  # images 1 and 2, image 4


@pytest.fixture
def published(tmp_path: Path) -> Project:
    """A place with the records of this repository, and what the tables are made of besides."""
    for name in ("metrics/published", "benchmarks/results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"{START}\n{END}\n")
    project = Project(tmp_path)
    project.env["PYTHONPATH"] = str(ROOT)
    return project


def test_a_run_that_was_measured_elsewhere_on_fakes_alone_has_a_dash(published: Project) -> None:
    for path in (published.path / "metrics/published").iterdir():
        run = json.loads(path.read_text())
        run["metrics"]["external"] = {"coverage_elsewhere": 0.5}  # docs/reference/metrics.md says that others may lack
        path.write_text(json.dumps(run))
    published.tool("leaderboard")
    _, _, *runs = rows((published.path / "README.md").read_text())
    assert {row[2] for row in runs} == {"-"}


def test_an_entry_for_data_of_one_s_own_is_no_other_recipe_but_other_data_are_refused(published: Project) -> None:
    path = published.path / "metrics/published/quick-seed2.json"
    run = json.loads(path.read_text())
    run["params"]["datasets"]["mine"] = run["params"]["datasets"]["sample"]
    path.write_text(json.dumps(run))
    published.tool("leaderboard")
    text = (ROOT / "README.md").read_text()
    assert rows((published.path / "README.md").read_text()) == rows(text.partition(START)[2].partition(END)[0])

    run["metrics"]["prepare"]["digest"] = 64 * "0"
    path.write_text(json.dumps(run))
    assert "has runs of different data" in the_error(published.tool("leaderboard", ok=False))


def test_a_measurement_of_speed_that_failed_is_named(published: Project) -> None:
    (published.path / "benchmarks/results/latency.json").write_text(
        ""
    )  # python -m benchmarks.latency > ..., and Ctrl-C
    said = the_error(published.tool("leaderboard", ok=False))
    assert "latency.json is no JSON: `python -m benchmarks.latency > benchmarks/results/latency.json` makes it" in said
    assert (published.path / "README.md").read_text() == f"{START}\n{END}\n"


def test_of_many_comparisons_those_count_that_hold_together() -> None:
    """Holm's own condition: the lowest of n p-values against 0.05 / n, the next against 0.05 / (n - 1)."""
    assert holm([0.04]) == 1
    assert holm([0.04, 0.03]) == 0
    assert holm([0.01, 0.04, 0.02]) == 3
    assert holm([0.03, 0.001, 0.04]) == 1


def rows(markdown: str) -> list[list[str]]:
    """The cells of all tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]


def test_the_tables_of_the_readme_fit_a_narrow_window() -> None:
    table = rows((ROOT / "README.md").read_text().partition(START)[2].partition(END)[0])
    assert len(table) > 2
    assert max(map(len, table)) <= 6
    assert max(len(cell) for row in table for cell in row) <= 20


def write(
    project: Project,
    name: str,
    like: dict[str, Any],
    seed: int,
    mistakes: list[int],
    model: str = "tiny",
) -> None:
    """Write a record of a run with these mistakes."""
    run = json.loads(json.dumps(like))
    run["params"] |= {"seed": seed, "model": model}
    run["metrics"]["test"]["accuracy"] = 1 - len(mistakes) / 600
    run["metrics"] |= {"external": None, "external_sources": None}
    run["mistakes"] = mistakes
    (project.path / f"metrics/published/{name}.json").write_text(json.dumps(run))
