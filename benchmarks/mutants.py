"""Would the tests notice a mistake? Small changes of `stages` and `detector`, each against its module's tests.

    python -m benchmarks.mutants > benchmarks/results/mutants.md

Mutants of six kinds are drawn at random, as many of each: a comparison, an operator, a constant, a condition, a
returned value, a deleted statement. Each is made in a copy of the last commit, where the tests run that are closest to
the module; they should fail. What is known is kept in .dvc/tmp/mutants: a run that was stopped goes on, and one with a
larger --count adds to a smaller one.
"""

import argparse
import ast
import contextlib
import copy
import functools
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

from benchmarks.heading import heading
from detector.errors import UserError, run

FOLDERS = ("stages", "detector")
TEST_FILES = 4  # for one module
NO_TESTS = 5  # pytest's exit status where a file has none but slow ones, which notice nothing here
ACCOUNT = ("-c", "user.name=mutants", "-c", "user.email=mutants@example.org")
COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """start, end: of what is changed, in the bytes of the file."""

    kind: str
    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.start}: {self.before} -> {self.after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which are drawn (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="side by side (default: %(default)s)")
    arguments = parser.parse_args()

    begun, root = time.monotonic(), Path.cwd()
    commit = git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(arguments.jobs):
            copies.put(Path(folder, str(number)))
            git(root, "clone", "-q", ".", f"{folder}/{number}")
        with contextlib.chdir(Path(folder, "0")):  # what is not committed does not count
            drawn = draw([mutant for file in modules() for mutant in mutants_of(file)], arguments.count, arguments.seed)
            tests = {file: closest_tests(file) for file in {mutant.file for mutant in drawn}}
        notes = Notes(root / ".dvc/tmp/mutants" / f"{commit}.jsonl")

        def time_tests(file: str) -> None:
            """Run a test file as it is: it must pass, and says how long a mutant's tests may take."""
            if file not in notes.known:
                with taken(copies) as place:
                    status, seconds = run_tests(place, [file], 1200)
                if status not in (0, NO_TESTS):
                    raise UserError(f"{file} fails without any mutant, in a clone of the last commit")
                notes.add(file, seconds)

        def try_mutant(mutant: Mutant) -> None:
            if mutant.name not in notes.known:
                limit = 60 + 3 * sum(notes.known[file] for file in tests[mutant.file])
                with taken(copies) as place:
                    path = place / mutant.file
                    source = path.read_bytes()
                    path.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
                    git(place, *ACCOUNT, "commit", "-qam", "mutant")  # some tests clone
                    status, _ = run_tests(place, tests[mutant.file], limit)
                    git(place, "reset", "-q", "--hard", commit)
                notes.add(mutant.name, 0 if status == NO_TESTS else status)

        used = sorted({file for mutant in drawn for file in tests[mutant.file]})
        try:
            for work, items in ((time_tests, used), (try_mutant, drawn)):
                list(tqdm(pool.map(work, items), total=len(items), unit="run", disable=None))
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C only the tests that run are waited for
    minutes = (time.monotonic() - begun) / 60
    facts = (f"commit {commit[:10]}", f"seed {arguments.seed}", f"{minutes:.0f} minutes since the last start")
    print(heading("Mutants", *facts))
    report(drawn, notes.known, tests)


class Notes:
    """What is known of a commit: seconds by test file, and by mutant the exit status of its tests, 0 if they pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, float] = dict(json.loads(line) for line in lines)

    def add(self, name: str, value: float) -> None:
        self.known[name] = value
        with self.path.open("a") as file:
            file.write(json.dumps([name, value]) + "\n")


@contextlib.contextmanager
def taken(copies: queue.Queue[Path]) -> Iterator[Path]:
    place = copies.get()
    try:
        yield place
    finally:
        copies.put(place)


def git(place: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=place, check=True, capture_output=True, text=True).stdout.strip()


def run_tests(place: Path, files: list[str], limit: float) -> tuple[int, float]:
    """Return pytest's exit status, 124 where the tests took longer than the limit in seconds, and the seconds."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = 124
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the tests have started, too
    process.wait()
    return status, time.monotonic() - begun


def report(drawn: list[Mutant], known: dict[str, float], tests: dict[str, list[str]]) -> None:
    print("| Kind | mutants | noticed |\n| --- | ---: | ---: |")
    for kind in sorted({mutant.kind for mutant in drawn}):
        own = [mutant for mutant in drawn if mutant.kind == kind]
        print(f"| {kind} | {len(own)} | {sum(known[mutant.name] != 0 for mutant in own)} |")
    survivors = [mutant for mutant in drawn if known[mutant.name] == 0]
    noticed = len(drawn) - len(survivors)
    print(f"| all | {len(drawn)} | {noticed} ({noticed / len(drawn):.0%}) |\n")
    for mutant in survivors:
        before, after = (" ".join(text.split()) for text in (mutant.before, mutant.after))
        names = ", ".join(Path(file).name for file in tests[mutant.file])
        print(f"- {mutant.file}:{mutant.line}: `{before}` became `{after}`, which {names} did not notice")


def modules() -> list[str]:
    """The files whose code is changed. Empty ones and packages' lists of names have nothing to change."""
    return sorted(str(file) for folder in FOLDERS for file in Path(folder).rglob("*.py"))


def mutants_of(file: str) -> Iterator[Mutant]:
    source = Path(file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, kind, changed in changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        after = ast.unparse(ast.fix_missing_locations(changed))
        after = after if isinstance(changed, ast.stmt) else f"({after})"
        yield Mutant(kind, file, node.lineno, start, end, source[start:end].decode(), after)


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, ast.expr | ast.stmt]]:
    """Yield what can be changed: the node, the kind of change, and the node in its place."""
    for node in nodes(tree):
        new = copy.deepcopy(node)
        match new:
            case ast.Compare():
                new.ops[0] = COMPARISONS[type(new.ops[0])]()
                yield node, "comparison", new  # type: ignore[misc]
            case ast.BinOp() | ast.AugAssign() if type(new.op) in OPERATORS:
                new.op = OPERATORS[type(new.op)]()
                yield node, "operator", new  # type: ignore[misc]
            case ast.Constant(value=bool()):
                new.value = not new.value
                yield node, "constant", new  # type: ignore[misc]
            case ast.Constant(value=int() | float() as number):
                new.value = number + 1
                yield node, "constant", new  # type: ignore[misc]
            case ast.BoolOp():
                new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
                yield node, "condition", new  # type: ignore[misc]
            case ast.UnaryOp(op=ast.Not()):
                yield node, "condition", new.operand  # type: ignore[misc]
            case ast.Return(value=ast.expr()) if not (isinstance(new.value, ast.Constant) and new.value.value is None):
                new.value = ast.Constant(None)
                yield node, "returned value", new  # type: ignore[misc]
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield node, "deleted statement", ast.Pass()  # type: ignore[misc]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk through what runs: no types, no f-strings, inside of which Python 3.11 does not know the places."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns") or isinstance(tree, ast.JoinedStr):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield node
                yield from nodes(node)


