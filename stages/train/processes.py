"""One training in several processes, on one machine or several: DistributedDataParallel, PyTorch's own engine.

Each process has a GPU, or its part of the cores, the whole network, and its share of every batch. Gradients are
averaged while they are computed, so that all processes make the same update.
"""

import contextlib
import hashlib
import importlib
import inspect
import itertools
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import distributed
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from detector.cores import thread_count
from detector.errors import UserError, one_line
from stages.data import MappedImages
from stages.device import claim
from stages.model import evaluation_batch, predict_logits

GRACE = 10.0  # seconds that processes have to end by themselves, once one of them has failed


class Group:
    """The processes that train together: this one is number `rank` of `size`, and number 0 writes what is written.

    Of one process alone each method returns what it is given, or does nothing. Of several, all have to call it.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def parallel(self, network: torch.nn.Module, side: int, device: torch.device) -> torch.nn.Module:
        """Return the network, for images of `side` px, with gradients that are averaged over the processes. On GPUs its
        batch norms take the statistics of the whole batch from now on; on CPUs, where PyTorch has no such thing, those
        of the share."""
        if self.size == 1:
            return network
        if torch.cuda.is_available():
            convert_sync_batchnorm(network)  # torch's own would drop the activations that are part of some norms
        parallel = DistributedDataParallel(network)
        parallel.broadcast_buffers = False  # `share_statistics` does it; torch is about to rename the argument
        # after its first step torch sends gradients in another order, in which sums over three processes and more round
        # otherwise: one without effect comes first, since a run that resumes has it at another place
        parallel.eval()(torch.zeros(2, 3, side, side, device=device)).sum().backward()
        network.zero_grad()
        return parallel

    def from_first(self, value: Any) -> Any:
        """Return what the first process gives."""
        box = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box)
        return box[0]

    def add_up(self, *numbers: torch.Tensor) -> None:
        """Replace each number by its sum over the processes."""
        if self.size > 1:
            for number in numbers:
                distributed.all_reduce(number)

    def check_equal(self, value: str, message: str) -> None:
        """Raise UserError with the message where the processes have different values."""
        if len(set(self._gather(value))) > 1:
            raise UserError(message)

    def share_statistics(self, *networks: torch.nn.Module) -> None:
        """Give the buffers of all processes, the running statistics of batch norms, their mean over the processes. As
        they are linear in the batches, this is the same as if it was done after each step. Raises UserError where
        weights differ then."""
        if self.size == 1:
            return
        for buffer in itertools.chain.from_iterable(network.buffers() for network in networks):
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.size
        digest = hashlib.sha256()
        for tensor in itertools.chain.from_iterable(network.state_dict().values() for network in networks):
            digest.update(tensor.cpu().numpy().tobytes())
        self.check_equal(
            digest.hexdigest(),
            "the processes have come to have different weights: train on GPUs or processors of one kind only",
        )

    def predict_logits(
        self,
        network: torch.nn.Module,
        images: MappedImages,
        mean: Sequence[float],
        std: Sequence[float],
        flip_tta_margin: float = 0.0,
    ) -> np.ndarray:
        """Do what stages.model.predict_logits does; the batches are dealt out to the processes in turn."""
        if self.size == 1:
            return predict_logits(network, images, mean, std, flip_tta_margin)
        batch = min(evaluation_batch(network, images.shape[1]), -(-len(images) // self.size))
        starts = range(self.rank * batch, len(images), self.size * batch)
        parts = [predict_logits(network, images[start : start + batch], mean, std, flip_tta_margin) for start in starts]
        turns = itertools.zip_longest(*self._gather(parts), fillvalue=np.empty(0, np.float32))
        return np.concatenate([part for turn in turns for part in turn])

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their numbers."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values


def run_in_processes(train: Callable[[Group], None], size: int) -> None:
    """Call `train` in so many processes: in this one, where it is to be one alone, in those that torchrun has started,
    or else in new ones. Returns when all have ended.

    Raises UserError where torchrun has started another number, and where one of the new processes fails or is killed,
    which ends the others too.
    """
    by_torchrun = distributed.is_torchelastic_launched()
    if by_torchrun and int(os.environ["WORLD_SIZE"]) != size:
        raise UserError(
            f"torchrun has started {os.environ['WORLD_SIZE']} processes, but train.processes is {size} in params.yaml: "
            "set both alike"
        )
    if size == 1:
        claim()
        train(Group())
    elif by_torchrun:
        _join(train, int(os.environ["LOCAL_RANK"]))
    else:
        claim(size)
        os.environ["OMP_NUM_THREADS"] = str(max(1, thread_count() // size))
        _start(train, size)


def _join(train: Callable[[Group], None], local_rank: int, **meeting: Any) -> None:
    """Call `train` in one of the processes. `meeting`: where they find each other, as init_process_group takes it."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "nccl"
    distributed.init_process_group(backend, **meeting)
    group = Group(distributed.get_rank(), distributed.get_world_size())
    with contextlib.ExitStack() as stack:
        if group.rank:  # the first speaks for all
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        train(group)
    distributed.destroy_process_group()


def _start(train: Callable[[Group], None], size: int) -> None:
    said = get_context("spawn").SimpleQueue()  # what processes say that fail, the first one first
    with tempfile.TemporaryDirectory() as folder:
        # by name: the module __main__ of this process is not that of a new one
        module = inspect.getmodule(train).__spec__.name  # type: ignore[union-attr]
        arguments = (module, train.__name__, size, f"file://{folder}/meeting", said)
        processes = spawn(_work, arguments, size, join=False).processes
        try:
            codes = _wait_for(processes)
        finally:
            _end(processes)
    if not any(codes):
        return
    line, trace = (None, "") if said.empty() else said.get()
    if line is not None:
        raise UserError(line)
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            raise UserError(
                f"process {rank} of {size} was ended by {signal.Signals(-code).name}, and the others with it; earlier "
                "outputs are untouched, and the same training resumes when it is started again"
            )
    raise RuntimeError(f"a process failed\n{trace}")


def _work(rank: int, module: str, name: str, size: int, meeting: str, said: Any) -> None:
    """Be one of the new processes."""
    # which torch sends when the parent has died, and which a program that a shell started with & ignores
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `atomic_write` cleans up
    try:
        train = getattr(importlib.import_module(module), name)
        _join(train, rank, init_method=meeting, rank=rank, world_size=size)
    except Exception as error:
        said.put((one_line(error), traceback.format_exc()))
        sys.exit(1)


def _wait_for(processes: list[BaseProcess]) -> list[int | None]:
    """Wait until all processes have ended, or one has failed. Returns their exit codes, None of those still there."""
    while not any(process.exitcode for process in processes):
        if not (there := [process.sentinel for process in processes if process.is_alive()]):
            break
        wait(there)
    for process in processes:
        process.join(GRACE)  # a process that waits for one that has gone notices
    return [process.exitcode for process in processes]


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        process.kill()
