"""What the machine refuses ends in one line and status 1."""

import csv
import errno
import io
import subprocess
import sys

import pytest

from detector.output import as_csv, error_row
from tests.conftest import ROOT


def fails(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "no permission"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk does not answer"),
        (errno.EBUSY, "in use by the system"),
        (errno.EMFILE, "too many open files"),
        (errno.EDQUOT, "the disk is full"),
        (errno.ENOMEM, "out of memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line(number: int, said: str) -> None:
    code = f"""
from detector.errors import run
def main():
    raise OSError({number}, "refused", "models/trained")
run(main)
"""
    (line,) = fails(code).splitlines()
    assert line.startswith(f"error: {said}")


def test_so_is_a_library_that_finds_no_memory_while_it_is_imported() -> None:
    (line,) = fails(
        "import stages; raise ImportError('libtorch_cpu.so: failed to map segment from shared object')"
    ).splitlines()
    assert line.startswith("error: out of memory")
    assert "Traceback" in fails("import stages; raise ImportError('no module named x')")


@pytest.mark.parametrize("name", ["a\nb.png", "a\rb.png", "a\r\nb.png", 'a",\n"b.png', "plain.png"])
def test_a_line_break_in_a_name_stays_in_its_cell(name: str) -> None:
    text = "".join(f"{line}\n" for line in as_csv([error_row(name, "no picture")]))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[0] for row in rows] == ["file", name]
