"""The page without scripts: a form that is posted to the page's own address, and answered in HTML."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from detector import Detector
from detector.limit import CLOSER
from detector.preprocessed import SAYS_LITTLE
from tests.browsing import payload
from tests.claims import png
from tests.claims import text as text_chunk
from tests.conftest import ROOT
from tests.serving import BOUNDARY, Server, body, files, sample

JPEGS = sample(4)
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model, hosts="detector.example", max_bytes=1_000_000, max_files=8) as running:
        yield running


def test_the_answers_are_those_of_python_with_their_limit(server: Server, model: Path) -> None:
    response = server.client.post("/", files=files(*JPEGS, b"torn"), headers=BROWSER)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    *cards, torn = response.text.split("<li class=")[1:]
    detector = Detector.load(model)
    for number, (card, expected) in enumerate(zip(cards, detector.predict(JPEGS), strict=True)):
        assert f"secret{number}.jpg" in card
        assert f"<strong>{expected.verdict}</strong>" in card
        found = re.search(r"Score (?:over |under )?([\d.]+) on a scale", card)
        assert found is not None
        assert float(found[1]) == pytest.approx(expected.p_fake, abs=0.00051)
        assert f"weighing:</strong> {detector.limit}" in card
    assert "No answer:</strong> not a picture that can be read" in torn
    assert "<script" not in response.text
    assert server.metrics()['detector_pictures_total{model="weighing",verdict="unreadable"}'] == 1


def test_a_files_name_and_what_it_says_stay_text(server: Server) -> None:
    named = body(JPEGS[0]).replace(b"p.jpg", b"<img src=x onerror=alert(1)>&quot;.jpg")
    headers = {**BROWSER, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    text = server.client.post("/", content=named, headers=headers).text
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;quot;.jpg" in text
    assert "What the file says of itself" not in text
    claiming = png(text_chunk("Software", "Midjourney <script>alert(1)</script>"))
    text = server.client.post("/", files=files(claiming), headers=BROWSER).text
    assert "What the file says of itself" in text
    assert "Midjourney &lt;script&gt;alert(1)&lt;/script&gt; (PNG Software; unsigned, anyone can write it)" in text


@pytest.mark.parametrize(
    ("content", "headers", "status", "line"),
    [
        ([b"torn"], {}, 422, "422 Unprocessable Entity: not a picture that can be read"),
        ([bytes(1_000_001)], {}, 413, "file 1 is larger than 1 MB"),
        (JPEGS * 3, {}, 413, "too many files: send 8 files in a request"),
        (
            JPEGS,
            {"Origin": "https://stranger.example"},
            403,
            "403 Forbidden: a page of https://stranger.example may not",
        ),
        (JPEGS, {"Origin": "null"}, 403, "no host that SERVE_HOSTS could name"),
        (JPEGS, {"Host": "stranger.example"}, 421, "this service does not answer as &#x27;stranger.example&#x27;"),
    ],
)
def test_a_refusal_is_a_page_of_one_line(
    server: Server, content: list[bytes], headers: dict[str, str], status: int, line: str
) -> None:
    response = server.client.post("/", files=files(*content), headers={**BROWSER, **headers})
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert line in response.text
    for program in ("/", "/v1/predict"):  # and for programs what it always was
        response = server.client.post(program, files=files(*content), headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


def post_form(page: Page, *pictures: bytes) -> None:
    page.get_by_label("Pictures", exact=True).set_input_files(
        [payload(f"{n}.jpg", data) for n, data in enumerate(pictures)]
    )
    page.get_by_role("button", name="Ask").click()


# By a name that is none of loopback's a browser sends no Sec-Fetch-Site over http: the service has to go by Origin.
@pytest.mark.parametrize("host", ["127.0.0.1", "detector.example"])
def test_a_browser_without_scripts_asks_and_is_answered(browser: Browser, server: Server, host: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://{host}:{server.port}")
    expect(page.locator("button:visible")).to_have_count(1)  # nothing is shown that needs scripts
    post_form(page, *JPEGS)
    expect(page.get_by_role("heading", level=1)).to_have_text("Answers")
    expect(page.locator(".answer")).to_have_count(4)
    page.get_by_role("link", name="Ask about other pictures").click()
    post_form(page, b"torn")
    expect(page.get_by_text("422 Unprocessable Entity: not a picture")).to_be_visible()
    context.close()


def test_a_form_on_a_strangers_page_is_refused(browser: Browser, server: Server) -> None:
    service = f"http://detector.example:{server.port}"
    form = f'<form action="{service}/" method="post" enctype="multipart/form-data"><label>Pictures '
    form += '<input type="file" name="files"></label><button>Ask</button></form>'
    context = browser.new_context()
    page = context.new_page()
    page.route("http://stranger.example/", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://stranger.example/")
    post_form(page, JPEGS[0])
    expect(page.get_by_text("403 Forbidden: a page of http://stranger.example may not ask")).to_be_visible()
    context.close()


def test_the_page_with_scripts_says_the_same_words() -> None:
    words = (ROOT / "app/static/words.js").read_text()
    assert [said for said in (SAYS_LITTLE, *CLOSER.values()) if said.replace("{", "${") not in words] == []
