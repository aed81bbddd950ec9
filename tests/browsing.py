"""The page in a browser, for its tests."""

from typing import Any

from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.serving import Server


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
