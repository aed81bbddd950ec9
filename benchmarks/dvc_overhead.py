"""What DVC adds to the scripts: `dvc repro`, `dvc exp run`, and queues of 1 and of 10 runs, beside the scripts alone.

    python -m benchmarks.dvc_overhead > benchmarks/results/dvc_overhead.md

In clones of this repository in a temporary folder (of the commit: changes since then are not measured), on the embedded
sample, with a network that trains one epoch in a second or two: what DVC adds does not depend on the training, so it
weighs the more the shorter that is. A queued run costs the more, the more there is in git: DVC packs the whole history
for its folder, in Python. So the size of .git/objects is printed as well.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.heading import heading
from detector.errors import UserError, run
from stages.device import claim
from stages.params import load_params
from tools.workers import living

SCRIPTS = ["fingerprint", "prepare", "train", "evaluate", "export", "external", "card"]  # the stages of dvc.yaml
RUN = SCRIPTS[SCRIPTS.index("train") :]  # what another seed makes DVC run: the other stages have not changed
MODEL = "small_resnet"
POLL_SECONDS = 0.2
START_SECONDS = 30.0  # until a worker that was started must be seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="in the longer queue (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of all but the queues (default: %(default)s)")
    arguments = parser.parse_args()
    load_params()  # says so when this is not the root of the repository
    claim()
    queues = sorted({1, arguments.runs})
    total = 1 + 4 * arguments.turns + sum(queues) + len(queues)

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary,
        tqdm(total=total, unit=" steps", disable=None) as bar,
    ):
        bare, project = clone(Path(temporary, "scripts")), clone(Path(temporary, "dvc"))
        run_scripts(bare)  # once before it counts, as everything below
        do(project, "dvc", "repro")
        commit(project)
        bar.update()

        alone: dict[str, list[float]] = {script: [] for script in SCRIPTS}
        seconds: list[list[float]] = [[], [], []]  # of the three `commands` below
        for repeat in range(1, arguments.turns + 1):
            for script, took in run_scripts(bare).items():
                alone[script].append(took)
            bar.update()
            commands = (["repro", "--force"], ["exp", "run", "-S", f"seed={repeat}"], ["repro"])
            for times, command in zip(seconds, commands, strict=True):
                times.append(do(project, "dvc", *command))
                bar.update()
        do(project, "git", "reset", "--quiet", "--hard")
        do(project, "dvc", "checkout", "--quiet", "--allow-missing")  # the released models were not pulled
        history = sum(path.stat().st_size for path in (bare / ".git/objects").rglob("*") if path.is_file())
        queued = {n: run_queue(project, n, bar) for n in queues}

    script_seconds = {script: statistics.median(times) for script, times in alone.items()}
    everything = sum(script_seconds.values())
    one_run = sum(script_seconds[script] for script in RUN)
    repro, exp_run, nothing = (statistics.median(times) for times in seconds)
    rows = [
        ("`dvc repro --force`, all stages", repro, everything, 1),
        ("`dvc repro`, nothing to do", nothing, 0.0, 1),
        ("`dvc exp run -S seed=...`", exp_run, one_run, 1),
    ]
    for n, (queueing, running) in queued.items():
        runs = "1 run" if n == 1 else f"{n} runs"
        rows.append((f"`dvc exp run --queue`, {runs}", queueing, 0.0, n))
        rows.append((f"`dvc queue start`, {runs}, to the last result", running, n * one_run, n))
        rows.append((f"both, {runs}", queueing + running, n * one_run, n))

    versions = ("DVC", "dulwich", "ruamel.yaml.clib")
    print(heading("What DVC adds", f"{history / 1e6:.0f} MB in .git/objects", versions=versions))
    print(
        f"The sample, {MODEL}, one epoch. Scripts alone, median of {arguments.turns}: "
        f"{', '.join(f'{script} {took:.1f} s' for script, took in script_seconds.items())}. An experiment with another "
        f"seed runs {', '.join(RUN)}; queues have one worker.\n"
    )
    print("| | seconds | the scripts alone | added to each run | times the scripts |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for what, took, scripts, n in rows:
        ratio = f"{took / scripts:.2f}" if scripts else ""
        print(f"| {what} | {took:.1f} | {scripts:.1f} | {(took - scripts) / n:.1f} s | {ratio} |")


def clone(path: Path) -> Path:
    """A clone of this repository's commit whose parameters ask for a short run on the sample."""
    do(Path.cwd(), "git", "clone", "--quiet", "--no-local", ".", str(path))  # packed, as if it came over a network
    yaml = YAML()
    params = yaml.load(path / "params.yaml")
    params["dataset"], params["model"] = "sample", MODEL
    params["models"][MODEL]["epochs"] = 1
    params["evaluate"]["explained"] = 20
    yaml.dump(params, path / "params.yaml")
    commit(path)
    return path


