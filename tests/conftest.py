"""Projects to try things in: copies of this one in temporary folders, with the sample prepared or the pipeline run."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from ruamel.yaml import YAML

import stages  # noqa: F401  (first of all: it sets what torch reads from the environment)

if TYPE_CHECKING:
    from tests.browsing import Host
    from tests.serving import Server

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# Tests run side by side, one on a core: threads of several runs on the same cores hold each other up.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the tests themselves run in the background, a shell has SIGINT ignored, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A network of a few thousand parameters, which an epoch of the sample takes a second.
TINY: dict[str, Any] = {
    "timm": "test_resnet",
    "args": {},
    "stem": "conv",
    "pretrained": False,
    "epochs": 3,
    "crop_epochs": 0.5,
    "batch_size": 120,
    "optimizer": "muon",
    "learning_rate": 4e-3,
    "weight_decay": 0.1,
    "ema_decay": 0.9,
}


# test_train waits for test_pipeline's run of the pipeline, so others are between them.
LONGEST = (
    "test_pipeline.py",
    "test_prepare.py",
    "test_page_reasons.py",
    "test_train.py",
    "test_memory.py",
    "test_interrupted.py",
    "test_queue.py",
    "test_adapt.py",
    "test_page.py",
    "test_repository.py",
    "test_app.py",
    "test_export.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files: at the end, workers should finish at the same time."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


class Project:
    """A folder with the project's files and the commands that its users type."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull}
        for name in ("CIFAKE_SOURCE", "DVC_ROOT", "CUDA_VISIBLE_DEVICES"):
            self.env.pop(name, None)
        for who in ("AUTHOR", "COMMITTER"):
            self.env |= {f"GIT_{who}_NAME": "Tester", f"GIT_{who}_EMAIL": "tester@example.org"}

    def run(self, *command: str, ok: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder. `ok`: it must succeed; else it must fail with one line on stderr."""
        result = subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True, **options)
        assert (result.returncode == 0) == ok, result.stdout + result.stderr
        return result

    def stage(self, name: str, *arguments: str, ok: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", f"stages.{name}", *arguments, ok=ok, **options)

    def tool(self, name: str, *arguments: str, ok: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", f"tools.{name}", *arguments, ok=ok, **options)

    def leave_out(self, file: str, *names: str) -> None:
        """Remove stages from dvc.yaml or dvc.lock: they would only take time."""
        yaml = YAML()
        content = yaml.load(self.path / file)
        for name in names:
            content["stages"].pop(name, None)
        yaml.dump(content, self.path / file)

    def changed_stages(self, *targets: str) -> set[str]:
        """The stages that `dvc repro` would run, but for the one that always runs."""
        status = json.loads(self.run("dvc", "status", "--json", *targets).stdout)
        return {name.rpartition(":")[2] for name in status} - {"fingerprint"}

    def start(self, *command: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a command in the folder and go on."""
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=self.env, stdout=pipe, stderr=pipe, text=True, **options)

    def weights(self) -> str:
        """A digest of the trained weights."""
        return hashlib.sha256((self.path / "models/trained/model.safetensors").read_bytes()).hexdigest()

    def outputs(self) -> dict[str, bytes]:
        """All that stages after `prepare` write, by path."""
        files = [path for name in ("models", "metrics", "plots") for path in (self.path / name).rglob("*")]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files if path.is_file()}

    def set(self, **params: Any) -> None:
        """Edit params.yaml as a user would: a dotted name is given with two underscores."""
        yaml = YAML()
        path = self.path / "params.yaml"
        document = yaml.load(path)
        for name, value in params.items():
            *sections, key = name.split("__")
            section = document
            for part in sections:
                section = section[part]
            section[key] = value
        yaml.dump(document, path)

    def repository(self) -> None:
        """Make the folder a git and DVC repository with everything committed."""
        self.run("git", "init", "-q", "-b", "main")
        self.commit("start")

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)


def somebody_without_a_name() -> list[str]:
    """Return what runs a command as a user that the system has no name for, and without a superuser's rights."""
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows nobody to be another user")
    return command


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a folder once, also for several workers of pytest-xdist. Nobody writes in it afterwards."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    path, new = root / name, root / f"{name}.new"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make(new)
            new.rename(path)
    return path


