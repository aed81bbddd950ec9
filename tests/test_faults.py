"""A remote behind a bad network: what is pushed and pulled is complete, or DVC says that it is not, and it is complete
when the command is repeated. No wrong byte arrives, in the cache neither."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.faulty import CUT, FLIPPED, SLOW, STALLED, TRUNCATED, FaultyProxy
from tests.gcs import BUCKET, Server, contents, repository

TRANSIENT = [CUT, "503", "429", SLOW, TRUNCATED]
SIZES = {f"data/{number}.bin": 100_000 for number in range(7)} | {"models/trained/large.bin": 6_000_000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that nobody has pushed. The large file is sent in parts."""
    return repository(tmp_path_factory.mktemp("faults") / "source", SIZES).path


@pytest.fixture
def here(source: Path, tmp_path: Path) -> Project:
    return Project(shutil.copytree(source, tmp_path / "here"))


@pytest.fixture
def there(source: Path, tmp_path: Path) -> Project:
    """A clone without the data."""
    Project(source).run("git", "clone", "-q", ".", str(tmp_path / "there"))
    return Project(tmp_path / "there")


def dvc(project: Project, url: str, command: str, **environment: str) -> str | None:
    """Push or pull. Return None where DVC says that it is complete, else its last line of errors."""
    settings = ["[core]", "remote = gcs", "['remote \"gcs\"']", f"endpointurl = {url}", "allow_anonymous_login = true"]
    (project.path / ".dvc/config.local").write_text("\n".join(settings) + "\n")
    env = project.env | environment
    done = subprocess.run(["dvc", command], cwd=project.path, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert "ERROR: " not in done.stderr
        return None
    return [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")][-1]


def check(there: Project, here: Project) -> bool:
    """Whether everything has arrived; and nothing may have that is wrong."""
    arrived, right = contents(there), contents(here)
    assert arrived.items() <= right.items()
    cached = [file for file in (there.path / ".dvc/cache/files/md5").rglob("*") if file.is_file()]
    assert all(hashlib.md5(file.read_bytes()).hexdigest() == file.parent.name + file.name for file in cached)
    return arrived == right


def push_and_pull(here: Project, there: Project, server: Server, proxy: FaultyProxy) -> None:
    """Both through the proxy, each at most three times."""
    with proxy:
        for project, command in ((here, "push"), (there, "pull")):
            said = [dvc(project, proxy.url, command)]
            while said[-1] and len(said) < 3:
                said.append(dvc(project, proxy.url, command))
            assert said[-1] is None, said
            for line in said[:-1]:
                assert line
                assert any(word in line for word in ("failed to push", "failed to pull", "Checkout failed")), line
    assert server.stored() == len(SIZES)
    assert check(there, here)
    assert sum(proxy.spoilt.values()) >= 3, proxy.spoilt


@pytest.mark.long
def test_through_a_bad_network_everything_arrives(here: Project, there: Project, server: Server) -> None:
    proxy = FaultyProxy(server.url, TRANSIENT, share=0.4)
    push_and_pull(here, there, server, proxy)
    assert len(proxy.spoilt) > 2, proxy.spoilt


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_through_each_kind_of_bad_network_everything_arrives(
    fault: str, seed: int, here: Project, there: Project, server: Server
) -> None:
    push_and_pull(here, there, server, FaultyProxy(server.url, [fault], share=0.4, seed=seed))


@pytest.mark.long
def test_bytes_that_change_on_the_way_here_are_asked_for_again(here: Project, there: Project, server: Server) -> None:
    assert dvc(here, server.url, "push") is None
    with FaultyProxy(server.url, [FLIPPED], share=0.5) as proxy:
        said = [dvc(there, proxy.url, "pull")]
        assert not check(there, here)
        while said[-1] and len(said) < 6:
            said.append(dvc(there, proxy.url, "pull"))
            complete = check(there, here)
    assert said[0]
    assert said[-1] is None
    assert complete
    assert proxy.spoilt[FLIPPED] >= 3


@pytest.mark.slow
def test_bytes_that_changed_on_the_way_there_are_refused_by_who_pulls(
    here: Project, there: Project, server: Server
) -> None:
    """DVC compares nothing when it pushes. The object is removed from the bucket, and pushed again."""
    with FaultyProxy(server.url, [FLIPPED], share=0.5) as proxy:
        dvc(here, proxy.url, "push")
    assert proxy.spoilt[FLIPPED]
    assert dvc(there, server.url, "pull")
    assert not check(there, here)
    for stored in [path for path in (server.objects / BUCKET).rglob("[!.]*") if path.is_file()]:
        if hashlib.md5(stored.read_bytes()).hexdigest() != stored.parent.name + stored.name:
            stored.unlink()
    assert dvc(here, server.url, "push") is None
    assert dvc(there, server.url, "pull") is None
    assert check(there, here)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [CUT, "503", "429", TRUNCATED])
def test_a_network_that_stays_bad_ends_in_a_line_and_the_next_command_completes(
    fault: str, here: Project, there: Project, server: Server
) -> None:
    with FaultyProxy(server.url, [fault], share=1) as proxy:
        for project, command in ((here, "push"), (there, "pull")):
            proxy.share = 1
            line = dvc(project, proxy.url, command)
            assert line is not None
            assert f"failed to {command} data" in line
            assert contents(there) == {}
            proxy.share = 0
            assert dvc(project, proxy.url, command) is None
    assert check(there, here)


@pytest.mark.slow
def test_a_server_that_falls_silent_is_given_up_after_the_time_that_was_set(
    here: Project, there: Project, server: Server
) -> None:
    assert dvc(here, server.url, "push") is None
    with FaultyProxy(server.url, [STALLED], share=1) as proxy:
        began = time.monotonic()
        assert dvc(there, proxy.url, "pull", FSSPEC_GCS=json.dumps({"requests_timeout": 5}))
        assert time.monotonic() - began < 120
    assert dvc(there, server.url, "pull") is None
    assert check(there, here)


@pytest.mark.slow
def test_a_bucket_whose_users_pay_takes_the_project_that_does(here: Project, there: Project, server: Server) -> None:
    with FaultyProxy(server.url, [], share=0, payer="mine") as proxy:
        assert dvc(here, proxy.url, "push")
        paying = json.dumps({"requester_pays": "mine"})
        assert dvc(here, proxy.url, "push", FSSPEC_GCS=paying) is None
        assert dvc(there, proxy.url, "pull", FSSPEC_GCS=paying) is None
    assert check(there, here)
