"""A project to try things in: a copy of this one in a temporary folder, with the sample prepared."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import stages  # noqa: F401  (first of all: it sets what torch reads from the environment)

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
    "cropped": 0.5,
    "batch_size": 120,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "ema_decay": 0.9,
}


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
        for command in (["git", "init", "-q", "-b", "main"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
            self.run(*command)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own files, with `models.tiny` and the sample as defaults, and the sample prepared."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    for name in ("stages", "detector", "data/sample", ".dvc/plots"):
        shutil.copytree(ROOT / name, project.path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, project.path / name)
    for folder in ("data", "models", "metrics"):
        (project.path / folder).mkdir(exist_ok=True)
        shutil.copy(ROOT / folder / ".gitignore", project.path / folder)
    project.set(model="tiny", dataset="sample", models__tiny=TINY, evaluate__explained=10)
    project.stage("prepare")
    return project.path


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Project:
    shutil.copytree(prepared, tmp_path / "project")
    return Project(tmp_path / "project")


def the_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command says; nothing else, no traceback."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]
