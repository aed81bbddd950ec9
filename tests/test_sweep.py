"""What the sweep does while others work in the same repository. tests/test_queue.py has whole sweeps."""

import contextlib
import threading
from collections.abc import Iterator

import dvc.lock
import pytest
from dvc.repo import Repo

from detector.errors import UserError
from tests.conftest import Project
from tools import sweep
from tools.machines import grid


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc.lock, "DEFAULT_TIMEOUT", 0.1)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.1)


@contextlib.contextmanager
def another_command(seconds: float) -> Iterator[None]:
    """Have DVC's lock for so long, as `dvc pull` has it."""
    with Repo() as repo:
        repo.lock.lock()
        timer = threading.Timer(seconds, repo.lock.unlock)
        timer.start()
        yield
        timer.join()


def waiting_names() -> list[str]:
    with Repo() as repo:
        return [entry.name for entry in repo.experiments.celery_queue.iter_queued()]


def test_files_that_queued_runs_will_not_see_are_named_but_own_pictures_they_see(
    small: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with (small.path / "params.yaml").open("a") as file:
        file.write("datasets: {mine: {path: photos}}\n")
    for name in ("photos/real/a.jpg", "notes.txt"):
        (small.path / name).parent.mkdir(parents=True, exist_ok=True)
        (small.path / name).write_bytes(b"")
    sweep.warn_of_untracked()
    assert "queued runs will not see notes.txt: not in git" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_a_sweep_waits_for_other_dvc_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    with another_command(seconds=1):
        queued = sweep.queue(grid(["seed=1,2"]))
    assert sorted(queued) == sorted(waiting_names())
    assert list(queued.values()) == grid(["seed=1,2"])
    monkeypatch.setattr(sweep, "LOCK_SECONDS", 0)
    with Repo() as repo, repo.lock, pytest.raises(UserError, match="another DVC command keeps the queue locked"):
        sweep.queue(grid(["seed=3"]))


def test_a_run_that_failed_waits_for_other_dvc_commands(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: int) -> None:
        (name,) = waiting_names()
        small.run("dvc", "queue", "remove", "--all")
        small.run("dvc", "exp", "save", "--name", name)

    monkeypatch.setattr(sweep, "start_workers", work)
    with another_command(seconds=1):
        done, failed = sweep.work_off({"that-failed": grid(["seed=1"])[0]}, 1, None)
    assert (len(done), failed) == (1, [])


def test_a_run_that_ends_while_the_sweep_looks_is_not_run_again(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(["seed=2"])
    (name,) = sweep.queue(runs)
    look = sweep.here

    def here() -> dict[str, str]:
        found = look()
        small.run("dvc", "queue", "remove", "--all")  # where its end is right after this look
        return found

    monkeypatch.setattr(sweep, "here", here)
    waiting, _ = sweep.split(runs, {}, "")
    assert list(waiting) == [name]
    assert waiting_names() == [], "it was queued again"


def test_a_failed_run_named_as_an_experiment_of_an_earlier_commit_has_failed(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.run("dvc", "exp", "save", "--name", "first")
    (small.path / "code.py").write_text("changed = True\n")
    small.commit("second")
    monkeypatch.setattr(sweep, "RETRIES", 0)
    assert sweep.work_off({"first": grid(["seed=1"])[0]}, 1, None) == ([], ["first"])


def test_a_run_that_ends_after_the_next_commit_has_its_result(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = sweep.queue(grid(["seed=1"]))
    (name,) = waiting

    def work(_: int) -> None:
        small.run("dvc", "queue", "remove", "--all")
        small.run("dvc", "exp", "save", "--name", name)
        small.run("git", "commit", "-q", "--allow-empty", "-m", "second")

    monkeypatch.setattr(sweep, "start_workers", work)
    assert sweep.work_off(waiting, 1, None) == ([name], [])
