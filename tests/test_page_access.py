"""The page for everybody: axe-core's rules (WCAG 2.2 AA), in light and dark, and colours that the system sets."""

import io
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.browsing import Visit, answer, payload
from tests.serving import Server, make_model, sample

pytestmark = pytest.mark.long  # half a minute
JPEGS = sample(4)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    with Server(f"{make_model(folder / 'weighing')}, {make_model(folder / 'other')}") as running:
        yield running


def violations(page: Page) -> str:
    results = Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
    assert len(results.response["passes"]) > 15, "axe has looked at little"
    return results.generate_report() if results.violations_count else ""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(browser: Browser, server: Server, scheme: str, width: int) -> None:
    visit = Visit(
        browser, server, color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    assert violations(visit.page) == ""
    claims = [{"source": "EXIF", "says": "made by a camera", "signed": False}]

    def add_claims(route: Route) -> None:
        response = route.fetch()
        said = response.json()
        for prediction in said.get("predictions", []):  # a refusal has none
            prediction["claims"] = claims
        route.fulfill(response=response, json=said)

    visit.page.route("**/v1/predict?*", add_claims)
    visit.choose(*[(f"{n}.jpg", jpeg) for n, jpeg in enumerate(JPEGS)], ("torn.jpg", b"no"))
    visit.page.get_by_role("button", name="Coffee").click()
    expect(visit.page.locator(".waiting")).to_have_count(0)
    expect(visit.page.locator(".answer")).to_have_count(6)
    visit.page.get_by_role("button", name="Show the evidence in 0.jpg, weighing").click()
    expect(visit.page.get_by_role("img", name="0.jpg with the evidence in it")).to_be_visible()
    assert violations(visit.page) == ""
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page_without_scripts(
    browser: Browser, server: Server, scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(color_scheme=scheme)  # with scripts, for axe; what is in noscript is shown by hand
    page = context.new_page()
    show = """() => {
        const form = document.querySelector("noscript").textContent;
        for (const part of document.querySelectorAll(".scripted")) part.remove();
        document.querySelector("noscript").outerHTML = form;
    }"""
    for pictures, title in (([*JPEGS, b"torn"], "Answers"), ([b"torn"], "No answer")):
        page.goto(server.url)
        page.evaluate(show)
        assert violations(page) == ""
        chosen = [payload(f"{n}.jpg", picture) for n, picture in enumerate(pictures)]
        page.get_by_label("Pictures", exact=True).set_input_files(chosen)
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        assert violations(page) == ""
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_abstention_band_is_seen_where_the_system_sets_the_colours(
    browser: Browser, server: Server, scheme: str
) -> None:
    visit = Visit(browser, server, forced_colors="active", color_scheme=scheme)
    visit.choose(("cat.jpg", JPEGS[0]))
    bar = answer(visit.page, "cat.jpg").locator(".bar").first
    expect(bar).to_be_visible()
    with Image.open(io.BytesIO(bar.screenshot())) as picture:
        row = np.asarray(picture.convert("L"), dtype=float)[4:-4]
    width = row.shape[1]

    def varies(start: float, end: float) -> bool:
        return float(row[:, round(start * width) : round(end * width)].std()) > 30

    marker = float(str(bar.evaluate("(bar) => bar.style.getPropertyValue('--p')")).rstrip("%")) / 100
    plain = (0.1, 0.3) if marker > 0.35 else (0.7, 0.9)
    assert varies(0.42, 0.58), "hatched"
    assert not varies(*plain), "plain"
    visit.context.close()
