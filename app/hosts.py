"""Which names the service answers to, and whose pages may ask it.

A page of a stranger, open in a browser on this machine or in its network, can send requests here. Its own name may
resolve to this machine (DNS rebinding): then it could read the answers, and `Host` holds the page's name. Or it posts
across sites, without reading the answers: then `Origin` holds the page's name.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.observability import PROBES
from app.problems import Problem

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class KnownHosts:
    """An ASGI application around another, for requests that name one of `names` as their host.

    Probes answer to any name: who watches a service asks by an address, and they hold nothing of pictures.
    """

    def __init__(self, inner: ASGIApp, names: Collection[str]) -> None:
        self.inner, self.names = inner, {*LOOPBACK, *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES and (problem := self._refusal(scope)):
            await problem.response(scope)(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = name_of(f"//{host}")
        if name is None:
            return Problem(421, f"there is no name in Host: {host!r}: send the one that the service is asked by")
        if name not in self.names:
            return Problem(421, f"this service does not answer as {name!r}: name it in SERVE_HOSTS")
        if scope["method"] in ("GET", "HEAD") or headers.get("sec-fetch-site") == "same-origin":
            return None  # a browser says so itself, also where a proxy has changed Host
        origin = headers.get("origin")
        if origin is None or (name := name_of(origin)) in self.names:
            return None
        what = "it has no host that SERVE_HOSTS could name" if name is None else f"name {name!r} in SERVE_HOSTS"
        return Problem(403, f"a page of {origin} may not ask this service: {what}")


def name_of(url: str) -> str | None:
    """Return the host's name, in small letters, without its port; None where there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as a bracket that is not closed
        return None
