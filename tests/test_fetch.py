"""`python -m detector fetch`: the one command of the package that downloads, and what it makes sure of."""

import ast
import contextlib
import gzip
import hashlib
import json
import re
import shutil
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detector import Detector
from detector.errors import UserError
from detector.fetch import RELEASED, fetch
from detector.files import file_sha256
from detector.released import DEFAULT, list_files, stored_at
from tests.conftest import ROOT, Project
from tests.serving import make_model, sample


@pytest.mark.parametrize(
    "file", [".github/workflows/release.yml", "detector/fetch.py", "docs/how-to/library.md", "docs/how-to/release.md"]
)
def test_examples_fetch_models_that_are_released(file: str) -> None:
    names = re.findall(r" fetch ([a-z]\w*) --from", (ROOT / file).read_text())
    assert names
    assert set(names) <= set(RELEASED)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web_server(handler: Callable[..., SimpleHTTPRequestHandler]) -> Iterator[str]:
    """A server on loopback; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for data, and an empty folder to be in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "home/ai-art-detector"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def digest(model: Path) -> str:
    return file_sha256(model / "model.json")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is also on a web server, whose address is in the file `address`: small, the model; clone, a
    repository that has released it; archives of both."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(model, folder / "small")
    (folder / "clone/models").mkdir(parents=True)

    def store(content: bytes, suffix: str = "") -> str:
        md5 = hashlib.md5(content).hexdigest() + suffix
        path = folder / "clone" / stored_at(md5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return md5

    listed = [{"md5": store(path.read_bytes()), "relpath": path.name} for path in model.iterdir()]
    md5 = store(json.dumps(listed).encode(), ".dir")
    (folder / "clone/models/small.dvc").write_text(f"outs:\n- md5: {md5}\n  path: small\n")
    with tarfile.open(folder / "flat.tar", "w") as tar:
        for file in model.iterdir():
            tar.add(file, file.name)
    with tarfile.open(folder / "v1.tar.gz", "w:gz") as tar:
        tar.add(folder / "clone", "ai-art-detector-1")
    (folder / "._small").write_bytes(b"Finder's")
    with tarfile.open(folder / "deep.tar.gz", "w:gz") as tar:  # as macOS packs models/small of a clone
        tar.add(folder / "._small", "./models/._small")
        tar.add(folder / "small", "./models/small")
    (folder / "cut.tar.gz").write_bytes((folder / "v1.tar.gz").read_bytes()[:-3000])
    with web_server(partial(Quiet, directory=str(folder))) as address:
        (folder / "address").write_text(address)
        yield folder


@pytest.mark.parametrize("place", ["path", "address"])
@pytest.mark.parametrize("what", ["small", "small/", "clone", "flat.tar", "v1.tar.gz", "deep.tar.gz"])
def test_a_model_comes_from_its_folder_a_clone_or_an_archive(
    place: str, what: str, server: Path, model: Path, digest: str, home: Path
) -> None:
    root = str(server) if place == "path" else (server / "address").read_text()
    folder = fetch("small", f"{root}/{what}", digest.upper())  # as some programs print it
    assert folder == home / "models/small"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }


def test_what_was_fetched_is_found_from_every_folder_unless_the_folder_has_one(
    model: Path, digest: str, tmp_path: Path
) -> None:
    fetch("small", str(model), digest)
    assert Detector.load("models/small").record.threshold == 0.5
    make_model(tmp_path / "here/models/small", threshold=0.25)
    assert Detector.load("models/small").record.threshold == 0.25


def test_from_the_shell_a_released_model_is_fetched_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here = Project(tmp_path / "here")
    detector = (sys.executable, "-m", "detector")
    assert "pretrained is ready in " in here.run(*detector, "fetch", "pretrained", "--from", str(ROOT)).stdout
    here.run(*detector, "fetch", Path(DEFAULT).name, "--from", str(ROOT))
    (here.path / "fetch").write_bytes(sample(2)[0])  # a picture of this name
    (row,) = json.loads(here.run(*detector, "./fetch", "--json").stdout)
    assert row["model_sha256"] == RELEASED[Path(DEFAULT).name]["model.json"]


def test_the_released_models_are_known_by_the_digests_of_all_their_files() -> None:
    def read(path: str) -> bytes:
        return (ROOT / path).read_bytes()

    names = sorted(path.stem for path in (ROOT / "models").glob("*.dvc"))
    assert {Path(DEFAULT).name, "vit_tiny", "pretrained"} <= set(names)
    assert {
        name: {file: hashlib.sha256(read(stored_at(md5))).hexdigest() for file, md5 in list_files(read, name).items()}
        for name in names
    } == RELEASED


def refused(home: Path, *arguments: str | None) -> str:
    """Why it is not fetched; what was fetched before stays, and nothing else is left."""
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        fetch(*arguments)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert not list(home.rglob(".*"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_not_the_wanted_model_is_refused(server: Path, digest: str, home: Path, tmp_path: Path) -> None:
    address = (server / "address").read_text()
    fetch("small", f"{address}/small", digest)
    assert "model.json from" in refused(home, "small", f"{address}/small", "0" * 64)
    assert "has no README.md of vit_tiny" in refused(home, "vit_tiny", f"{address}/small")
    assert "so add --sha256 DIGEST" in refused(home, "small", f"{address}/small")
    assert "is no SHA-256" in refused(home, "small", f"{address}/small", digest[:10])

    broken = shutil.copytree(server / "small", tmp_path / "broken")
    content = bytearray((broken / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "model.onnx").write_bytes(content)
    assert "model.onnx from" in refused(home, "small", str(broken), digest)

    record = json.loads((broken / "model.json").read_text())
    record["sha256"] = {"../outside": hashlib.sha256(b"").hexdigest()}
    (tmp_path / "outside").write_bytes(b"")
    (broken / "model.json").write_text(json.dumps(record))
    named = refused(home, "small", str(broken), file_sha256(broken / "model.json"))
    assert "names '../outside', which is no file of a model's folder" in named


def test_where_nothing_is_to_be_had_one_line_says_so(server: Path, digest: str, home: Path, tmp_path: Path) -> None:
    address = (server / "address").read_text()
    fetch("small", f"{address}/small", digest)
    assert f"{address}/none has no model.json of small" in refused(home, "small", f"{address}/none", digest)
    assert "(404)" in refused(home, "small", f"{address}/none.tar.gz", digest)
    for place in (server, address):
        assert "is no tar archive, or was cut off" in refused(home, "small", f"{place}/cut.tar.gz", digest)
    assert "does not answer (" in refused(home, "small", "http://127.0.0.1:9", digest)
    assert "does not answer (" in refused(home, "small", "https://nowhere.invalid/small", digest)
    assert "does not answer (" in refused(home, "small", "http://[::1", digest)
    assert "is no folder, no archive" in refused(home, "small", str(tmp_path / "none"), digest)
    assert "from where?" in refused(home, "small")
    for name in ("../small", "", "a/b", ".small"):
        assert "is no name of a model" in refused(home, name, str(server / "small"), digest)


class Stalling(Quiet):
    """Announces a file, sends its first byte, and falls silent or closes the connection."""

    def do_GET(self) -> None:
        if self.path.endswith(".dvc"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{")
        if self.path.startswith("/silent"):
            time.sleep(1)


def test_a_server_that_falls_silent_or_breaks_off_is_given_up(
    home: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.fetch.SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never says anything
        said = refused(home, "small", f"http://127.0.0.1:{silent.getsockname()[1]}", digest)
        assert "does not answer (timed out)" in said
    with web_server(Stalling) as address:
        assert "broke off (timed out): fetch it again" in refused(home, "small", f"{address}/silent", digest)
        assert "model.json from" in refused(home, "small", f"{address}/closed", digest)


class Hostile(Quiet):
    """Sends a byte now and then, or an error whose reason steers a terminal."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow") and not self.path.endswith(".dvc"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"{")
                    time.sleep(0.05)
        self.send_response(404 if self.path.startswith("/slow") else 500, "\x1b]0;fine\x07all is well")
        self.end_headers()


