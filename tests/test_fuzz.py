"""What strangers may send: whatever it is, the rules of tests/fuzz.py hold."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz import BOUNDARY, TARGETS, ask_about_picture, ask_about_upload, mutants, picture_seeds, received

pytestmark = pytest.mark.filterwarnings("ignore::Warning:PIL")  # of `decode`, as `prepare` shows them


@pytest.fixture(autouse=True)
def _without_a_line_for_each_malformed_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("python_multipart.multipart"), "disabled", True)


def test_the_seeds_are_pictures() -> None:
    """Else mutants of them would reach nothing of a decoder."""
    refused = {name for name, data in picture_seeds().items() if ask_about_picture(data) is not None}
    assert refused == {
        *("tiff float", "ico", "jpeg 2000", "ppm", "tga", "eps", "pdf", "heic", "svg", "text", "nothing"),
    }


def test_a_fuzzer_that_does_not_run_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text("raise ImportError('it is not installed')")
    command = [sys.executable, "-m", "tests.fuzz", "uploads", "--minutes", "0.01"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the fuzzer itself ended with status 1" in done.stdout


def ask_about_mutants(target: str, count: int, seed: int) -> None:
    seeds, ask = TARGETS[target]
    reasons = set()
    for data in mutants(seeds(), count, seed):
        try:
            reasons.add(ask(data))
        except Exception as error:
            error.add_note(f"it was asked about {data!r}")
            raise
    assert None in reasons, "none was answered"
    assert len(reasons) > 10


@pytest.mark.parametrize("target", TARGETS)
def test_mutants_are_answered_or_refused_in_one_line(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    ask_about_mutants(target, 1_000, seed=0)
    assert capfd.readouterr().err == "", "something else than the service speaks"


@pytest.mark.long  # half a minute
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand_mutants_are_answered_or_refused_in_one_line(target: str) -> None:
    ask_about_mutants(target, 10_000, seed=1)


# What fuzzing found, and by what it was answered before it was mended: 500, a fault of the service.
def upload(disposition: bytes, boundary: bytes = BOUNDARY) -> tuple[bytes, bytes]:
    """The Content-Type header and the body of a request with one file."""
    start, end = b"--" + boundary + b"\r\n", b"\r\n--" + boundary + b"--\r\n"
    body = start + b"Content-Disposition: form-data; name=files; " + disposition + b"\r\n\r\nhello" + end
    return b"multipart/form-data; boundary=" + boundary, body


@pytest.mark.parametrize(
    "name",
    [
        "undefined''%41",
        "idna''%41",
        "punycode''%ff%41",
        "unicode_escape''%5Cud800",  # half of a character, which no answer can hold
        "utf_7''%2B2AA-",
        "utf-\0''%41",
    ],
)
def test_a_charset_that_the_rfc_does_not_have_leaves_the_name_as_it_was_sent(name: str) -> None:
    header, body = upload(b"filename*=" + name.encode())
    assert ask_about_upload(header + b"\n" + body) is None
    (file,), _ = received(header, [body])
    assert (file.name, file.data) == (name, b"hello")


def test_a_boundary_that_is_too_long_is_refused() -> None:
    header, body = upload(b"filename=x", b"x" * 257)
    said = ask_about_upload(header + b"\n" + body)
    assert said is not None
    assert said.startswith("422: the boundary of the multipart/form-data is malformed")
