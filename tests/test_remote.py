"""The GCS remote: push here, pull there, against a real GCS server on this machine."""

import configparser
import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project
from tests.gcs import BUCKET, Server, clone_of, contents, point_to, repository, until, use

FILES = 24  # of the push that is cut off


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


@pytest.mark.long
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


def test_your_own_bucket_takes_two_commands_and_what_it_sends_is_verified(server: Server, tmp_path: Path) -> None:
    here = repository(tmp_path / "here", {"data/train.bin": 1000})
    section = (ROOT / "docs/remote.md").read_text().split("## Your own bucket\n")[1]
    (block,) = re.findall("```bash\n(dvc remote modify gcs url .*?)```", section, re.DOTALL)
    for line in block.replace("gs://BUCKET/PATH", f"gs://{BUCKET}/some/other/path").splitlines():
        here.run(*line.split())
    remote = configparser.ConfigParser()
    remote.read(here.path / ".dvc/config")
    assert remote["'remote \"gcs\"'"]["verify"] == "true"
    point_to(here, server)
    here.run("dvc", "push")
    assert (server.objects / BUCKET / "some/other/path/files/md5").is_dir()
    assert not (server.objects / BUCKET / "dvc").exists()


@pytest.mark.long
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
