"""The page when there is no answer: a busy service is asked again, and each card says in words what went wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browsing import Visit, answer
from tests.serving import Server, sample

JPEGS = sample(4)
PREDICT = "**/v1/predict?*"


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    one = Visit(browser, server)
    yield one
    one.context.close()


def busy(route: Route, status: int = 503, wait: int = 1) -> None:
    problem = {"detail": "too many requests at the moment"}
    route.fulfill(status=status, json=problem, headers={"Retry-After": str(wait)})


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_service_is_asked_again_when_it_says(visit: Visit, status: int) -> None:
    visit.page.route(PREDICT, lambda route: busy(route, status), times=5)
    visit.choose(*[(f"{n}.jpg", jpeg) for n, jpeg in enumerate(JPEGS)])
    for number in range(len(JPEGS)):
        expect(answer(visit.page, f"{number}.jpg").locator(".score")).to_contain_text("Score", timeout=10_000)


@pytest.mark.parametrize("status", [503, 429])
def test_a_service_that_stays_busy_is_told_and_can_be_asked_again(visit: Visit, status: int) -> None:
    asked: list[Route] = []

    def answer_busy(route: Route) -> None:
        asked.append(route)
        busy(route, status, wait=25)

    visit.page.clock.install()
    visit.page.route(PREDICT, answer_busy)
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    for _ in range(2):
        expect(card.locator(".verdict")).to_have_text("… asking")
        visit.page.wait_for_timeout(300)
        visit.page.clock.run_for(25_000)
    expect(card).to_contain_text("No answer: too many requests at the moment")
    assert len(asked) == 3
    visit.page.unroute(PREDICT)
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score")


def test_what_waits_for_a_busy_service_is_cancelled_at_once(visit: Visit) -> None:
    visit.page.route(PREDICT, lambda route: busy(route, wait=25))
    visit.choose(*[(f"{n}.jpg", JPEGS[n % len(JPEGS)]) for n in range(6)])
    expect(answer(visit.page, "0.jpg").locator(".verdict")).to_have_text("… asking")
    visit.page.wait_for_timeout(300)
    visit.page.get_by_role("button", name="Cancel").click()
    for number in range(6):
        expect(answer(visit.page, f"{number}.jpg")).to_contain_text("No answer: cancelled")
    visit.page.unroute(PREDICT)
    answer(visit.page, "0.jpg").get_by_role("button", name="Try again").click()
    expect(answer(visit.page, "0.jpg").locator(".score")).to_contain_text("Score")


NOT_THE_SERVICE = "another program than the service answers here: reload the page"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"status": 200, "body": "<!doctype html><p>Log in", "content_type": "text/html"}, NOT_THE_SERVICE),
        ({"status": 200, "body": "null", "content_type": "application/json"}, NOT_THE_SERVICE),
        ({"status": 200, "json": {"hello": "world"}}, NOT_THE_SERVICE),
        ({"status": 502, "json": {"message": "bad gateway"}}, "the service says 502"),
        ({"status": 502, "json": {"detail": [{"loc": "body"}]}}, "the service says 502"),
        ({"status": 502, "body": "null"}, "the service says 502"),
        ({"status": 502, "body": "<p>Bad gateway"}, "the service says 502"),
    ],
)
def test_an_answer_that_is_none_is_told(visit: Visit, said: dict[str, Any], reason: str) -> None:
    visit.page.route(PREDICT, lambda route: route.fulfill(**said), times=1)
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    expect(card.locator(".verdict")).to_have_text(f"No answer: {reason}")
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score")


def test_models_that_are_none_are_told(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    page.route("**/v1/models", lambda route: route.fulfill(status=200, body="<p>Log in"))
    page.goto(server.url)
    expect(page.get_by_text(f"No model: {NOT_THE_SERVICE}.")).to_be_visible()
    page.close()


def test_a_file_that_was_changed_after_it_was_chosen_is_told(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(JPEGS[0])
    visit.page.route(PREDICT, lambda route: route.fulfill(status=502), times=1)
    visit.page.get_by_label("Choose pictures").set_input_files(path)
    card = answer(visit.page, "cat.jpg")
    expect(card).to_contain_text("No answer: the service says 502")
    path.write_bytes(JPEGS[1] + b"more")
    card.get_by_role("button", name="Try again").click()
    expect(card).to_contain_text("No answer: the file cannot be read: it was changed or removed")