def draw(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return the first of a random order in which the kinds take turns."""
    rng, kinds = random.Random(seed), defaultdict(list)
    for mutant in mutants:
        kinds[mutant.kind].append(mutant)
    shuffled = [rng.sample(own, len(own)) for _, own in sorted(kinds.items())]
    return [mutant for turn in zip_longest(*shuffled) for mutant in turn if mutant is not None][:count]


def closest_tests(module: str) -> list[str]:
    """Return up to TEST_FILES test files: first those of its name, or its folder's, then those that import the module,
    then those that import what imports it, and so on; of equally close ones those that import least else."""
    files = [*modules(), *map(str, Path("tests").glob("test_*.py"))]
    imports = {file: imported_by(file) for file in files}
    steps, more = {module: 0}, {module}
    while more:
        more = {file for file in files if file not in steps and imports[file] & more}
        steps |= dict.fromkeys(more, max(steps.values()) + 1)
    tests = [file for file in steps if file.startswith("tests/")]
    if not tests:
        raise UserError(f"no test imports {module}")
    words = Path(module).with_suffix("").parts[1:]  # not the package's name: half of all tests are of it
    tests.sort(key=lambda test: (not any(word in test for word in words), steps[test], len(imports[test]), test))
    return tests[:TEST_FILES]


@functools.cache
def imported_by(file: str) -> set[str]:
    """The modules of FOLDERS that a file imports, or runs: a test that runs a stage tests the stage's main program."""
    text = Path(file).read_text()
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for package, name in re.findall(r"\bfrom ([\w.]+) import (\w+)", text):  # in programs that tests write, too
        names |= {package, f"{package}.{name}"}
    for program in re.findall(r'"-m", "([\w.]+)"', text) + [
        f"stages.{name}" for name in re.findall(r'\.stage\("(\w+)"', text)
    ]:
        names |= {program, f"{program}.__main__"}
    paths = {name.replace(".", "/") for name in names if name.startswith(FOLDERS)}
    found = {path for name in paths for path in (f"{name}.py", f"{name}/__init__.py") if Path(path).exists()}
    beside = {str(Path(file).with_name(name)) for name in re.findall(r'with_name\("(\w+\.py)"\)', text)}  # a program
    return (found | beside) - {file}


if __name__ == "__main__":
    run(main)
