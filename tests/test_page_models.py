"""The page with models that are not the released ones: other data sets, sizes and limits, and long names."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browsing import Visit, answer, wait_until
from tests.serving import Server, make_model, sample
from tests.test_page import PHONE

JPEGS = sample(4)
LONG = "of_" + "letters" * 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = make_model(tmp_path_factory.mktemp("models") / LONG, dataset=LONG)
    with Server(model, max_pixels=900_000) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    one = Visit(browser, server, viewport=PHONE, is_mobile=True, has_touch=True)
    yield one
    one.context.close()


def test_long_names_stay_on_a_phone(visit: Visit) -> None:
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    card.get_by_role("button", name="Show the evidence").tap()
    expect(card.get_by_role("img", name="with the evidence")).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_page_says_of_the_model_what_is_true_of_it(visit: Visit) -> None:
    text = visit.page.locator("body").inner_text()
    assert f"closer to: the photographs of {LONG}, or the fakes of {LONG}." in text
    assert "Every picture is first made 32\u00d732 pixels." in text
    assert "and 0.9 megapixels each" in text
    for of_others in ("CIFAR", "99.5"):
        assert of_others not in text


def test_pictures_of_one_name_are_several(visit: Visit) -> None:
    visit.choose(("image.jpg", JPEGS[0]), ("image.jpg", JPEGS[1]))
    expect(visit.page.get_by_role("status")).to_contain_text("2 pictures: ")


def test_evidence_that_was_hidden_meanwhile_is_not_announced(visit: Visit) -> None:
    held: list[Route] = []
    visit.page.route("**/v1/explain?*", lambda route: held.append(route))
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    card.get_by_role("button", name="Show the evidence").tap()
    card.get_by_role("button", name="Hide the evidence").tap()
    wait_until(visit.page, lambda: bool(held))
    held[0].continue_()
    expect(card.locator("figcaption")).to_contain_text("The strongest evidence")
    expect(visit.page.get_by_role("status")).not_to_contain_text("is shown")
