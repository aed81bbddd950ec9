"""The page, used as people do: a real browser, with mouse, keyboard and files, at a desk and on a phone."""

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, FileChooser, expect

from detector import Detector
from tests.browsing import Visit, answer, payload
from tests.serving import Server, files, make_model, sample

JPEGS = sample(4)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model, max_bytes=1_000_000) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    one = Visit(browser, server, viewport={"width": 1100, "height": 900})
    yield one
    one.context.close()


def test_chosen_pictures_get_the_answers_that_python_gets(visit: Visit, model: Path) -> None:
    visit.choose(*[(f"{n}.jpg", jpeg) for n, jpeg in enumerate(JPEGS)])
    for number, expected in enumerate(Detector.load(model).predict(JPEGS)):
        card = answer(visit.page, f"{number}.jpg")
        expect(card.locator(".verdict strong")).to_have_text(expected.verdict)
        found = re.fullmatch(r"Score (over |under )?([\d.]+)", card.locator(".score").inner_text())
        assert found is not None
        assert float(found[2]) == pytest.approx(expected.p_fake, abs=0.00051)
        bar = card.get_by_role("img", name="Score")
        scale = " on a scale from 0, like CIFAKE's photographs, to 1, like Stable Diffusion 1.4's images"
        assert bar.get_attribute("aria-label") == f"{found[0]}{scale}; UNSURE from 0.400 to 0.600"
        # a screenshot of a card says which model it was, what that knows, and no odds
        expect(card).to_contain_text("weighing: It knows CIFAR-10 photographs against Stable Diffusion 1.4 at 32x32.")
        assert "%" not in card.inner_text()
        # the marker is where the number says, beside or in the band
        box, marker, band = (part.bounding_box() for part in (bar, card.locator(".marker"), card.locator(".band")))
        share = (marker["x"] + marker["width"] / 2 - box["x"]) / box["width"]
        assert share == pytest.approx(expected.p_fake, abs=0.02)
        assert (band["x"] - box["x"]) / box["width"] == pytest.approx(0.4, abs=0.01)
    assert visit.errors == []


def test_examples_are_answered_and_nothing_comes_from_another_host(visit: Visit, server: Server) -> None:
    for button in visit.page.get_by_role("group", name="Or try an example").get_by_role("button").all():
        button.click()
    expect(visit.page.locator(".answer")).to_have_count(6)
    expect(visit.page.locator(".waiting")).to_have_count(0)
    expect(visit.page.locator(".failed")).to_have_count(0)
    expect(answer(visit.page, "ship.png")).to_contain_text("Made by Stable Diffusion 1.4")
    coffee, ship = answer(visit.page, "coffee.jpg"), answer(visit.page, "ship.png")
    expect(coffee.locator(".notes")).to_contain_text("300x200 made 32x32")
    # that an answer says little stands above it, and its verdict has no colour then
    expect(coffee.locator(".notes")).to_contain_text("the answer says little")
    expect(coffee.get_by_text("The answer says little", exact=True)).to_be_visible()
    expect(ship.get_by_text("The answer says little", exact=True)).to_be_hidden()
    colour = "(one) => getComputedStyle(one).color.match(/[\\d.]+/g).map(Number)"
    for card, is_grey in ((coffee, True), (ship, False)):
        channels = card.locator(".verdict strong").evaluate(colour)
        assert (max(channels) - min(channels) < 20) is is_grey
    assert all(host.startswith((server.url, f"blob:{server.url}")) for host in visit.hosts)
    assert visit.errors == []


def test_an_example_that_cannot_be_fetched_is_told(visit: Visit) -> None:
    visit.page.route("**/static/examples/*", lambda route: route.abort())
    visit.page.get_by_role("group", name="Or try an example").get_by_role("button").first.click()
    expect(visit.page.get_by_role("status")).to_contain_text("The example could not be fetched")
    expect(visit.page.locator(".answer")).to_have_count(0)


