"""Strangers' files are decoded in processes that the operating system bounds: what costs too much ends in one line."""

import contextlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector import Detector, pool
from detector.errors import UserError
from detector.pictures import preprocess
from detector.pool import DecodingPool
from detector.preprocessed import Preprocessed
from tests.conftest import ROOT
from tests.hostile import COUNTED, LONG
from tests.serving import Server, files, sample, until

GOOD = sample(6)
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone bounds memory")


@pytest.fixture
def decoders() -> Iterator[DecodingPool]:
    pool = DecodingPool(2, seconds=0.3)
    yield pool
    pool.close()


def workers_of(pid: int) -> list[int]:
    """The numbers of a process's decoding workers, dead ones that nobody has buried among them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            is_worker = "worker.py" in (folder / "cmdline").read_text() or state == "Z"
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and is_worker:
            found.append(int(folder.name))
    return found


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def equal(one: Preprocessed | UserError, data: bytes) -> bool:
    expected = preprocess(data, 32)
    assert isinstance(one, Preprocessed)
    said = (one.notes, one.seen_region) == (expected.notes, expected.seen_region)
    return said and np.array_equal(one.pixels, expected.pixels)


def test_a_worker_answers_as_the_decoder_does_in_this_process(decoders: DecodingPool) -> None:
    large = io.BytesIO()
    Image.effect_noise((1200, 900), 50).save(large, "PNG", compress_level=0)
    pictures = [*GOOD, large.getvalue()] * 20
    assert all(map(equal, decoders.preprocess(pictures, 32), pictures))
    (again,) = decoders.preprocess([large.getvalue()], 48, "crop", 60)
    assert isinstance(again, Preprocessed)
    assert np.array_equal(again.pixels, preprocess(large.getvalue(), 48, "crop", 60).pixels)
    again.pixels[:] = 0  # whoever asks may write in it


def test_costly_files_are_refused_in_python_and_their_neighbours_answered(model: Path, decoders: DecodingPool) -> None:
    detector = Detector.load(model, pool=decoders)
    names = [*COUNTED, LONG[0]]
    began = time.process_time()
    answers = list(detector.stream([GOOD[0], *(data for data, _ in COUNTED.values()), LONG[1], *GOOD]))
    assert time.process_time() - began < 5
    for name, reason, answer in zip(
        names, [said for _, said in COUNTED.values()] + [LONG[2]], answers[1:], strict=False
    ):
        assert isinstance(answer, UserError), name
        assert str(answer).startswith(reason), name
        assert "\n" not in str(answer)
    rest = [answers[0], *answers[len(names) + 1 :]]
    expected = detector.predict([GOOD[0], *GOOD])
    assert rest == expected


def test_costly_files_are_refused_by_the_command(model: Path, tmp_path: Path) -> None:
    for name, (data, _) in COUNTED.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / LONG[0]).write_bytes(LONG[1])
    for number, data in enumerate(GOOD):
        (tmp_path / f"good {number}.jpg").write_bytes(data)
    command = [sys.executable, "-m", "detector", str(tmp_path), "--model", str(model), "--json"]
    # measured by a small process: one that is started by a large one counts that one's memory as its own
    code = f"""
import resource, subprocess
done = subprocess.run({command!r}, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    answers, _, last = done.stdout.strip().rpartition("\n")
    rows, (status, seconds, kilobytes) = json.loads(answers), map(float, last.split())
    assert status == 1
    said = {Path(row["file"]).name: row["error"] for row in rows}
    for name, (_, reason) in COUNTED.items():
        assert said.pop(name).startswith(reason), name
    said.pop(LONG[0])  # within five seconds it may be through
    assert said == {f"good {number}.jpg": None for number in range(len(GOOD))}
    assert seconds < 12, "the command and its workers"
    assert kilobytes < 400_000, "the largest of them"


def has_nothing_of_the_parents(worker: Path) -> bool:
    """Whether a process of /proc has one socket and /dev/null open, and nothing else."""
    names: set[str] = set()
    for link in (worker / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.add(str(link.readlink()))
    sockets = {name for name in names if name.startswith("socket:")}
    return len(sockets) == 1 and names - sockets == {"/dev/null"}


def test_the_service_refuses_them_and_goes_on(model: Path) -> None:
    secret = {"SECRET_OF_THE_TEST": "abc"}
    os.environ |= secret
    try:
        server = Server(model, decode_seconds=0.3, max_files=40, threads=2)
    finally:
        del os.environ["SECRET_OF_THE_TEST"]
    with server:
        pictures = [GOOD[0], *(data for data, _ in COUNTED.values()), LONG[1], *GOOD]
        rows = server.ask(*pictures).json()["predictions"]
        reasons = [None, *(said for _, said in COUNTED.values()), LONG[2], *[None] * len(GOOD)]
        for row, reason in zip(rows, reasons, strict=True):
            assert (row["error"] is None) if reason is None else row["error"].startswith(reason), row
        large, _ = COUNTED["canvas.png"]
        assert server.ask(large).status_code == 413
        assert server.client.post("/v1/explain", files=files(large)).status_code == 413
        assert server.client.post("/v1/explain", files=files(LONG[1])).status_code == 422

        before = workers_of(server.process.pid)
        assert 1 <= len(before) <= 2
        for worker in before:
            folder = Path(f"/proc/{worker}")
            assert (folder / "environ").read_bytes() == b""
            until(partial(has_nothing_of_the_parents, folder))  # a new one still reads its script
            mapped = (folder / "maps").read_text()
            assert not re.search("onnxruntime|pydantic|torch", mapped)
            os.kill(worker, signal.SIGKILL)
        assert server.ask(*GOOD).status_code == 200
        after = workers_of(server.process.pid)
        assert after
        assert not set(before) & set(after)
        assert not any(map(is_zombie, after))
    assert not any(Path(f"/proc/{worker}").exists() for worker in after)


@LINUX
def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4500, 4500)).save(file, "PNG")  # 81 MB
    pool = DecodingPool(1, megabytes=40)
    answers = pool.preprocess([file.getvalue(), GOOD[0], bytes(60_000_000), GOOD[1]], 32)
    assert str(answers[0]).startswith("not enough memory for this picture")
    assert str(answers[2]) == "not enough memory for a file of this size"
    assert equal(answers[1], GOOD[0])
    assert equal(answers[3], GOOD[1])
    pool.close()


