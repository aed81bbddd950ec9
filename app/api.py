"""The HTTP interface: what is asked, what is answered. `create` makes the application that app/__main__.py runs."""

import io
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from PIL import Image

from app import problems
from app.accept import prefers
from app.hosts import KnownHosts
from app.observability import Metrics, Observability
from app.pages import answers_page
from app.problems import Problem
from app.schemas import (
    EXAMPLES,
    ExplainResponse,
    FileClaim,
    FilePrediction,
    Models,
    PredictResponse,
    Refusal,
    multipart,
    refusals,
)
from app.service import Model, Service
from app.settings import Settings
from detector.detector import Detector, Prediction
from detector.pool import DecodingPool

STATIC = Path(__file__).parent / "static"
DESCRIPTION = """Is a picture FAKE (AI-generated) or REAL? What each model's answers are worth:

{limits}

Every refusal is an `application/problem+json` body (RFC 9457) whose `detail` says what is wrong and, where that is
not plain, what to do.
"""


def create(settings: Settings, detectors: dict[str, Detector], pool: DecodingPool) -> Observability:
    """The ASGI application. detectors: by the name that requests call them by; the first is the default. pool: decodes
    their pictures, and is closed at the end."""
    metrics = Metrics()
    service = Service(settings, detectors, pool, metrics)
    limits = "\n".join(f"- `{name}`: {detector.limit}" for name, detector in detectors.items())
    api = FastAPI(
        title="AI Art Detector",
        description=DESCRIPTION.format(limits=limits),
        version="1",
        lifespan=service.running,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # it redirects to an address of its own, which a proxy does not have
    )
    problems.install(api)
    first, *_ = service.models
    names = Annotated[str, Query(description="a name from /v1/models", json_schema_extra={"enum": [*service.models]})]

    @api.post(
        "/v1/predict",
        summary="Answer for pictures",
        response_model=PredictResponse,
        responses=refusals(403, 408, 413, 415, 421, 422, 503, 504),
        openapi_extra=multipart(settings.max_files),
    )
    async def predict(request: Request, model: names = first) -> PredictResponse:
        """A prediction for each file, in the order of the request. One that cannot be read has an `error` instead;
        where none can be read, the request is refused."""
        return await answers(request, service.model(model))

    async def answers(request: Request, chosen: Model) -> PredictResponse:
        predictions = await service.predict(request, chosen)
        rows = [file_prediction(name, prediction) for name, prediction in predictions]
        for row in rows:
            metrics.count_picture(chosen.name, row.verdict, row.out_of_distribution)
        failed = [prediction for _, prediction in predictions if isinstance(prediction, Problem)]
        if len(failed) == len(rows):
            status = failed[0].status if len({problem.status for problem in failed}) == 1 else 422
            details = [{"file": row.file, "detail": row.error} for row in rows]
            raise Problem(status, "; ".join(dict.fromkeys(p.detail for p in failed)), errors=details)
        return PredictResponse(
            model=chosen.name,
            model_sha256=chosen.detector.sha256,
            predictions=rows,
            limit=chosen.detector.limit,
        )

    @api.post(
        "/v1/explain",
        summary="Show where in a picture the evidence is",
        response_model=ExplainResponse,
        responses={
            200: {"content": {"image/png": {}}, "description": "JSON, or the drawing where `Accept` prefers image/png"},
            **refusals(403, 408, 413, 415, 421, 422, 503, 504),
        },
        openapi_extra=multipart(1),
    )
    async def explain(request: Request, model: names = first) -> ExplainResponse | Response:
        """The occlusion map, a grid over what the model saw of the picture, row by row from the upper left: positive
        where it speaks for FAKE, negative for REAL. With `Accept: image/png` it is drawn over what the model saw,
        enlarged, with a legend."""
        chosen = service.model(model)
        name, explanation = await service.explain(request, chosen)
        row = file_prediction(name, explanation.prediction)
        metrics.count_picture(chosen.name, row.verdict, row.out_of_distribution)
        if prefers(request.headers, "image/png", "application/json"):
            drawing = await service.in_thread(partial(png, explanation.drawing))
            return Response(drawing, media_type="image/png", headers={"X-Model-SHA256": chosen.detector.sha256})
        grid = [[round(value, 4) for value in line] for line in explanation.occlusion_map.tolist()]
        return ExplainResponse(
            model=chosen.name,
            model_sha256=chosen.detector.sha256,
            prediction=row,
            occlusion_map=grid,
            seen_region=explanation.seen_region,
            limit=chosen.detector.limit,
        )

    @api.get(
        "/v1/models",
        summary="Which models there are, and how good",
        response_model=Models,
        responses=refusals(421),
    )
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
        await service.check_ready()
        return {"status": "ok"}

    @api.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.MEDIA_TYPE)

    @api.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @api.post("/", include_in_schema=False)
    async def form(request: Request) -> HTMLResponse:
        """What the page's form posts where the browser runs no scripts."""
        chosen = service.model(first)
        return HTMLResponse(answers_page(await answers(request, chosen), chosen.detector))

    api.mount("/static", StaticFiles(directory=STATIC), "static")
    describe(api)
    for route in api.routes:  # after the description, which would name each operation twice
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            route.methods = {"GET", "HEAD"}
    return Observability(KnownHosts(api, settings.hosts), metrics)


def describe(api: FastAPI) -> None:
    """Complete FastAPI's description: it leaves out what no route returns, and in examples what is null."""
    schemas = api.openapi()["components"]["schemas"]
    schemas["Refusal"] = Refusal.model_json_schema()
    for name, example in EXAMPLES.items():
        schemas[name]["example"] = example


def file_prediction(file: str, prediction: Prediction | Problem) -> FilePrediction:
    if isinstance(prediction, Problem):
        return FilePrediction(file=file, error=prediction.detail)
    claims = [FileClaim(**vars(claim)) for claim in prediction.claims]
    return FilePrediction(file=file, **{**vars(prediction), "claims": claims})


def png(drawing: Image.Image) -> bytes:
    file = io.BytesIO()
    drawing.save(file, "PNG")
    return file.getvalue()
