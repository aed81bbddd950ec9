"""Every refusal is an application/problem+json body (RFC 9457): what is wrong, and what to do, in `detail`.

At the address of the page, where the form without scripts is posted, a browser gets the same as a page of one line.
"""

import http
import random
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from app.accept import prefers
from app.pages import refusal_page

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 (RFC 9457 calls it so)
    """A request that is refused. more: further members of the body."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more

    def response(self, scope: Scope) -> Response:
        """Return what the request of `scope` gets."""
        title = http.HTTPStatus(self.status).phrase
        if scope["path"] == "/" and prefers(Headers(scope=scope), "text/html", "application/json"):
            return HTMLResponse(refusal_page(self.status, title, self.detail), self.status, self.headers)
        body = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}
        return JSONResponse(body, self.status, self.headers, MEDIA_TYPE)


def too_busy(detail: str) -> Problem:
    """A refusal that says when to try again: clients that were refused together do not all come back together."""
    return Problem(503, detail, {"Retry-After": str(random.randint(1, 5))})


def install(api: FastAPI) -> None:
    """Let FastAPI's and Starlette's own errors look like ours."""

    @api.exception_handler(Problem)
    async def of_ours(request: Request, problem: Problem) -> Response:
        return problem.response(request.scope)

    @api.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        details = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible here"}
        detail = details.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405 and (methods := methods_at(request.scope["path"])):
            headers["Allow"] = ", ".join(sorted(methods))
        return Problem(error.status_code, detail, headers).response(request.scope)

    def methods_at(path: str) -> set[str]:
        """Return the methods of all routes at an address: Starlette names those of the first alone."""
        routes = [route for route in api.routes if isinstance(route, APIRoute) and route.path == path]
        return {method for route in routes for method in route.methods or ()}

    @api.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> Response:
        errors = [{"where": ".".join(map(str, e["loc"])), "detail": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{e['where']}: {e['detail']}" for e in errors)
        return Problem(422, detail, errors=errors).response(request.scope)

    @api.exception_handler(ClientDisconnect)
    async def of_disconnect(*_: object) -> Response:
        return Response(status_code=499)  # nobody reads it; it is counted and logged

    @api.exception_handler(Exception)
    async def of_bugs(request: Request, _: Exception) -> Response:
        fault = Problem(500, "a fault of the service: its log says more, under the id in X-Request-ID")
        return fault.response(request.scope)