def copy_project(path: Path) -> None:
    """Copy the project's own files, with `models.tiny` and the sample as defaults."""
    for name in ("stages", "detector", "tools", "data/sample", ".dvc/plots"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, path / name)
    for folder in ("data", "models", "metrics"):
        (path / folder).mkdir(exist_ok=True)
        shutil.copy(ROOT / folder / ".gitignore", path / folder)
    few = {"noise": [0.1], "jpeg": [80, 50], "rescale": [16]}
    Project(path).set(model="tiny", dataset="sample", models__tiny=TINY)
    Project(path).set(evaluate__explained=10, evaluate__corruptions=few)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the sample prepared."""

    def make(path: Path) -> None:
        copy_project(path)
        Project(path).stage("prepare")

    return once(tmp_path_factory, "prepared", make)


# At its end each stage says which of the project's modules it has imported.
TRACE = """
import atexit, json, os, sys
from pathlib import Path

def write():
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name.startswith("stages."):
        files = [Path(getattr(module, "__file__", None) or "/") for module in list(sys.modules.values())]
        names = sorted(str(file.relative_to(Path.cwd())) for file in files if file.is_relative_to(Path.cwd()))
        Path(os.environ["TRACE"], spec.name.split(".")[1]).write_text(json.dumps(names))

atexit.register(write)
"""


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which `dvc repro` has run, on the sample in the place of CIFAKE, and is committed.

    One run for all tests that only look at its results. Its folder `imports` has the modules that each stage imported.
    """

    def make(path: Path) -> None:
        copy_project(path)
        project = Project(path)
        project.set(dataset="cifake")
        project.repository()
        (path / ".git/info/exclude").write_text("/imports\n")
        (path / "imports").mkdir()
        (path / "imports/sitecustomize.py").write_text(TRACE)
        project.env |= {"CIFAKE_SOURCE": "data/sample", "TRACE": "imports", "PYTHONPATH": "imports"}
        project.run("dvc", "repro")
        project.commit("published")

    return once(tmp_path_factory, "pipeline", make)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. .ci/run installs one, so that no change passes with the page or the site unseen."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("this needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        # names that are none of loopback's, for what browsers hold back from those
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that weighs pixels, for what does not depend on what a model has learnt."""
    from tests.serving import make_model  # not above: it imports this module

    return make_model(tmp_path_factory.mktemp("models") / "weighing")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator["Server"]:
    """A service that answers with `model`."""
    from tests.serving import Server

    with Server(model) as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the released models and the page that answers in the browser, `page`."""
    from tests.browsing import built_page

    return built_page(tmp_path_factory)


@pytest.fixture(scope="module")
def host(place: Path) -> Iterator["Host"]:
    """A static host of that page."""
    from tests.browsing import Host

    with Host(place / "page") as running:
        yield running
        running.shutdown()


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Project:
    shutil.copytree(prepared, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def here(pipeline: Path, tmp_path: Path) -> Project:
    """A copy of the repository in which `dvc repro` has run, to change."""
    return Project(shutil.copytree(pipeline, tmp_path / "here"))


ONE_STAGE = """
stages:
  train:
    cmd: cp params.yaml result.yaml
    deps: [code.py]
    params: [seed]
    metrics: [result.yaml: {cache: false}]
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository with one stage, in the working folder."""
    project = Project(tmp_path / "small")
    project.path.mkdir()
    contents = {"dvc.yaml": ONE_STAGE, "params.yaml": "seed: 0\nepochs: 1\n", "code.py": "", "result.yaml": ""}
    for name, text in contents.items():
        (project.path / name).write_text(text)
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    project.commit("first")
    monkeypatch.chdir(project.path)
    return project


@pytest.fixture
def train_here(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Trains in this process, which saves the seconds that importing torch takes. Returns what was said."""
    from stages.train.__main__ import main

    monkeypatch.chdir(project.path)
    for name in ("DVC_ROOT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def train_here() -> str:
        main()
        return capsys.readouterr().out

    return train_here


def the_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command says; nothing else, no traceback."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]