def commit(project: Path) -> None:
    do(project, "git", "add", "--all")
    do(project, "git", "commit", "--quiet", "--message", "benchmark")


def run_scripts(project: Path) -> dict[str, float]:
    return {script: do(project, sys.executable, "-m", f"stages.{script}") for script in SCRIPTS}


def run_queue(project: Path, runs: int, bar: tqdm) -> tuple[float, float]:
    """Seconds to queue so many runs, and seconds from then to the last result."""
    seeds = ",".join(str(1000 * runs + i) for i in range(runs))  # none that was run before
    words = ["dvc", "exp", "run", "--queue", "-S", f"seed={seeds}"]
    started = time.perf_counter()
    said = subprocess.run(words, cwd=project, env=environment(), capture_output=True, text=True)
    queued = time.perf_counter()
    names = set(re.findall(r"Queued experiment '([^']+)'", said.stdout))
    if said.returncode or len(names) != runs:
        raise UserError(f"{' '.join(words)} queued {len(names)} of {runs} runs: {said.stderr.strip()}")
    bar.update()

    # a worker holds on to the pipes that it inherits, so it gets none
    quiet = subprocess.DEVNULL
    words = ["dvc", "queue", "start", "--jobs", "1"]
    subprocess.run(words, cwd=project, env=environment(), stdout=quiet, stderr=quiet, check=True)
    celery, refs = project / ".dvc/tmp/exps/celery", project / ".git/refs/exps"
    workers: set[int] = set()
    finished = 0
    try:
        while finished < runs:
            time.sleep(POLL_SECONDS)  # looks at files only: `dvc queue status` would take a core from the runs
            done = len({path.name for path in refs.rglob("*")} & names)
            bar.update(done - finished)
            finished = done
            workers = living(workers, celery)
            if finished < runs and not workers and time.perf_counter() - queued > START_SECONDS:
                raise UserError(f"the worker has ended and {runs - finished} of {runs} queued runs have no result")
        ended = time.perf_counter()
    finally:  # the worker would wait for more runs for ten seconds, and serve the next queue
        words = ["dvc", "queue", "stop", *(["--kill"] if finished < runs else [])]
        subprocess.run(words, cwd=project, env=environment(), stdout=quiet, stderr=quiet)
        while living(workers, celery):
            time.sleep(POLL_SECONDS)
    return queued - started, ended - queued


def do(folder: Path, *words: str) -> float:
    """Run a command. Returns the seconds it took."""
    started = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise UserError(f"{' '.join(words)} failed with exit status {done.returncode}: see above")
    return took


def environment() -> dict[str, str]:
    """Of every command: this environment's `dvc` and `python`, a committer, and nothing from outside the clone."""
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull}
    for name in ("CIFAKE_SOURCE", "DVC_ROOT"):
        env.pop(name, None)
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "benchmark", f"GIT_{who}_EMAIL": "benchmark@example.org"}
    return env


if __name__ == "__main__":
    run(main)
