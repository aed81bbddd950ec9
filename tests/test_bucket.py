"""`python -m tools.bucket`: what is wrong with a bucket, in one line and within ten seconds."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conftest import ROOT


class Answers(http.server.BaseHTTPRequestHandler):
    status, message, payer = 200, "", ""

    def do_GET(self) -> None:
        unpaid = self.payer and f"userProject={self.payer}" not in self.path
        status, message = (400, "Bucket is a requester pays bucket") if unpaid else (self.status, self.message)
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[str, dict[str, str]], tuple[int, str]]]:
    """Asks the bucket of a repository with these settings of its remote; {url} is a server that answers as Answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / ".dvc").mkdir()

    def ask(name: str, settings: dict[str, str]) -> tuple[int, str]:
        lines = [
            f"    {key} = {value.format(url=f'http://127.0.0.1:{server.server_port}')}"
            for key, value in settings.items()
        ]
        config = "\n".join(["[core]", "    no_scm = true", "['remote \"gcs\"']", "    url = gs://some/where", *lines])
        (tmp_path / ".dvc/config").write_text(config + "\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
        environment.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        command = [sys.executable, "-m", "tools.bucket", name]
        began = time.monotonic()
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert time.monotonic() - began < 30  # ten seconds, on a machine that has nothing else to do
        (line,) = (done.stdout + done.stderr).splitlines()
        return done.returncode, line

    yield ask
    server.shutdown()


Ask = Callable[[str, dict[str, str]], tuple[int, str]]


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (200, "", "gs://some/where answers"),
        (401, "Anonymous caller", "no credentials that it accepts"),
        (403, "Forbidden", "these credentials may not read it"),
        (404, "Not Found", "there is no such bucket"),
        (400, "Bucket is a requester pays bucket", "who asks must pay"),
    ],
)
def test_the_answer_of_the_bucket_is_put_in_words(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, status: int, message: str, said: str
) -> None:
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "message", message)
    returned, line = ask("gcs", {"endpointurl": "{url}", "allow_anonymous_login": "true"})
    assert said in line
    assert returned == (0 if status == 200 else 1)


def test_who_pays_for_a_bucket_may_say_so(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "payer", "mine")
    anybody = {"endpointurl": "{url}", "allow_anonymous_login": "true"}
    assert ask("gcs", anybody)[0] == 1
    monkeypatch.setenv("FSSPEC_GCS", json.dumps({"requester_pays": "mine"}))
    assert ask("gcs", anybody) == (0, "gs://some/where answers")


def service_account(token_uri: str, path: Path) -> None:
    """Write the key of an account that does not exist, whose tokens come from there."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"type": "service_account", "client_email": "nobody@example.org", "token_uri": token_uri}
    path.write_text(json.dumps(account | {"private_key": pem}))


def test_without_a_network_and_without_credentials(ask: Ask, tmp_path: Path) -> None:
    nobody = {"endpointurl": "http://127.0.0.1:9", "allow_anonymous_login": "true"}
    assert "127.0.0.1:9 does not answer: no network" in ask("gcs", nobody)[1]
    assert "no credentials: `gcloud auth application-default login`" in ask("gcs", {})[1]
    service_account("http://127.0.0.1:9/token", tmp_path / "key.json")
    known = {"credentialpath": str(tmp_path / "key.json")}
    assert "who checks the credentials does not answer: no network" in ask("gcs", known)[1]
    assert "there is no remote other, but gcs" in ask("other", {})[1]