def test_the_evidence_is_shown_and_hidden(visit: Visit, server: Server) -> None:
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    card.get_by_role("button", name="Show the evidence in cat.jpg").click()
    drawing = card.get_by_role("img", name="cat.jpg with the evidence in it")
    expect(drawing).to_be_visible()
    expect(visit.page.get_by_role("status")).to_contain_text(
        "The evidence in cat.jpg is shown. The strongest evidence for"
    )
    # where the evidence is strongest there is its colour, however the picture looks there
    grid = server.client.post("/v1/explain", files=files(JPEGS[0])).json()["occlusion_map"]
    values = [(value, x, y) for y, row in enumerate(grid) for x, value in enumerate(row)]
    value, x, y = max(values, key=lambda one: abs(one[0]))
    red, _, blue, _ = drawing.evaluate(
        """(canvas, [x, y]) =>
            [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data]""",
        [(x + 0.5) / len(grid[0]), (y + 0.5) / len(grid)],
    )
    assert (red - blue > 100) if value > 0 else (blue - red > 100)
    card.get_by_role("button", name="Hide the evidence in cat.jpg").click()
    expect(drawing).to_be_hidden()
    assert visit.errors == []


def test_the_evidence_lies_over_what_the_model_saw(browser: Browser, tmp_path: Path) -> None:
    black = Image.new("RGB", (100, 60))
    black.paste("white", (34, 14, 66, 46))  # all that a model of 32 px with `fit: crop` sees
    file = io.BytesIO()
    black.save(file, "PNG")
    with Server(make_model(tmp_path / "cropping", fit="crop")) as server:
        visit = Visit(browser, server, viewport={"width": 1100, "height": 900})
        visit.choose(("middle.png", file.getvalue()))
        card = answer(visit.page, "middle.png")
        card.get_by_role("button", name="Show the evidence").click()
        expect(card).to_contain_text("This is the middle of the picture, all that the model saw.")
        drawing = card.get_by_role("img", name="middle.png with the evidence in it")
        width, height, darkest = drawing.evaluate(
            """(canvas) => {
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let darkest = 255;
                for (let i = 0; i < data.length; i += 4) darkest = Math.min(darkest, Math.max(...data.slice(i, i + 3)));
                return [canvas.width, canvas.height, darkest];
            }"""
        )
        assert width == height
        assert darkest > 150, "white, or white under a colour"
        assert visit.errors == []
        visit.context.close()


