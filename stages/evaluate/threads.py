"""Several conditions of the test split at a time, each in a thread of its own."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

Advance = Callable[[int], None]


def in_threads(task: Callable[[Any, Advance], np.ndarray], given: Iterable[Any], bar: tqdm) -> list[np.ndarray]:
    """Return what the task makes of each of the given, in their order.

    Up to four run at a time and share torch's threads: cores that compute batches of their own do not wait for each
    other after every layer, and the next corruption is drawn while a GPU is busy. What is computed is the same bytes.

    task: its second argument is called with each number of images that are done. This moves the bar, and ends the task
    where another one has failed or Ctrl-C was typed. Raises what a task raises.
    """
    threads, stopped = torch.get_num_threads(), threading.Event()
    workers = next(number for number in (4, 3, 2, 1) if threads % number == 0)

    def advance(images: int) -> None:
        if stopped.is_set():
            raise InterruptedError
        bar.update(images)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        return list(pool.map(lambda one: task(one, advance), given))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the workers have set some of torch's libraries for all threads
