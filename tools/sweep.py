"""Queue a grid of experiments and run it until every one has a result.

`dvc queue` alone may lose some: a worker can die, an experiment can fail in a race between workers
(https://github.com/treeverse/dvc/issues/10673). Here workers are started until the queue is empty,
and what failed is queued again. What has a result already is not run again, so that the command can be repeated.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo

from detector.cores import usable_cores
from detector.errors import UserError, run
from stages.device import gpu_candidates
from stages.fingerprint import existing
from stages.keeping import check_can_be_kept
from stages.leftovers import tidy
from stages.params import load_params
from tools.machines import Run, check_storage, find_same, grid, here, on_remote, parse_share, push
from tools.shell import DVC, command, experiments, head
from tools.workers import living, start_workers

RETRIES = 2
POLL_SECONDS = 2.0
START_SECONDS = 5.0  # until a worker that was started must be seen
LOCK_SECONDS = 600.0  # for which another DVC command, such as `dvc pull`, may keep all others from writing

EXAMPLES = """examples:
  python -m tools.sweep -S model=resnet18,vit_tiny -S seed=0,1,2
  python -m tools.sweep --jobs 2 -S dataset=sample -S 'train.augment.translate=range(0,4)'
  python -m tools.sweep --share 2/8 --push origin -S model=resnet18,vit_tiny -S seed=0,1,2,3