def test_what_cannot_be_read_is_told_beside_the_answers_of_the_others(visit: Visit) -> None:
    visit.choose(("torn.jpg", JPEGS[0][:-40]), ("good.jpg", JPEGS[1]), ("huge.jpg", bytes(1_000_001)))
    expect(answer(visit.page, "torn.jpg")).to_contain_text("No answer: broken picture")
    expect(answer(visit.page, "huge.jpg")).to_contain_text("No answer: the file is larger than 1 MB")
    expect(answer(visit.page, "good.jpg").locator(".score")).to_contain_text("Score")
    expect(visit.page.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_service_that_is_gone_is_told_and_can_be_asked_again(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server)
    visit.context.set_offline(True)
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    expect(card).to_contain_text("No answer: the service does not answer")
    visit.context.set_offline(False)
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score")
    visit.context.close()


def test_pictures_wait_for_the_models_and_models_are_asked_for_again(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/models", lambda route: route.abort(), times=1)
    page.goto(server.url)
    expect(page.get_by_text("No model: the service does not answer.")).to_be_visible()
    page.get_by_role("button", name="Cat").click()
    expect(answer(page, "cat.jpg").locator(".score")).to_contain_text("Score")
    expect(page.get_by_role("table")).to_be_visible()
    context.close()


def test_pictures_are_dropped_and_pasted(visit: Visit) -> None:
    give = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.jpg`, { type: "image/jpeg" }));
        const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data })
            : new DragEvent(kind, { dataTransfer: data, cancelable: true });
        return dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        visit.page.evaluate(give, [kind, list(JPEGS[0])])
        expect(answer(visit.page, f"{kind}.jpg").locator(".score")).to_contain_text("Score")
    assert visit.errors == []


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page, press = visit.page, visit.page.keyboard.press
    said = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"

    opened: list[FileChooser] = []
    # long before it opens: the browser has to hear that it must not show its own
    page.on("filechooser", lambda chooser: opened.append(chooser))

    def tab_to(name: str) -> None:
        for _ in range(20):
            press("Tab")
            if name in str(page.evaluate(said)):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) == "solid", f"{name}: focus cannot be seen"
                return
        raise AssertionError(f"Tab does not lead to {name}")

    press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineStyle") == "solid"
    press("Enter")
    for _ in range(100):
        if opened:
            break
        page.wait_for_timeout(50)
    opened[0].set_files([payload("cat.jpg", JPEGS[0])])
    expect(page.get_by_role("status")).to_contain_text("cat.jpg, weighing: ")
    tab_to("Show the evidence in cat.jpg")
    press("Enter")
    expect(page.get_by_role("img", name="cat.jpg with the evidence")).to_be_visible()
    tab_to("Remove cat.jpg")
    press("Space")
    expect(page.get_by_role("status")).to_have_text("cat.jpg is removed")
    assert page.evaluate("document.activeElement.id") == "files"


def test_a_screen_reader_hears_answers_and_names(visit: Visit) -> None:
    page = visit.page
    visit.choose(("cat.jpg", JPEGS[0]))
    expect(page.get_by_role("status")).to_have_text(
        re.compile(r"^cat\.jpg, weighing: (FAKE|REAL|UNSURE), score [\d.]+: .* It knows")
    )
    visit.choose(("a.jpg", JPEGS[1]), ("b.jpg", JPEGS[0]), ("torn.jpg", b"no picture"))
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^3 pictures: .*1 without an answer$"))
    expect(page.get_by_role("complementary", name="What it cannot do")).to_contain_text("It does not tell whether")
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = """[...document.querySelectorAll("button, input, select, a")].filter((one) => one.checkVisibility()
        && !(one.labels?.length || one.innerText.trim() || one.getAttribute("aria-label"))).length"""
    assert page.evaluate(unnamed) == 0
    assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")
    levels = [
        int(name[1]) for name in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName)")
    ]
    assert levels[0] == 1
    assert max(after - before for before, after in itertools.pairwise(levels)) <= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, server: Server, scheme: str) -> None:
    visit = Visit(browser, server, color_scheme=scheme, reduced_motion="reduce")
    visit.choose(("cat.jpg", JPEGS[0]), ("b.jpg", JPEGS[1]), ("c.jpg", JPEGS[2]), ("d.jpg", JPEGS[3]), ("e.jpg", b"no"))
    visit.page.get_by_role("button", name="Coffee").click()
    expect(visit.page.locator(".answer")).to_have_count(6)
    expect(visit.page.locator(".waiting")).to_have_count(0)
    # WCAG 2.2, 1.4.3: the colour of each text against the first opaque ground below it
    ratios = """() => {
        const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const light = (colour) => parts(colour).slice(0, 3).map((part) => part / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (one) => {
            const colour = getComputedStyle(one).backgroundColor;
            return parts(colour)[3] === 0 ? ground(one.parentElement) : colour;
        };
        return [...document.querySelectorAll("body *")]
            .filter((one) => one.checkVisibility())
            .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .map((one) => {
                const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
                return [(a + 0.05) / (b + 0.05), one.textContent.trim().slice(0, 40)];
            });
    }"""
    found = visit.page.evaluate(ratios)
    assert len(found) > 40
    assert [one for one in found if one[0] < 4.5] == []
    visit.context.close()


def test_a_phone_shows_all_of_it(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server, viewport=PHONE, is_mobile=True, has_touch=True)
    visit.choose(("a photograph with a very long name that has_no_place_to_break_it_anywhere.jpg", JPEGS[0]))
    visit.page.get_by_role("button", name="Coffee").tap()
    coffee = answer(visit.page, "coffee.jpg")
    coffee.get_by_role("button", name="Show the evidence").tap()
    expect(coffee.get_by_role("img", name="coffee.jpg with the evidence")).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    small = """[...document.querySelectorAll("button, .button, [type=checkbox]")].filter((one) => one.checkVisibility())
        .map((one) => (one.closest("label") ?? one).getBoundingClientRect())
        .filter(({ width, height }) => Math.min(width, height) < 44).length"""
    assert visit.page.evaluate(small) == 0, "too small for a finger"
    assert visit.errors == []
    visit.context.close()
