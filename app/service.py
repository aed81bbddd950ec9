"""The HTTP interface: what is asked, what is answered. `create` makes the application that app/__main__.py runs."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image

from app import problems
from app.batching import Batcher
from app.drift import Answer, Watch, watch_models
from app.observability import Metrics, Observability
from app.problems import Problem
from app.schemas import (
    EXAMPLES,
    ExplainResponse,
    FilePrediction,
    Models,
    PredictResponse,
    Refusal,
    multipart,
    refusals,
)
from app.settings import Settings
from app.uploads import File, Upload
from detector.detector import Detector, Explanation, Prediction
from detector.errors import UserError
from detector.images import FORMATS
from detector.limit import LIMIT
from detector.pictures import Preprocessed

STATIC = Path(__file__).parent / "static"
DESCRIPTION = f"""Is a picture FAKE (AI-generated) or REAL? **{LIMIT}**

Every refusal is an `application/problem+json` body (RFC 9457) whose `detail` says what to do.
"""

T = TypeVar("T")


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
            "trained_on": record.dataset,
            "input_size": record.input_size,
            "abstention_band": record.abstention_band,
            "test": record.test,
            "drift": self.watch.summary(),
        }


class Service:
    """What the routes share: models, threads, limits."""

    def __init__(self, settings: Settings, detectors: dict[str, Detector], metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        watches = watch_models(settings.models, detectors, metrics.registry)
        self.models = {name: Model(name, detector, watches[name], self) for name, detector in detectors.items()}
        self.readers = ThreadPoolExecutor(settings.threads, "read")
        self.busy = 0

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(model.batcher.run()) for model in self.models.values()]
        yield
        for task in tasks:
            task.cancel()

    def model(self, name: str | None) -> Model:
        if name is None:
            return next(iter(self.models.values()))
        try:
            return self.models[name]
        except KeyError:
            raise Problem(422, f"no model {name!r}, there are: {', '.join(self.models)}") from None

    async def in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.readers, function)

    def check_pixels(self, data: bytes) -> None:
        """Raises Problem by the size in a picture's header. One without a header is left to Detector.preprocess."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
        except Image.DecompressionBombError:  # Pillow's own limit; it does not say the size
            raise Problem(413, f"the picture is more than {self.settings.max_pixels / 1e6:.3g} megapixels") from None
        except Exception:  # broken bytes can make Pillow raise any exception
            return
        if width * height > self.settings.max_pixels:
            raise Problem(413, f"{width}x{height} is more than {self.settings.max_pixels / 1e6:.3g} megapixels")

    def check_and_preprocess(self, model: Model, data: bytes) -> Preprocessed:
        self.check_pixels(data)
        return model.detector.preprocess(data)

    @contextlib.asynccontextmanager
    async def admission(self, request: Request, max_files: int) -> AsyncIterator[Upload]:
        """Admit a request to those that are worked on, for no longer than the timeout. Raises Problem."""
        if self.busy >= self.settings.max_requests:
            raise Problem(503, "too many requests at the moment: try again in a second", {"Retry-After": "1"})
        upload = Upload(request, self.settings.max_bytes, max_files)
        self.busy += 1
        try:
            async with asyncio.timeout(self.settings.timeout):
                yield upload
        except TimeoutError:
            late = f"within {self.settings.timeout:g} seconds"
            if upload.receiving:
                raise Problem(408, f"the pictures did not arrive {late}") from None
            raise Problem(504, f"no answer {late}: send fewer or smaller pictures, or try again later") from None
        finally:
            self.busy -= 1
            request.state.bytes, request.state.files = upload.size, upload.count

    async def predict(self, request: Request, model: Model) -> list[tuple[str, Prediction | Problem]]:
        """Return file names and predictions, in the order of the request."""
        async with self.admission(request, self.settings.max_files) as upload:
            undecoded = asyncio.Semaphore(self.settings.threads)  # so many of a request are held in memory at most

            async def ask(file: File) -> Prediction | Problem:
                try:
                    try:
                        preprocessed = await self.in_thread(partial(self.check_and_preprocess, model, file.data))
                    finally:
                        file.data = b""
                        undecoded.release()
                    return model.watch.noted(await model.batcher.ask(preprocessed))
                except UserError as error:
                    return Problem(422, str(error))
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

            def explanation() -> Explanation:
                self.check_pixels(file.data)
                return model.detector.explain(file.data)

            try:
                return file.name, await self.in_thread(explanation)
            except UserError as error:
                raise Problem(422, str(error)) from None