"""


def main() -> None:
    arguments = parse()
    share = parse_share(arguments.share)
    check_can_be_kept(Path())
    tidy()
    runs = grid(arguments.set_param)[share]
    remote = arguments.push
    if remote:
        check_storage()
    there = on_remote(remote) if remote else {}
    warn_of_untracked()
    waiting, finished = split(runs, there, remote)

    unpushed: list[str] = []

    def push_now(name: str) -> None:
        """Push a result. Where that fails the others still run, and it is tried again at the end."""
        try:
            push(name, remote)
            print(f"{name} is on {remote}", flush=True)
        except UserError as error:
            print(f"warning: {name} is not on {remote} yet: {error}", flush=True)
            unpushed.append(name)

    if remote:
        for name in finished:
            push_now(name)
    if waiting:
        run_queue(waiting, arguments.jobs, push_now if remote else None)
    try:
        for name in unpushed:
            push(name, remote)
    except UserError as error:
        raise UserError(f"{error}. Afterwards repeat the command: it pushes, and runs nothing again") from None


def split(runs: list[Run], there: dict[str, str], remote: str) -> tuple[dict[str, Run], list[str]]:
    """Queue the runs that nobody has yet. Return those that wait in the queue, {name: run}, and the names of those that
    have their result here, but not on the git remote, whose experiments are `there`."""
    with Repo() as repo:
        tasks = repo.experiments.celery_queue
        entries = [*tasks.iter_queued(), *tasks.iter_active()]
        queued = {entry.stash_rev: entry.name for entry in entries if entry.baseline_rev == repo.scm.get_rev()}
    mine = here()  # after the queue: a run that ends in between is in both, not in neither
    new: list[Run] = []
    waiting: dict[str, Run] = {}
    finished: list[str] = []
    for one, commit in zip(runs, find_same(runs, there | mine, queued), strict=True):
        text = " ".join(override for overrides in one.values() for override in overrides)
        if commit is None:
            new.append(one)
        elif commit in there:
            print(f"{text}: {remote} has it, {there[commit]}; not run again", flush=True)
        elif commit in mine:
            name = mine[commit]
            print(f"{text}: it has its result, {name}; not run again (`dvc exp remove {name}` forgets it)", flush=True)
            finished.append(name)
        else:
            print(f"{text}: it waits in the queue already, {queued[commit]}", flush=True)
            waiting[queued[commit]] = one
    return waiting | queue(new), finished


def run_queue(waiting: dict[str, Run], jobs: int, when_done: Callable[[str], None] | None = None) -> list[str]:
    """Run queued experiments, {name: run}, so many at a time, and call `when_done` with the name of each that has its
    result. Return the names under which they ended.

    Raises UserError where one failed every time.
    """
    # DVC starts its workers as `dvc`, and they the stages as `python`: those of this environment
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if jobs > 1 and not gpu_candidates():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(usable_cores()) // jobs)))
    total = len(waiting)
    print(f"queued {total} experiments: {' '.join(waiting)}", flush=True)
    try:
        done, failed = work_off(waiting, jobs, when_done)
    except KeyboardInterrupt:
        # the number of threads is part of a run: with another number it starts from the beginning
        threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
        print(
            "\nno longer waiting; the workers go on. See: dvc queue status, make compare. "
            f"Go on later: {threads}dvc queue start --jobs {jobs}. Stop: dvc queue stop --kill",
            file=sys.stderr,
        )
        sys.exit(128 + signal.SIGINT)
    if failed:
        logs = "; ".join(f"dvc queue logs {name}" for name in failed)
        raise UserError(f"{len(failed)} of {total} experiments failed {RETRIES + 1} times. See: {logs}")
    print("every experiment has its result", flush=True)
    return done


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep",
        description="Queue a grid of experiments, run it, and retry what failed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        required=True,
        metavar="NAME=VALUE,...",
        help="values of a parameter to try, as for `dvc exp run -S`; several make a grid",
    )
    parser.add_argument(
        "--share",
        default="1/1",
        metavar="K/N",
        help="run the K-th of N shares of the grid, K from 1, where N machines give the same command",
    )
    parser.add_argument(
        "--push",
        default="",
        metavar="REMOTE",
        help="leave out what this git remote has already, and push each result to it, models to DVC's default remote",
    )
    add_jobs(parser)
    return parser.parse_args()


def add_jobs(parser: argparse.ArgumentParser) -> None:
    def count(text: str) -> int:
        if (jobs := int(text)) < 1:
            raise argparse.ArgumentTypeError("it is 1 or more")
        return jobs

    parser.add_argument(
        "-j",
        "--jobs",
        type=count,
        default=max(1, len(gpu_candidates())),
        help="experiments at a time (default: one for each GPU; one without: %(default)s here)",
    )


def warn_of_untracked() -> None:
    """A queued run works on a copy of what git tracks, changes that are not committed included. Data it finds here."""
    paths = [entry["path"] for entry in load_params().get("datasets", {}).values() if entry.get("path")]
    data = [found.resolve() for path in paths if (found := existing(path))]
    others = command("git", "ls-files", "--others", "--exclude-standard").splitlines()
    listed = [name for name in others if not any(Path(name).resolve().is_relative_to(path) for path in data)]
    if listed:
        names = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
        print(f"warning: queued runs will not see {names}: not in git (`git add` them)", flush=True)


def queue(runs: list[Run]) -> dict[str, Run]:
    """Queue experiments, after other DVC commands. Return {name: run}. Raises UserError where a parameter does not
    exist, and where another command takes too long."""
    queued: dict[str, Run] = {}
    end = time.monotonic() + LOCK_SECONDS
    for one in runs:
        while not (name := queue_one(one)):
            if time.monotonic() > end:
                raise UserError("another DVC command keeps the queue locked: when it has ended, repeat this one")
            time.sleep(POLL_SECONDS)
        queued[name] = one
    return queued


def queue_one(one: Run) -> str:
    """Queue an experiment. Return its name, "" where another DVC command has the lock. Raises UserError."""
    try:
        with Repo() as repo, lock_repo(repo):
            return repo.experiments.queue_one(repo.experiments.celery_queue, params=one).name
    except LockError:
        return ""
    except DvcException as error:
        raise UserError(str(error.__cause__ or error)) from None


def work_off(
    waiting: dict[str, Run], jobs: int, when_done: Callable[[str], None] | None
) -> tuple[list[str], list[str]]:
    """Wait for the experiments, start workers as needed, retry. Return the names with and without result."""
    tries = dict.fromkeys(waiting, 1)
    done: list[str] = []
    failed: list[str] = []
    workers: set[int] = set()
    last_start = -START_SECONDS
    said = ""
    starts = {head()}  # the commits that the runs start from: an experiment of another one may have the name
    with Repo() as repo:
        tasks = repo.experiments.celery_queue
        while waiting:
            # in this order an experiment is in one of them however it moves on in between
            queued = {entry.name for entry in tasks.iter_queued()}
            running = {entry.name for entry in tasks.iter_active()}
            finished = {name for name, start, _ in experiments() if start in starts}
            workers = living(workers, Path(tasks.wdir))
            starting = time.monotonic() - last_start < START_SECONDS

            for name in [name for name in waiting if name not in queued | running]:
                one = waiting.pop(name)
                if name in finished:
                    done.append(name)
                    if when_done:
                        when_done(name)
                elif tries[name] > RETRIES:
                    failed.append(name)
                    print(f"{name} failed again: given up", flush=True)
                elif again := queue_one(one):
                    tries[again], waiting[again] = tries[name] + 1, one
                    starts.add(head())
                    print(f"{name} failed: queued again as {again}", flush=True)
                else:  # another DVC command has the lock: at the next poll
                    waiting[name] = one

            if not workers and not starting:
                for name in running & waiting.keys():  # their worker died and nobody will end them
                    print(f"{name} has lost its worker", flush=True)
                    command(DVC, "queue", "kill", "--force", name)
            if queued and len(workers) < jobs and not starting:
                start_workers(jobs)
                last_start = time.monotonic()

            active = len(running & waiting.keys())
            now = f"{len(done)} done, {active} running, {len(waiting) - active} queued"
            if now != said:
                print(f"{time.strftime('%H:%M:%S')} {now}", flush=True)
                said = now
            if waiting:
                time.sleep(POLL_SECONDS)
    return done, failed


if __name__ == "__main__":
    run(main)
