"""`pip install .`: the detector as a package, without the repository."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from detector.released import DEFAULT
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXAMPLES = [str(ROOT / f"app/static/examples/{name}") for name in ("ship.png", "cat.jpg", "coffee.jpg")]


def test_the_ranges_of_the_package_hold_the_versions_that_are_tested() -> None:
    locks = "".join(
        (ROOT / name).read_text() for name in ("requirements-api.txt", "requirements.txt", "requirements-dev.txt")
    )
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", locks, re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    ranges = {
        canonicalize_name(one.name): one.specifier
        for one in map(Requirement, [*PROJECT["dependencies"], *(text for extra in extras.values() for text in extra)])
    }
    assert {name: pins[name] for name, versions in ranges.items() if pins[name] not in versions} == {}
    wanted = re.findall(r"^([\w-]+)==", (ROOT / "requirements-api.in").read_text(), re.MULTILINE)
    service = [canonicalize_name(Requirement(text).name) for text in [*PROJECT["dependencies"], *extras["service"]]]
    assert sorted(service) == sorted(wanted)


def test_the_page_that_pypi_shows_links_to_no_other_page() -> None:
    assert "](" not in (ROOT / PROJECT["readme"]).read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    subprocess.run(build, cwd=ROOT, check=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.long  # 10 s
def test_the_wheel_holds_the_detector_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "detector"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    info = f"ai_art_detector-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == set(tracked.splitlines())
    metadata = PathDistribution(zipfile.Path(wheel, info)).metadata
    assert metadata["License-Expression"] == "MIT"
    assert "do not tell whether a picture from the web is" in str(metadata.json["description"])


@pytest.mark.long  # half a minute, and 54 MB to download unless pip has them in its cache
def test_the_wheel_answers_in_an_empty_environment_as_the_clone_does(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    there = tmp_path / "venv/bin"
    pins = re.findall(r"^[\w-]+==[\d.]+", (ROOT / "requirements-api.txt").read_text(), re.MULTILINE)
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    subprocess.run([there / "pip", "install", "--quiet", "--constraint", tmp_path / "pins.txt", wheel], check=True)
    subprocess.run([there / "pip", "check"], check=True)
    listed = subprocess.run([there / "pip", "list", "--format=json"], check=True, capture_output=True, text=True).stdout
    assert {"fastapi", "torch", "huggingface-hub", "scikit-learn"} & {
        one["name"] for one in json.loads(listed)
    } == set()

    here = tmp_path / "here"
    here.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["XDG_DATA_HOME"] = str(tmp_path / "home")

    def say(*command: str | Path, ok: bool = True) -> str:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == ok, done.stderr
        return done.stdout if ok else done.stderr

    program = there / "ai-art-detector"
    assert "`python -m detector fetch` brings one" in say(program, EXAMPLES[0], ok=False)
    assert "needs scikit-learn" in say(program, "adapt", "--real", ".", "--fake", ".", ok=False)
    assert "ai-art-detector[hub]" in say(program, "fetch", "hf://someone/model", ok=False)
    say(program, "fetch", Path(DEFAULT).name, "--from", str(ROOT))
    answers = say(program, *EXAMPLES, "--json")
    assert say(there / "python", "-m", "detector", *EXAMPLES, "--json") == answers
    environment["PYTHONPATH"] = str(ROOT)
    assert say(sys.executable, "-m", "detector", *EXAMPLES, "--json") == answers
    assert [row["verdict"] for row in json.loads(answers)] == ["FAKE", "REAL", "UNSURE"]

    # it is typed: a checker knows what it returns
    (here / "mine.py").write_text(
        "from detector import Detector\nreveal_type(Detector.load('m').predict([])[0].p_fake)\n"
    )
    del environment["PYTHONPATH"]
    checked = say(sys.executable, "-m", "mypy", "--config-file=", "--python-executable", there / "python", "mine.py")
    assert 'Revealed type is "float"' in checked.replace("builtins.", "")
