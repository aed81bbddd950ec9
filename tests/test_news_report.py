"""The report of `python -m detector --report`: one file, opened from the disk in a browser, with the CSV beside it."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from detector import Detector
from detector.__main__ import main
from tests.claims import CASES, international_text, png
from tests.conftest import ROOT
from tests.serving import sample

HOSTILE = "<script>document.title='broken'<img src=x onerror=alert(2)>.png"
PROMPT = "</p><script>document.title='broken'</script><img src='http://127.0.0.1:9/x'>"


def large() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((640, 320)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for number, data in enumerate(sample(8)):
        (folder / f"{number}.jpg").write_bytes(data)
    (folder / HOSTILE.replace("/", "")).write_bytes(png(international_text("prompt", PROMPT)))
    (folder / "gpj\u202e.large.png").write_bytes(large())
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "webp.webp").write_bytes(CASES["webp"].data)
    return folder


def ask(*arguments: str | Path) -> int:
    try:
        main([*map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def report(model: Path, album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert ask(album, "--model", model, "--report", path) == 1  # one cannot be read
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.csv", "report.html"]
    return path


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    yield page
    assert said == [], "it complains, or it fetches"
    context.close()


def names(page: Page) -> list[str]:
    return page.locator("li:visible h2").all_text_contents()


def test_it_says_what_python_is_told(report: Path, model: Path) -> None:
    detector = Detector.load(model)
    html = report.read_text()
    rows = list(csv.DictReader(io.StringIO(report.with_suffix(".csv").read_text(), newline="")))
    assert len(rows) == html.count("<li ") == 12
    for row in rows:
        if row["error"]:
            assert row["file"].endswith("torn.jpg")
            continue
        (answer,) = detector.predict([row["file"]])
        assert (row["verdict"], row["p_fake"]) == (answer.verdict, str(answer.p_fake))
    assert html.index(detector.limit) < html.index("<li "), "the limit is on top"
    assert detector.sha256 in html
    drawn = sum(row["verdict"] in ("FAKE", "UNSURE") for row in rows)
    assert html.count("<details>") == drawn > 0
    assert html.count("data:image/webp;base64,") == 11 + drawn


def test_it_is_read_on_a_phone_from_the_disk(page: Page) -> None:
    assert page.title() == "12 pictures, answered by weighing"
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    card = page.locator("li").filter(has_text="large.png")
    expect(card.locator(".headline")).to_have_text("The answer says little")
    expect(card.locator("h2")).to_contain_text("gpj\\u202e.large.png")
    assert card.locator("img").first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 64]
    torn = page.locator("li").filter(has_text="torn.jpg")
    expect(torn).to_contain_text("Could not be read: broken picture")
    expect(page.get_by_role("button", name="could not be read 1")).to_be_visible()


def test_what_files_say_is_text(page: Page) -> None:
    card = page.locator("li").filter(has_text="prompt")
    expect(card.locator("h2")).to_contain_text("<script>document.title='broken'<img src=x onerror=alert(2)>.png")
    said = f"The file says: prompt “{PROMPT}” (PNG prompt; unsigned, anyone can write it)"
    expect(card.locator(".claim")).to_have_text(said)
    assert page.locator("script").count() == 1
    expect(page.locator("body")).to_contain_text("That a file says nothing proves nothing.")


def test_a_click_sorts_and_filters(page: Page) -> None:
    in_order = names(page)
    page.get_by_role("button", name="score").click()
    scores = page.locator("li[data-score]").evaluate_all("items => items.map((item) => Number(item.dataset.score))")
    assert scores == sorted(scores, reverse=True)
    assert names(page)[-1].endswith("torn.jpg")
    page.get_by_role("button", name="file", exact=True).click()
    assert names(page) == sorted(in_order)
    page.get_by_role("button", name="order").click()
    assert names(page) == in_order
    page.get_by_role("button", name="file says something 2").click()
    assert len(names(page)) == 2
    expect(page.get_by_role("button", name="file says something 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name=re.compile("^all")).click()
    assert names(page) == in_order


def test_without_scripts_all_is_there_in_order(browser: Browser, report: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert page.locator("li").count() == 12
    expect(page.get_by_role("button")).to_have_count(0)
    page.close()


def test_nothing_is_left_half_written(
    model: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("earlier")

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "predict_batch", refuse)
    with pytest.raises(KeyboardInterrupt):
        ask(album, "--model", model, "--report", path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "earlier")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report", "report.csv"], "report.csv: name a file that ends in .html"),
        (["--report", "photos.html"], "photos.csv is there already and is no CSV of this program's"),
        (["--report", "."], ". is a folder: name a file in it"),
    ],
)
def test_a_name_that_would_do_harm_is_refused(
    options: list[str], said: str, model: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "photos.csv"
    mine.write_text("file,photographer\n")
    with pytest.raises(Exception, match=re.escape(said)):
        main([str(album), "--model", str(model), *options])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(mine.name, "file,photographer\n")]


def test_a_report_of_earlier_is_replaced(model: Path, album: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert ask(album / "0.jpg", "--model", model, "--report", tmp_path / "report.html") == 0


def test_with_explain_it_is_refused(model: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(album, "--model", model, "--report", "a.html", "--explain", "b.png") == 2
    assert "--report draws the evidence itself" in capsys.readouterr().err


PEAK = """
import re, sys
from pathlib import Path
from detector.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.long  # half a minute
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone says a process's peak of memory")
def test_memory_does_not_grow_with_the_number_of_pictures(model: Path, tmp_path: Path) -> None:
    peaks = []
    Image.effect_noise((128, 128), 100).convert("RGB").save(tmp_path / "one.jpg")  # whose thumbnail is large
    for count in (300, 3000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.jpg").hardlink_to(tmp_path / "one.jpg")
        page = tmp_path / f"{count}.html"
        command = [sys.executable, "-c", PEAK, str(folder), "--model", str(model), "--report", str(page)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1000)
        assert page.read_text().count("<li ") == count
    added = page.stat().st_size / 1e6
    assert added > 20
    assert peaks[1] < peaks[0] + added / 3, f"{peaks} MB; the page alone has {added:.0f} MB"
