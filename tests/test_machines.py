"""A grid on several machines: clones of one bare git repository, and a real GCS server on this machine."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.errors import UserError
from tests.conftest import ROOT, Project, copy_project, the_error
from tests.test_remote import Server, use
from tools.machines import find_same, grid, here, parse_share


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def test_the_shares_of_a_grid_are_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\nepochs: 1\n")
    monkeypatch.chdir(tmp_path)
    overrides = ["seed=1,2,3,4", "epochs=2,3"]
    runs = grid(overrides)
    assert len(runs) == 8
    shares = [grid(overrides)[parse_share(f"{number}/3")] for number in (1, 2, 3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert [one for place in range(3) for share in shares for one in share[place : place + 1]] == runs
    assert runs[:2][parse_share("3/3")] == []
    for wrong in ("0/3", "4/3", "2", "2/", "a/b", "1/0", "-1/3", "1/2/3"):
        with pytest.raises(UserError, match="from 1/8 to 8/8"):
            parse_share(wrong)
    project = Project(tmp_path)
    project.env["PYTHONPATH"] = str(ROOT)
    wrong_share = project.tool("sweep", "--share", "3/2", "-S", "seed=1", ok=False)
    assert "--share 3/2: it must be as in 2/8" in the_error(wrong_share)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["seed=${x}"], "Interpolation key 'x' not found"),
        (["seed=???"], "Missing mandatory value: seed"),
        (["dvc.yaml:stages.train.cmd=true"], "dvc.yaml has no parameters"),
        (["seed=1,2", "seed=3"], "seed is there twice"),
        (["seed=1", "++seed=2"], "seed is there twice"),
    ],
)
def test_what_makes_no_grid_is_refused_in_one_line(overrides: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"-S {' -S '.join(overrides)}: {reason}")):
        grid(overrides)


def test_a_run_is_known_by_its_parameters_and_code(small: Project) -> None:
    small.set(seed=2)
    small.run("dvc", "exp", "save", "--name", "two")
    small.run("git", "checkout", "-q", "params.yaml")
    (commit,) = here()
    runs = grid(["seed=1,2"])
    assert find_same(runs, here()) == [None, commit]
    assert find_same(grid(["seed=2", "epochs=1"]), here()) == [commit], "whichever way its parameters were said"
    assert find_same(grid(["seed=2", "epochs=2"]), here()) == [None]
    (small.path / "result.yaml").write_text("of another run\n")
    assert find_same(runs, here()) == [None, commit], "what a run writes does not matter"
    (small.path / "code.py").write_text("changed = True\n")
    assert find_same(runs, here()) == [None, None], "code that is not committed makes it another run"


@pytest.mark.long
def test_after_its_data_or_its_weights_were_changed_a_run_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "project")
    project.path.mkdir()
    copy_project(project.path)
    project.set(dataset="mine", datasets__mine={"path": "data/mine"}, datasets__others={"path": "data/others"})
    project.set(
        evaluate__external=["others"], model="small_resnet", models__small_resnet__pretrained="data/weights.pth"
    )
    project.leave_out("dvc.yaml", "prepare", "train", "evaluate", "export", "external", "card")
    project.repository()
    monkeypatch.chdir(project.path)
    for name in ("mine", "others"):
        shutil.copytree("data/sample", f"data/{name}")
    Path("data/weights.pth").write_bytes(b"weights")
    project.run("dvc", "exp", "run", "--temp", "--name", "two", "-S", "seed=2")
    (commit,) = here()
    runs = grid(["seed=2"])
    assert find_same(runs, here()) == [commit]
    for name in ("mine", "others", "weights.pth"):
        shutil.move(f"data/{name}", "data/away")
        assert find_same(runs, here()) == [commit], "what is not here counts as it was"
        shutil.move("data/away", f"data/{name}")
    for name in ("mine/test.parquet", "others/test.parquet", "weights.pth"):
        before = Path("data", name).read_bytes()
        Path("data", name).write_bytes(b"others")
        assert find_same(runs, here()) == [None], name
        assert find_same(runs, [], [commit]) == [commit], "what waits in the queue will read what is here now"
        Path("data", name).write_bytes(before)
    assert find_same(runs, here()) == [commit]


def results(clone: Project) -> dict[int, str]:
    """Of the experiments that a clone knows: their names by their seeds."""
    shown = json.loads(clone.run("dvc", "exp", "show", "--json", "--hide-workspace").stdout)
    runs = [run for row in shown for run in row["experiments"] or []]
    for run in runs:
        assert run["revs"][0]["data"]["metrics"]["metrics/train.json"]["data"]["val_accuracy"] > 0
    return {run["revs"][0]["data"]["params"]["params.yaml"]["data"]["seed"]: run["name"] for run in runs}


def sweep(clone: Project, *words: str, ok: bool = True) -> "subprocess.CompletedProcess[str]":
    done = clone.tool("sweep", *words, "-S", "seed=1,2,3", ok=ok)
    clone.run("dvc", "queue", "stop", "--kill")  # its worker would live on for ten seconds
    return done


@pytest.mark.long
def test_two_machines_share_a_grid_and_a_third_compares(server: Server, tmp_path: Path) -> None:
    start = Project(tmp_path / "start")
    start.path.mkdir()
    copy_project(start.path)
    start.leave_out("dvc.yaml", "evaluate", "export", "external", "card")
    start.repository()
    start.run("git", "clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))

    def clone(name: str) -> Project:
        start.run("git", "clone", "-q", str(tmp_path / "bare.git"), str(tmp_path / name))
        return Project(tmp_path / name)

    earlier, first, second, laptop = map(clone, ("earlier", "first", "second", "laptop"))
    assert "no default remote" in the_error(sweep(first, "--share", "1/2", "--push", "origin", ok=False))
    for one in (earlier, first, second, laptop):
        use(one, server)

    # the third run is there before, by hand
    earlier.run("dvc", "exp", "run", "--temp", "--name", "by-hand", "--set-param", "seed=3")
    earlier.run("dvc", "exp", "push", "origin", "by-hand")

    # the git host refuses the first push, after the training
    refuse = tmp_path / "bare.git/hooks/pre-receive"
    refuse.write_text("#!/bin/sh\nexit 1\n")
    refuse.chmod(0o755)
    refused = sweep(first, "--share", "1/2", "--push", "origin", ok=False)
    assert "seed=3: origin has it, by-hand; not run again" in refused.stdout
    assert "queued 1 experiments" in refused.stdout
    assert "pre-receive hook declined" in the_error(refused)
    refuse.unlink()
    repeated = sweep(first, "--share", "1/2", "--push", "origin").stdout
    assert "seed=1: it has its result" in repeated
    assert "queued" not in repeated

    said = sweep(second, "--share", "2/2", "--push", "origin").stdout
    assert "queued 1 experiments" in said
    assert "queued" not in sweep(second, "--push", "origin").stdout, "now the whole grid is there"

    laptop.run("dvc", "exp", "pull", "origin")
    names = results(laptop)
    assert sorted(names) == [1, 2, 3]
    assert names[3] == "by-hand"
    server.kill()  # the models must be in the laptop's own cache
    weights = set()
    for name in names.values():
        laptop.run("dvc", "exp", "apply", name)
        weights.add(laptop.weights())
    assert len(weights) == 3
