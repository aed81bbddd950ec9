"""Strangers' pictures are decoded in processes that the operating system bounds: detector/worker.py.

A worker is a fresh interpreter with an empty environment and none of this process's files. It may take so much memory
beyond what it needs itself and so many seconds of processor time a file; where it oversteps, it is killed and replaced,
the file gets a reason of one line, and the other files are answered. What comes back from a worker is data, which is
checked: lengths, JSON and pixels, no pickle. A worker ends when its parent does.

This module imports no decoder and, until the first answer, not even numpy: a worker can start before all else.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.cores import thread_count
from detector.errors import UserError
from detector.sources import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np

    from detector.preprocessed import Preprocessed
    from detector.record import Fit

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 5.0  # of processor time, for a file
MEGABYTES = 512  # of memory, beyond what a worker takes itself
STUCK = 60  # seconds without an answer; a busy machine gives a worker much less than a core
# Files that are sent together, and how many bytes of them: a message for each small one would take as long as decoding.
CHUNK, CHUNK_BYTES = 16, 2**20
LONGEST = 2**16  # bytes that a worker may say of a picture


class EndedError(Exception):
    """A worker is no more. is_by_limit: it overstepped one; else another worker may try the same file."""

    def __init__(self, reason: str, is_by_limit: bool) -> None:
        super().__init__(reason)
        self.is_by_limit = is_by_limit


class Worker:
    """One process, and the socket that leads to it. It has nothing of this process: no environment, no open file."""

    def __init__(self, max_pixels: int, seconds: float, megabytes: int) -> None:
        self.seconds = seconds
        ours, its = socket.socketpair()
        ours.settimeout(STUCK)
        folders = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 ("" is the current one)
        flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]  # no file is written where none may be
        command = [sys.executable, *flags, str(WORKER), str(max_pixels), str(seconds), str(megabytes), *folders]
        with its:
            self.process = subprocess.Popen(
                command, stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.DEVNULL, env={}
            )
        self.socket, self.answers = ours, ours.makefile("rb")
        self.unanswered = 0
        self.end = weakref.finalize(self, end, self.process, ours)  # at the latest when this process ends

    def send(self, request: dict[str, Any], files: Sequence[bytes]) -> None:
        self.unanswered += len(files)
        head = json.dumps({**request, "lengths": [len(data) for data in files]}).encode()
        with contextlib.suppress(OSError):  # what became of it is seen when the answer is read
            self.socket.sendall(b"".join([struct.pack(">I", len(head)), head, *files]))

    def receive(self, size: int, thumbnail: int | None) -> "Preprocessed | UserError":
        """Return the answer for the next of the files that were sent. Raises EndedError where none will come."""
        from detector.preprocessed import Claim, Preprocessed, TooManyPixelsError

        try:
            length = int.from_bytes(self._read(4))
            said = json.loads(self._read(min(length, LONGEST)))
            if "fault" in said:
                raise RuntimeError(f"a decoding worker failed: {said['fault']}")
            if "error" in said:
                self.unanswered -= 1
                return (TooManyPixelsError if said["too_large"] else UserError)(str(said["error"]))
            pixels = self._pixels(size, size)
            left, top, right, bottom = map(float, said["seen_region"])
            claims = [Claim(str(one["source"]), str(one["says"]), bool(one["signed"])) for one in said["claims"]]
            notes, shown = [str(note) for note in said["notes"]], None
            if thumbnail is not None:
                height, width = map(int, said["thumbnail"])
                if not (0 < height <= thumbnail and 0 < width <= thumbnail):
                    raise ValueError
                shown = self._pixels(height, width)
            self.unanswered -= 1  # not before: after Ctrl-C within an answer, the next would begin with its rest
            return Preprocessed(pixels, notes, (left, top, right, bottom), claims, shown)
        except TimeoutError:
            self.end()
            raise EndedError(f"no answer from its decoder within {STUCK} s", True) from None
        except (OSError, EOFError):
            raise self._ended() from None
        except (ValueError, KeyError, TypeError):  # a picture may have made it say anything
            self.end()
            raise EndedError("broken picture (its decoder went astray)", True) from None

    def _pixels(self, height: int, width: int) -> "np.ndarray":
        import numpy as np

        pixels = np.empty((height, width, 3), np.uint8)  # whoever asks may write in it
        pixels[:] = np.frombuffer(self._read(pixels.nbytes), np.uint8).reshape(pixels.shape)
        return pixels

    def _read(self, count: int) -> bytes:
        data = self.answers.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def _ended(self) -> EndedError:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its socket closes before it is gone
            self.process.wait(1)
        self.end()
        if self.process.returncode == -signal.SIGPROF:
            return EndedError(f"decoding it takes more than {self.seconds:g} s: save it again as PNG or JPEG", True)
        return EndedError("broken picture, or the machine is short of memory: its decoder was ended", False)


def end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    """End a worker, whatever it does, and leave no zombie. One that ended by itself keeps its own status."""
    process.kill()
    process.wait()
    connection.close()


class DecodingPool:
    """Up to `count` workers, each started when it is needed. Threads may share a pool.

    count: without it, one for each core that computes. max_pixels: of a file; a JPEG may have twice as many. seconds:
    of processor time for a file. megabytes: of memory beyond what a worker takes itself; Linux alone enforces that.
    """

    def __init__(
        self,
        count: int | None = None,
        max_pixels: int = MAX_PIXELS,
        seconds: float = SECONDS,
        megabytes: int = MEGABYTES,
    ) -> None:
        self.count = count or thread_count()
        self.limits = max_pixels, seconds, megabytes
        self._reset()
        pools.add(self)

    def start(self) -> None:
        """Start one worker more than there are, if there may be one more, without waiting for it."""
        with self._changed:
            if len(self._workers) < self.count and not self._is_closed:
                self._idle.append(self._new_worker())

    def preprocess(
        self,
        files: Sequence[bytes],
        size: int,
        fit: "Fit" = "stretch",
        reencode: int | None = None,
        thumbnail: int | None = None,
    ) -> "list[Preprocessed | UserError]":
        """Return, for each picture file, what `detector.pictures.preprocess` does, or the UserError that it raises.

        Raises UserError where the pool is closed.
        """
        request = {"size": size, "fit": fit, "reencode": reencode, "thumbnail": thumbnail}
        answers: dict[int, Preprocessed | UserError] = {}
        chunks = in_chunks(files)
        tried: set[int] = set()
        workers = [self._take()]
        busy: deque[tuple[Worker, deque[int]]] = deque()
        try:
            if len(chunks) > 1:
                workers += self._take_idle(len(chunks) - 1)
            free = list(workers)
            while chunks or busy:
                while chunks and free:
                    worker, chunk = free.pop(), chunks.popleft()
                    worker.send(request, [files[number] for number in chunk])
                    busy.append((worker, chunk))
                worker, chunk = busy.popleft()
                try:
                    while chunk:
                        answers[chunk[0]] = worker.receive(size, thumbnail)
                        chunk.popleft()
                except EndedError as ended:
                    first = chunk[0]
                    if ended.is_by_limit or first in tried:
                        answers[first] = UserError(str(ended))
                        chunk.popleft()
                    tried.add(first)
                    if chunk:
                        chunks.appendleft(chunk)
                    workers[workers.index(worker)] = worker = self._replace(worker)
                free.append(worker)
        finally:
            self._put_back(workers)
        return [answers[number] for number in range(len(files))]

    def close(self) -> None:
        """Kill the workers, whatever they do. Whoever waits for one, and whoever comes later, gets a UserError."""
        with self._changed:
            self._is_closed = True
            for worker in self._idle:
                worker.end()
            for worker in self._workers:
                worker.process.kill()  # the thread that waits for it buries it
            self._changed.notify_all()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._workers: set[Worker] = set()  # all that there are
        self._idle: list[Worker] = []
        self._is_closed = False

    def _new_worker(self) -> Worker:
        if self._is_closed:
            raise UserError("stopped: no more pictures are decoded")
        worker = Worker(*self.limits)
        self._workers.add(worker)
        return worker

    def _take(self) -> Worker:
        """Return an idle worker or a new one; wait for one where there are as many as may be."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or len(self._workers) < self.count or self._is_closed)
            return self._idle.pop() if self._idle and not self._is_closed else self._new_worker()

    def _take_idle(self, most: int) -> list[Worker]:
        """Return idle workers. Where there are fewer than `most`, another one is started, for the next time."""
        with self._changed:
            taken = [self._idle.pop() for _ in range(min(most, len(self._idle)))]
        if len(taken) < most:
            self.start()
        return taken

    def _replace(self, worker: Worker) -> Worker:
        with self._changed:
            gone = [worker, *(one for one in self._idle if one.process.poll() is not None)]
            for one in gone:
                one.end()
            self._workers.difference_update(gone)
            self._idle = [one for one in self._idle if one not in gone]
            return self._new_worker()

    def _put_back(self, workers: list[Worker]) -> None:
        with self._changed:
            for worker in workers:
                if worker.unanswered or self._is_closed or not worker.end.alive:
                    worker.end()
                    self._workers.discard(worker)
                else:
                    self._idle.append(worker)
            self._changed.notify_all()


def in_chunks(files: Sequence[bytes]) -> deque[deque[int]]:
    """Return the numbers of the files, those of small ones together."""
    chunks: deque[deque[int]] = deque()
    room = 0
    for number, data in enumerate(files):
        if not chunks or len(chunks[-1]) == CHUNK or len(data) > room:
            chunks.append(deque())
            room = CHUNK_BYTES
        chunks[-1].append(number)
        room -= len(data)
    return chunks


pools: "weakref.WeakSet[DecodingPool]" = weakref.WeakSet()


def forget_workers() -> None:
    """After a fork: the workers are the parent's, and would not end with it while this process holds their sockets."""
    for pool in pools:
        for worker in pool._workers:
            worker.end.detach()
            worker.answers.close()
            worker.socket.close()
        pool._reset()


os.register_at_fork(after_in_child=forget_workers)
