"""What somebody without a GPU, without the right Python or without PyTorch's index gets from `make`."""

import re
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT, the_error

LOCKS = ("requirements-api", "requirements", "requirements-dev")
PINS = dict(re.findall(r"^(torch|torchvision)==([\d.]+)$", (ROOT / "requirements.in").read_text(), re.MULTILINE))


def wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel that installs nothing but its name and version, and the page of an index that leads to it."""
    page = folder / name
    page.mkdir(parents=True)
    stem = f"{name.replace('-', '_')}-{version}"
    wheel_file = page / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(wheel_file, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "".join(f"{info}/{file},,\n" for file in ("METADATA", "WHEEL", "RECORD")))
    (page / "index.html").write_text(
        f'<!DOCTYPE html><a href="{wheel_file.name.replace("+", "%2B")}">{wheel_file.name}</a>'
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve two package indexes on loopback: pypi with torch and CUDA, and cpu with torch+cpu."""
    folder = tmp_path_factory.mktemp("indexes")
    for line in (ROOT / "requirements-torch.txt").read_text().splitlines():
        if found := re.match(r"([\w-]+)==([\d.]+)", line):
            wheel(folder / "pypi", found[1], found[2])
    for name, version in PINS.items():
        wheel(folder / "cpu", name, f"{version}+cpu")
    wheel(folder / "old", "torch", "2.0.0+cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with nothing in it but pip."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin/python"


class Installation:
    """`python -m tools.install_torch` in an empty environment, and what it installed."""

    def __init__(self, python: Path, index: str, cpu_index: str, path: str) -> None:
        environment = {"PATH": path, "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"{index}/pypi",
                       "TORCH_CPU_INDEX": cpu_index, "PIP_NO_CACHE_DIR": "1"}  # fmt: skip
        command = [str(python), "-m", "tools.install_torch"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.said = done.stdout.splitlines()[0] if done.stdout else ""
        list_command = [str(python), "-m", "pip", "freeze"]
        frozen = subprocess.run(list_command, env=environment, check=True, capture_output=True, text=True).stdout
        self.packages = {line.split("==")[0]: line.split("==")[1] for line in frozen.splitlines()}


@pytest.fixture
def python(empty: Path) -> Iterator[Path]:
    yield empty
    frozen = subprocess.run([empty, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    if names := [line.split("==")[0] for line in frozen.splitlines()]:
        subprocess.run([empty, "-m", "pip", "uninstall", "-q", "-y", *names], check=True)


NO_GPU = "/nowhere"


def test_without_a_gpu_nobody_downloads_cuda(python: Path, index: str) -> None:
    got = Installation(python, index, f"{index}/cpu", NO_GPU)
    assert got.packages == {name: f"{version}+cpu" for name, version in PINS.items()}
    assert got.said == "no NVIDIA GPU here: installing PyTorch without CUDA"
    again = Installation(python, index, "http://127.0.0.1:9/", NO_GPU)
    assert (again.packages, again.said) == (got.packages, ""), "what is installed stays, and no index is asked"


def test_with_a_gpu_pytorch_comes_with_cuda(python: Path, index: str, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU 0: NVIDIA H100\n")
    tool.chmod(0o755)
    got = Installation(python, index, f"{index}/cpu", str(tmp_path))
    assert PINS.items() <= got.packages.items()
    assert "nvidia-cublas" in got.packages
    assert got.said == "installing PyTorch with CUDA for the GPU here, 2.9 GB to download, 5.2 GB on disk"


@pytest.mark.parametrize("state", [pytest.param("silent", marks=pytest.mark.long), "closed", "old"])
def test_an_index_without_an_answer_is_given_up_in_one_line(python: Path, index: str, state: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never says anything
        address = {"silent": f"http://127.0.0.1:{silent.getsockname()[1]}", "closed": "http://127.0.0.1:9/"}
        got = Installation(python, index, address.get(state, f"{index}/old"), NO_GPU)
    assert PINS.items() <= got.packages.items()
    assert got.said.startswith("no NVIDIA GPU here, but no PyTorch without CUDA at http://127.0.0.1")
    assert got.said.endswith("installing the build with CUDA, 2.9 GB to download, 5.2 GB on disk")


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("no-such-python", "error: there is no no-such-python: install Python 3.11, 3.12 or 3.13, or name one"),
        ("false", "error: false is older than Python 3.11: name a newer one, as in 'make PYTHON=python3.12'"),
    ],
)
def test_make_tells_a_missing_python_from_an_old_one(python: str, says: str, tmp_path: Path) -> None:
    for path in [ROOT / "Makefile", *ROOT.glob("requirements*.txt")]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    result = subprocess.run(["make", "test", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0
    assert says in result.stderr
    assert not (tmp_path / ".venv").exists()


# As on Debian without its package: the folder is there, with an interpreter and without pip.
WITHOUT_VENV = """#!/bin/sh
if [ "$1" = -c ]; then exec {python} "$@"; fi
mkdir -p .venv/bin && ln -s {python} .venv/bin/python
echo "The virtual environment was not created successfully because ensurepip is not available."
exit 1
"""


def test_a_python_without_venv_leaves_nothing_and_the_package_is_named(tmp_path: Path) -> None:
    for path in [ROOT / "Makefile", *ROOT.glob("requirements*.txt")]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    python = tmp_path / "debian"
    python.write_text(WITHOUT_VENV.format(python=sys.executable))
    python.chmod(0o755)
    for _ in range(2):
        command = ["make", "ask", f"PYTHON={python}"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        package = f"python3.{sys.version_info.minor}-venv"
        assert f"makes no virtual environment: on Debian and Ubuntu, 'apt-get install {package}'" in the_error(result)
        assert "ensurepip" not in result.stdout
        assert not (tmp_path / ".venv").exists()


def test_the_same_versions_of_python_are_promised_everywhere() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(metadata["project"]["classifiers"]))
    lowest, highest = versions[0], versions[-1]
    assert metadata["project"]["requires-python"] == f">={lowest}"
    assert metadata["tool"]["mypy"]["python_version"] == metadata["tool"]["uv"]["pip"]["python-version"] == lowest
    makefile = (ROOT / "Makefile").read_text()
    assert f"Python {', '.join(versions[:-1])} or {highest}" in makefile
    assert f"sys.version_info < ({lowest.replace('.', ', ')})" in makefile
    for document in ("README.md", "docs/tutorial.md"):
        assert f"Python {lowest} to {highest}" in (ROOT / document).read_text(), document
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    assert str(versions).replace("'", '"') in workflow
    for file in (ROOT / "dockerfiles").glob("*.Dockerfile"):
        assert set(re.findall(r"python:([\d.]+)", file.read_text())) <= set(versions), file


@pytest.mark.parametrize("name", LOCKS)
def test_requirements_are_pinned_and_their_locks_have_hashes_and_name_no_host(name: str) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / f"{name}.in").read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-")]
    loose = [line for line in wanted if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", line)]
    assert not loose
    lock = (ROOT / f"{name}.txt").read_text()
    assert "://" not in lock
    entries = re.split(r"\n(?=[a-z])", lock)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    locked = {entry.split(" ")[0] for entry in entries} | {f"{name}=={pin}" for name, pin in PINS.items()}
    assert {pin.replace("ruamel.yaml", "ruamel-yaml").replace("yaml.clib", "yaml-clib") for pin in wanted} <= locked


def test_torch_is_locked_in_the_version_that_is_wanted() -> None:
    lock = (ROOT / "requirements-torch.txt").read_text()
    assert dict(re.findall(r"^(torch|torchvision)==([\d.]+)$", lock, re.MULTILINE)) == PINS
