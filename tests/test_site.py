"""The documentation as a site, opened from its folder in a real browser, at a desk and on a phone."""

import os
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import BIN, ROOT

pytestmark = pytest.mark.long

ADDRESS = "https://example.org/owner/ai-art-detector"
# How far a table reaches beyond what can be seen of it.
HIDDEN = """() => Math.max(...[...document.querySelectorAll('.md-typeset__scrollwrap'), document.documentElement]
    .map(box => box.scrollWidth - box.clientWidth))"""


def build(folder: Path, config: Path) -> Path:
    command = [str(BIN / "mkdocs"), "build", "--quiet", "-f", str(config), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("site"), ROOT / "mkdocs.yml")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_the_window_and_loads_nothing_from_elsewhere(site: Path, browser: Browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if "file:" not in request.url[:5] else None)
    too_wide = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        if (hidden := page.evaluate(HIDDEN)) > 1:
            too_wide[path.relative_to(site).as_posix()] = hidden
    page.close()
    assert too_wide == {}
    assert [address for address in elsewhere if not address.startswith("data:")] == []


def test_the_search_is_in_sight_and_finds_a_term(site: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("abstention band")
    found = page.locator(".md-search-result__link").first
    expect(found).to_contain_text("Abstention band", ignore_case=True, timeout=30_000)  # once the index is read
    page.close()


def test_the_address_of_the_repository_is_written_in_one_place(site: Path, tmp_path: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert 'repo_url: ""\n' in text
    for name in ("docs", "README.md", "CHANGELOG.md", "tools", "detector", "stages", "app"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = tmp_path / "mkdocs.yml"
    config.write_text(text.replace('repo_url: ""', f"repo_url: {ADDRESS}/"))
    named = build(tmp_path / "site", config)
    badge = f"{ADDRESS}/actions/workflows/tests.yml/badge.svg"
    assert badge in (named / "index.html").read_text()
    assert f"</span>{ADDRESS}<span" in (named / "tutorial.html").read_text()
    assert "</span>REPOSITORY<span" in (site / "tutorial.html").read_text()
    assert "badge.svg" not in (site / "index.html").read_text()
    assert "REPOSITORY" not in (named / "tutorial.html").read_text()