def test_threads_share_a_pool(decoders: DecodingPool) -> None:
    def ask(number: int) -> bool:
        if number % 5 == 4:
            (long,) = decoders.preprocess([LONG[1]], 32)
            return isinstance(long, UserError)
        data = GOOD[number % len(GOOD)]
        return equal(decoders.preprocess([data], 32)[0], data)

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(ask, range(20)))


def test_after_an_interrupt_the_next_pictures_get_their_own_answers(decoders: DecodingPool) -> None:
    """Ctrl-C in a notebook, while pictures are decoded."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            decoders.preprocess([GOOD[0], LONG[1]] * 30, 32)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    asked = [GOOD[number % len(GOOD)] for number in range(1, 40)]
    assert all(map(equal, decoders.preprocess(asked, 32), asked))


def test_a_closed_pool_answers_no_more_and_waits_for_no_picture() -> None:
    decoders = DecodingPool(2, seconds=60)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(decoders.preprocess, [LONG[1]] * 10, 32) for _ in range(3)]
        time.sleep(1)
        decoders.close()
        for one in asked:
            with pytest.raises(UserError, match=r"^stopped"):
                one.result(10)
    with pytest.raises(UserError, match=r"^stopped"):
        decoders.preprocess([GOOD[0]], 32)
    assert not [pid for pid in workers_of(os.getpid()) if is_zombie(pid)]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trap",)


@pytest.mark.parametrize(
    "said",
    [
        pickle.dumps(Trap()),
        b"\xff\xff\xff\xff" + b"x" * 100_000,
        b"\0\0\0\2[]",
        b"\0\0\0\2{}",
        b'\0\0\0\x0e{"notes": null}',
        b"\0\0\0\x09not JSON.",
        b"",
    ],
)
def test_what_a_worker_says_is_data_and_is_checked(
    said: bytes, decoders: DecodingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that a picture has taken over may say anything."""
    astray = tmp_path / "worker.py"
    astray.write_text(f"import os\nos.read(0, 1)\nos.write(1, {said!r} + bytes(5000))\n" if said else "")
    monkeypatch.setattr(pool, "WORKER", astray)
    monkeypatch.chdir(tmp_path)
    (answer,) = decoders.preprocess([GOOD[0]], 32)
    assert isinstance(answer, UserError)
    assert str(answer).startswith("broken picture")
    assert not Path("trap").exists()


CODE = """
import os, signal, sys
from detector.pool import DecodingPool
data = sys.stdin.buffer.read()
pool = DecodingPool(1)
print(pool.preprocess([data], 32)[0].notes, flush=True)
"""


def run_code(code: str) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", CODE + code], cwd=ROOT, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    process.stdin.write(GOOD[0])
    process.stdin.close()
    return process


def test_workers_end_with_their_parent() -> None:
    for end in ("os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "sys.exit()"):
        worker = "print(next(iter(pool._workers)).process.pid, flush=True)\n"
        with run_code(worker + end) as process:
            assert process.stdout is not None
            pid = int(process.stdout.read().split()[-1])
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and not is_zombie(pid):
            assert time.monotonic() < deadline, "it lives on"
            time.sleep(0.05)


def test_a_forked_process_has_workers_of_its_own() -> None:
    code = """
child = os.fork()
print(pool.preprocess([data] * 3, 32)[2].notes, flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(pool.preprocess([data] * 3, 32)[2].notes)
"""
    with run_code(code) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"[]\n" * 4
    assert process.returncode == 0
