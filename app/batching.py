"""Requests that arrive together are answered together: one call of the network for all of them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Turns `compute`, a function of many items, into one of a single item that any number of tasks may await.

    The first item waits `wait` seconds for others, unless there are `size` already, or as many as `expected` says
    there may be. While a batch is computed, in `pool`, the next one gathers. An item whose task was cancelled is left
    out. Where `compute` raises, it is called again for each item alone, so that the exception reaches only the task
    whose item caused it.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Result]],
        wait: float,
        size: int,
        expected: Callable[[], int],
        pool: Executor,
    ) -> None:
        self.compute, self.wait, self.size, self.expected, self.pool = compute, wait, size, expected, pool
        self.waiting: list[tuple[float, Item, asyncio.Future[Result]]] = []
        self.arrived = asyncio.Event()

    async def ask(self, item: Item) -> Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self.waiting.append((loop.time(), item, future))
        self.arrived.set()
        return await future

    async def run(self) -> None:
        """Answer for ever: a task that the service starts and cancels."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            if len(self.waiting) < min(self.size, self.expected()):
                await asyncio.sleep(self.waiting[0][0] + self.wait - loop.time())
            batch, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
            if not self.waiting:
                self.arrived.clear()
            await self._answer([(item, future) for _, item, future in batch if not future.done()])

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self.pool, self.compute, [item for item, _ in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in pairs:
            if not future.done():  # its task may have been cancelled meanwhile
                future.set_result(result)
