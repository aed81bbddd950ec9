"""The work behind the HTTP interface: models, threads, and which requests are worked on, for how long."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from PIL import Image

from app.batching import Batcher
from app.drift import Answer, Watch, watch_models
from app.observability import Metrics
from app.problems import Problem, too_busy
from app.settings import Settings
from app.uploads import File, Memory, Upload
from detector.detector import Detector, Explanation, Prediction
from detector.errors import UserError
from detector.pool import DecodingPool
from detector.preprocessed import Preprocessed, TooManyPixelsError

READY_TIMEOUT = 1.0  # seconds for the answers to the service's own pictures
# Files of the largest size that all requests together may hold, beside one for each thread. A request holds at most one
# for each thread and the one that is arriving, so one that is alone is always answered.
FILES_HELD = 16

T = TypeVar("T")


def _blank() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


BLANK = _blank()  # a picture of the service's own, within every limit


class Model:
    """One model folder that the service answers with."""

    def __init__(self, name: str, detector: Detector, watch: Watch, service: "Service") -> None:
        self.name, self.detector, self.watch = name, detector, watch
        self.batcher: Batcher[Preprocessed, Answer] = Batcher(
            service.metrics.with_batch_sizes(name, watch.predict_batch),
            service.settings.batch_window / 1000,
            service.settings.batch_size,
            lambda: service.busy,  # a request that is alone need not wait
            ThreadPoolExecutor(1, f"predict-{name}"),
        )

    def summary(self) -> dict[str, Any]:
        """Return what /v1/models says of it."""
        record = self.detector.record
        return {
            "name": self.name,
            "title": self.detector.title,
            "model_sha256": self.detector.sha256,
            "trained_on": record.dataset,
            "input_size": record.input_size,
            "abstention_band": record.abstention_band,
            "scale": self.detector.scale,
            "limit": self.detector.limit,
            "test": record.test,
            "drift": self.watch.summary(),
        }


class Service:
    """What the routes share: models, threads, limits."""

    def __init__(
        self, settings: Settings, detectors: dict[str, Detector], pool: DecodingPool, metrics: Metrics
    ) -> None:
        self.settings, self.pool, self.metrics = settings, pool, metrics
        watches = watch_models(settings.models, detectors, metrics.registry)
        self.models = {name: Model(name, detector, watches[name], self) for name, detector in detectors.items()}
        self.readers = ThreadPoolExecutor(settings.threads, "read")
        self.busy = 0
        self.memory = Memory((settings.threads + FILES_HELD) * settings.max_bytes)

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """What the service does before it listens, and once it has stopped."""
        tasks = [asyncio.create_task(model.batcher.run()) for model in self.models.values()]
        await self.answer_blanks()  # a first answer takes longer, and shows whether there are any
        yield
        self.pool.close()
        for task in tasks:
            task.cancel()

    def model(self, name: str) -> Model:
        try:
            return self.models[name]
        except KeyError:
            raise Problem(422, f"no model {name!r}, there are: {', '.join(self.models)}") from None

    async def in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.readers, function)

    async def answer_blanks(self) -> None:
        """Let every model answer for the blank picture, as it does for a request's."""
        for model in self.models.values():
            preprocessed = await self.in_thread(partial(model.detector.preprocess, BLANK))
            await model.batcher.ask(preprocessed)

    async def check_ready(self) -> None:
        """Raises Problem where a request would not be admitted now, or not be answered within READY_TIMEOUT."""
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                with self.place():
                    await self.answer_blanks()
        except TimeoutError:
            raise too_busy(f"no answer within {READY_TIMEOUT:g} second") from None
        except UserError as error:
            raise too_busy(str(error)) from None

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places of requests that are worked on. Raises Problem where all are taken."""
        if self.busy >= self.settings.max_requests:
            raise too_busy("too many requests at the moment: try again in a few seconds")
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    @contextlib.asynccontextmanager
    async def admission(self, request: Request, max_files: int) -> AsyncIterator[Upload]:
        """Admit a request to those that are worked on once its body begins, and for no longer than the timeout from
        its head. Raises Problem."""
        upload = Upload(request, self.settings.max_bytes, max_files, self.memory)
        try:
            async with asyncio.timeout(self.settings.timeout):
                await upload.begin()
                with self.place():
                    yield upload
        except TimeoutError:
            late = f"within {self.settings.timeout:g} seconds"
            if upload.receiving:
                raise Problem(408, f"the pictures did not arrive {late}") from None
            raise Problem(504, f"no answer {late}: send fewer or smaller pictures, or try again later") from None
        finally:
            upload.close()
            request.state.bytes, request.state.files = upload.size, upload.count

    async def predict(self, request: Request, model: Model) -> list[tuple[str, Prediction | Problem]]:
        """Return file names and predictions, in the order of the request."""
        async with self.admission(request, self.settings.max_files) as upload:
            undecoded = asyncio.Semaphore(self.settings.threads)  # so many of a request are held in memory at most

            async def ask(file: File) -> Prediction | Problem:
                try:
                    try:
                        # not a partial of the bytes: one that was given up holds them until a thread is free
                        preprocessed = await self.in_thread(lambda: model.detector.preprocess(file.data))
                    finally:
                        upload.drop(file)
                        undecoded.release()
                    return model.watch.noted(await model.batcher.ask(preprocessed))
                except UserError as error:
                    return refusal(error)
                except Problem as problem:
                    return problem

            names: list[str] = []
            tasks: list[asyncio.Task[Prediction | Problem]] = []
            try:
                async for file in upload.files():
                    await undecoded.acquire()
                    names.append(file.name)
                    tasks.append(asyncio.create_task(ask(file)))
                return list(zip(names, [await task for task in tasks], strict=True))
            finally:
                for task in tasks:  # of a request that is refused or too late
                    task.cancel()

    async def explain(self, request: Request, model: Model) -> tuple[str, Explanation]:
        """Return file name and explanation."""
        async with self.admission(request, 1) as upload:
            (file,) = [file async for file in upload.files()]

            try:
                return file.name, await self.in_thread(lambda: model.detector.explain(file.data))
            except UserError as error:
                raise refusal(error) from None
            finally:
                upload.drop(file)


def refusal(error: UserError) -> Problem:
    return Problem(413 if isinstance(error, TooManyPixelsError) else 422, str(error))
