"""The page in a browser, for its tests: the service's, and the one that answers by itself."""

import contextlib
import functools
import http.server
import io
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.conftest import ROOT, once
from tests.serving import Server, until
from tools import browser as tool
from tools import unpack


class Visit:
    """The page in a browser of its own, and what went wrong in it."""

    def __init__(self, browser: Browser, server: Server, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.hosts.add(request.url.partition("/v1")[0]))
        self.page.goto(server.url)
        expect(self.page.get_by_role("table").first).to_be_visible()

    def choose(self, *pictures: tuple[str, bytes]) -> None:
        self.page.get_by_label("Choose pictures").set_input_files([payload(*picture) for picture in pictures])


def payload(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}


def answer(page: Page, name: str) -> Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """`until`, with the page going on meanwhile."""
    until(condition, 20, lambda seconds: page.wait_for_timeout(1000 * seconds))


def built_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the released models and the page that answers in the browser, `page`."""
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("this needs npm: install Node.js")

    def make(path: Path) -> None:
        for name in ("released", "app", "browser", "LICENSE"):
            (path / name).symlink_to(ROOT / name)
        (path / "models").mkdir()
        for tracker in (ROOT / "models").glob("*.dvc"):
            shutil.copy(tracker, path / "models")
        with contextlib.chdir(path), contextlib.redirect_stdout(io.StringIO()):
            unpack.main([])
            tool.build(path / "page")

    return once(tmp_path_factory, "browser", make)


class Host(http.server.ThreadingHTTPServer):
    """A static host on a free port of this machine."""

    def __init__(self, folder: Path, files: type = http.server.SimpleHTTPRequestHandler) -> None:
        self.asked: list[str] = []
        log = {"log_message": lambda handler, *_: self.asked.append(handler.path)}
        handler = type("Listed", (files,), log)
        super().__init__(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()