def create(settings: Settings, detectors: dict[str, Detector]) -> Observability:
    """The ASGI application. detectors: by the name that requests call them by; the first is the default."""
    metrics = Metrics()
    service = Service(settings, detectors, metrics)
    api = FastAPI(
        title="AI Art Detector",
        description=DESCRIPTION,
        version="1",
        lifespan=service.running,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
    )
    problems.install(api)
    names = Annotated[str | None, Query(description="a name from /v1/models; without it, the first")]

    @api.post(
        "/v1/predict",
        summary="Answer for pictures",
        response_model=PredictResponse,
        responses=refusals(408, 413, 415, 422, 503, 504),
        openapi_extra=multipart(many=True),
    )
    async def predict(request: Request, model: names = None) -> PredictResponse:
        """A prediction for each file, in the order of the request. One that cannot be read has an `error` instead;
        where none can be read, the request is refused."""
        chosen = service.model(model)
        predictions = await service.predict(request, chosen)
        rows = [file_prediction(name, prediction) for name, prediction in predictions]
        for row in rows:
            metrics.count_picture(chosen.name, row.verdict, row.out_of_distribution)
        failed = [prediction for _, prediction in predictions if isinstance(prediction, Problem)]
        if len(failed) == len(rows):
            status = failed[0].status if len({problem.status for problem in failed}) == 1 else 422
            details = [{"file": row.file, "detail": row.error} for row in rows]
            raise Problem(status, "; ".join(dict.fromkeys(p.detail for p in failed)), errors=details)
        return PredictResponse(model=chosen.name, predictions=rows, limit=chosen.detector.limit)

    @api.post(
        "/v1/explain",
        summary="Show where in a picture the evidence is",
        response_model=ExplainResponse,
        responses={
            200: {"content": {"image/png": {}}, "description": "JSON, or with `Accept: image/png` the drawing"},
            **refusals(408, 413, 415, 422, 503, 504),
        },
        openapi_extra=multipart(many=False),
    )
    async def explain(request: Request, model: names = None) -> ExplainResponse | Response:
        """The occlusion map, a grid over what the model saw of the picture, row by row from the upper left: positive
        where it speaks for FAKE, negative for REAL. With `Accept: image/png` it is drawn over what the model saw,
        enlarged, with a legend."""
        chosen = service.model(model)
        name, explanation = await service.explain(request, chosen)
        row = file_prediction(name, explanation.prediction)
        metrics.count_picture(chosen.name, row.verdict, row.out_of_distribution)
        if "image/png" in request.headers.get("accept", ""):
            return Response(await service.in_thread(partial(png, explanation.drawing)), media_type="image/png")
        grid = [[round(value, 4) for value in line] for line in explanation.occlusion_map.tolist()]
        return ExplainResponse(
            model=chosen.name,
            prediction=row,
            occlusion_map=grid,
            seen_region=explanation.seen_region,
            limit=chosen.detector.limit,
        )

    @api.get("/v1/models", summary="Which models there are, and how good", response_model=Models)
    async def models() -> dict[str, Any]:
        limits = settings.model_dump(include={"max_bytes", "max_files", "max_pixels"})
        models = list(service.models.values())
        limit = models[0].detector.limit  # of the one that answers where a request names none
        return {"models": [model.summary() for model in models], "limits": limits, "limit": limit}

    @api.get("/healthz", summary="Whether the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="Whether every model answers, in time", responses=refusals(503))
    async def readyz() -> dict[str, str]:
        try:
            async with asyncio.timeout(1):
                for model in service.models.values():
                    size = model.detector.record.input_size
                    await model.batcher.ask(model.detector.preprocess(Image.new("RGB", (size, size))))
        except TimeoutError:
            raise Problem(503, "no answer within a second", {"Retry-After": "1"}) from None
        return {"status": "ok"}

    @api.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.MEDIA_TYPE)

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    api.mount("/static", StaticFiles(directory=STATIC), "static")
    described = api.openapi

    def complete() -> dict[str, Any]:
        """FastAPI leaves out what no route returns, and in examples what is null."""
        description = described()
        schemas = description["components"]["schemas"]
        schemas["Refusal"] = Refusal.model_json_schema()
        for name, example in EXAMPLES.items():
            schemas[name]["example"] = example
        return description

    api.openapi = complete  # type: ignore[method-assign]
    return Observability(api, metrics)


def file_prediction(file: str, prediction: Prediction | Problem) -> FilePrediction:
    if isinstance(prediction, Problem):
        return FilePrediction(file=file, error=prediction.detail)
    return FilePrediction(file=file, **vars(prediction))


def png(drawing: Image.Image) -> bytes:
    file = io.BytesIO()
    drawing.save(file, "PNG")
    return file.getvalue()
