"""`python -m benchmarks.mutants`: what it changes, and that it tells what tests notice from what they do not."""

import ast
from pathlib import Path

import pytest

from benchmarks.mutants import closest_tests, draw, imported_by, main, modules, mutants_of
from tests.conftest import ROOT, Project

MODULE = """\
def clip(value: int, most: int = 5) -> int:
    \"\"\"Return at most `most`.\"\"\"
    if value > most and most != 0:
        return most
    return value + 0
"""
TEST = """\
from stages.clip import clip

def test_clip():
    assert (clip(3), clip(7)) == (3, 5)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"stages/clip.py": MODULE, "tests/test_clip.py": TEST, "pytest.ini": "[pytest]\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    Project(tmp_path).repository()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_mutant_is_one_change_and_still_python(repository: Path) -> None:
    found = list(mutants_of("stages/clip.py"))
    assert sorted((mutant.kind, mutant.before, mutant.after) for mutant in found) == [
        ("comparison", "most != 0", "(most == 0)"),
        ("comparison", "value > most", "(value >= most)"),
        ("condition", "value > most and most != 0", "(value > most or most != 0)"),
        ("constant", "0", "(1)"),
        ("constant", "0", "(1)"),
        ("constant", "5", "(6)"),
        ("operator", "value + 0", "(value - 0)"),
        ("returned value", "return most", "return None"),
        ("returned value", "return value + 0", "return None"),
    ]
    source = (repository / "stages/clip.py").read_bytes()
    for mutant in found:
        assert source[mutant.start : mutant.end].decode() == mutant.before
        ast.parse(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
    drawn = draw(found, 5, seed=3)
    assert len({mutant.kind for mutant in drawn}) == 5
    assert draw(found, 9, seed=3)[:5] == drawn


def test_the_closest_tests_are_those_that_import_a_module_or_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert closest_tests("detector/colours.py")[0] == "tests/test_colours.py"
    assert closest_tests("stages/prepare/packing.py")[0] == "tests/test_prepare.py"
    assert closest_tests("stages/train/network.py")[0] == "tests/test_train.py"
    assert closest_tests("stages/device.py")[0] == "tests/test_device.py", "its tests have it in a program's text"
    assert "tests/test_datasets.py" in closest_tests("stages/prepare/sources.py"), (
        "test_external.py is closer, and not enough"
    )
    assert "stages/external/__main__.py" in imported_by("tests/test_external.py")
    assert "tests/test_pool.py" in closest_tests("detector/worker.py"), "detector/pool.py starts it as a program"
    changed = [module for module in modules() if any(True for _ in mutants_of(module))]
    assert {"stages/model.py", "detector/images.py"} <= {module for module in changed if closest_tests(module)}


@pytest.mark.long
def test_survivors_are_named_and_a_second_run_knows_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", "--count", "5", "--seed", "0"])
    main()
    first = capsys.readouterr().out
    assert (repository / "stages/clip.py").read_text() == MODULE
    assert "| all | 5 |" in first
    assert "- stages/clip.py:5: `value + 0` became `(value - 0)`, which test_clip.py did not notice" in first
    assert "| returned value | 1 | 1 |" in first
    (notes,) = repository.glob(".dvc/tmp/mutants/*.jsonl")
    known = notes.read_text()
    main()
    assert notes.read_text() == known
    again = capsys.readouterr().out
    assert again.partition("| Kind")[2] == first.partition("| Kind")[2], "but for the minutes it says the same"


@pytest.mark.long
def test_a_module_whose_tests_do_not_run_has_only_survivors(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "pytest.ini").write_text("[pytest]\naddopts = -k nothing_of_this_name\n")
    Project(repository).commit("no test runs")
    monkeypatch.setattr("sys.argv", ["mutants", "--count", "2"])
    main()
    assert "| all | 2 | 0 (0%) |" in capsys.readouterr().out