def test_a_server_that_sends_crumbs_without_end_or_steers_the_terminal_is_refused(
    home: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.fetch.SECONDS", 0.5)
    with web_server(Hostile) as address:
        assert "sends less than 10 kB a second" in refused(home, "small", f"{address}/slow", digest)
        assert "the server answers 500 \\x1b]0;fine\\x07all" in refused(home, "small", f"{address}/other", digest)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("deep", "has no model.json of small"),
        ("long", "more is in it than in any clone"),
        ("many", "more is in it than in any clone"),
        ("far", "more is in it than in any clone"),
    ],
)
def test_an_archive_that_would_take_a_machine_s_memory_or_hours_is_refused(
    kind: str, said: str, home: Path, digest: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        if kind == "deep":
            with tarfile.open(fileobj=file, mode="w") as tar:
                tar.addfile(tarfile.TarInfo(20_000 * "a/" + "f"))
        else:
            info = tarfile.TarInfo("x")
            info.type, info.size = (tarfile.XHDTYPE, 10**8) if kind == "long" else (tarfile.REGTYPE, 0)
            if kind == "far":
                info.size = 2**40
            head = info.tobuf(tarfile.GNU_FORMAT)
            file.write(head if kind == "far" else head + bytes(10**8) if kind == "long" else 140_000 * head)
    assert said in refused(home, "small", str(path), digest)


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[1]", b'{"a": 1}', b'[{"relpath": "README.md"}]', b'[{"relpath": "a", "md5": 5}]', 9999 * b"["]
    + [json.dumps([{"relpath": "README.md", "md5": md5}]).encode() for md5 in ("aa\0", "xx/../../..", "é" * 32)],
)
def test_a_clone_whose_list_of_files_is_broken_is_refused(
    content: bytes, server: Path, home: Path, digest: str, tmp_path: Path
) -> None:
    clone = shutil.copytree(server / "clone", tmp_path / "clone")
    (listed,) = (clone / "released").rglob("*.dir")
    listed.write_bytes(content)
    assert "its list of the files of models/small is broken" in refused(home, "small", str(clone), digest)


def test_a_model_of_the_hub_that_was_not_fetched_is_not_downloaded() -> None:
    with pytest.raises(UserError, match="only `python -m detector fetch hf://someone/vit` downloads it"):
        Detector.load("hf://someone/vit")


ASKING = {"urllib.request", "http.client", "socket", "ssl", "ftplib", "requests", "httpx", "huggingface_hub"}


def test_nothing_but_fetch_can_ask_a_network() -> None:
    sources = {file.name: file.read_text() for file in (ROOT / "detector").glob("*.py")}
    imported: dict[str, set[str]] = {}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported.setdefault(name, set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                imported.setdefault(name, set()).add(node.module or "")
    assert {name: found & ASKING for name, found in imported.items() if found & ASKING} == {
        "fetch.py": {"urllib.request", "http.client"},
        "hub.py": {"huggingface_hub"},
        "pool.py": {"socket"},  # pairs of them, between its processes
    }
    assert [name for name, found in imported.items() if "detector.hub" in found] == ["fetch.py"]
    assert [name for name, found in imported.items() if "detector.fetch" in found] == ["__main__.py"]
