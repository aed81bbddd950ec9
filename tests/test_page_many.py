"""The page with many pictures and several models: side by side, folders, progress, cancelling, answers as CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from detector import Detector
from detector.output import COLUMNS
from detector.sources import find_pictures
from tests.browsing import Visit, answer, wait_until
from tests.models import exported
from tests.serving import Server, make_model, sample

pytestmark = pytest.mark.long  # half a minute
JPEGS = sample(4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    first, second = make_model(folder / "weighing"), make_model(folder / "cooler")
    exported(temperature=9.0, dataset="mine").write(second)
    return first, second


@pytest.fixture(scope="module")
def server(models: tuple[Path, Path]) -> Iterator[Server]:
    with Server(", ".join(map(str, models)), max_bytes=1_000_000) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    one = Visit(browser, server, viewport={"width": 1100, "height": 900})
    yield one
    assert [error for error in one.errors if "422" not in error] == []  # refusals are logged by the browser
    one.context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them a folder deeper, and what is none."""
    inner = tmp_path / "holiday/inner"
    inner.mkdir(parents=True)
    (tmp_path / "holiday/a.jpg").write_bytes(JPEGS[0])
    (inner / "b.jpg").write_bytes(JPEGS[1])
    (inner / "notes.txt").write_text("no picture")
    return tmp_path / "holiday"


def saved(page: Page) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    assert download.value.suggested_filename == "answers.csv"
    return list(csv.reader(io.StringIO(Path(download.value.path()).read_bytes().decode(), newline="")))


def test_models_answer_side_by_side_in_one_card(visit: Visit, models: tuple[Path, Path]) -> None:
    visit.choose(("cat.jpg", JPEGS[0]))
    rows = answer(visit.page, "cat.jpg").locator(".row")
    expect(rows).to_have_count(2)
    for row, model in zip(rows.all(), models, strict=True):
        detector = Detector.load(model)
        (expected,) = detector.predict([JPEGS[0]])
        expect(row.get_by_role("heading")).to_have_text(model.name)
        expect(row.locator(".verdict strong")).to_have_text(expected.verdict)
        expect(
            row.get_by_role("img", name=f"0, like {detector.scale[0]}, to 1, like {detector.scale[1]}")
        ).to_be_visible()
        expect(answer(visit.page, "cat.jpg")).to_contain_text(f"{model.name}: {detector.limit}")
    first, second = (row.bounding_box() for row in rows.all())
    assert first is not None
    assert second is not None
    assert first["y"] == second["y"], "one beside the other"
    for model in models:
        expect(visit.page.get_by_role("status")).to_contain_text(f"cat.jpg, {model.name}: ")

    # each has evidence of its own
    visit.page.get_by_role("button", name="Show the evidence in cat.jpg, cooler").click()
    expect(answer(visit.page, "cat.jpg").locator("figcaption:visible")).to_contain_text("cooler: ")

    # a model that is not chosen has no row, and its answer is not saved; one at least stays
    visit.page.get_by_role("checkbox", name="weighing").uncheck()
    expect(rows).to_have_count(1)
    assert [line[-1] for line in saved(visit.page)[1:]] == [Detector.load(models[1]).sha256]
    visit.page.get_by_role("checkbox", name="cooler").click()
    expect(visit.page.get_by_role("checkbox", name="cooler")).to_be_checked()
    expect(visit.page.get_by_role("status")).to_have_text("One model at least has to answer")
    visit.page.get_by_role("checkbox", name="weighing").check()
    expect(rows).to_have_count(2)
    expect(visit.page.locator(".waiting")).to_have_count(0)


def test_answers_are_saved_as_the_shell_writes_them(visit: Visit, models: tuple[Path, Path]) -> None:
    visit.page.get_by_role("checkbox", name="cooler").uncheck()
    visit.choose(
        ('a "b", c.jpg', JPEGS[0]), ("=1+1.jpg", JPEGS[1]), ("torn.jpg", b"no"), ("huge.jpg", bytes(1_000_001))
    )
    visit.page.get_by_role("button", name="Coffee").click()  # it has notes
    expect(visit.page.locator(".answer")).to_have_count(5)
    expect(visit.page.locator(".waiting")).to_have_count(0)
    head, *lines = saved(visit.page)
    assert head == COLUMNS
    rows = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    detector = Detector.load(models[0])
    coffee = Path("app/static/examples/coffee.jpg").read_bytes()
    # a spreadsheet would compute what begins with =
    for name, picture in (('a "b", c.jpg', JPEGS[0]), ("'=1+1.jpg", JPEGS[1]), ("coffee.jpg", coffee)):
        (expected,) = detector.predict([picture])
        row = rows.pop(name)
        assert float(row["p_fake"]) == pytest.approx(expected.p_fake, abs=1e-6)
        assert (row["verdict"], row["out_of_distribution"]) == (expected.verdict, str(expected.out_of_distribution))
        assert (row["notes"], row["error"]) == ("; ".join(expected.notes), "")
        assert row["model_sha256"] == detector.sha256
    assert rows["torn.jpg"]["error"].startswith("not a picture that can be read")
    assert rows["torn.jpg"]["model_sha256"] == detector.sha256, "with several models, which of them it was"
    assert rows["huge.jpg"]["error"] == "the file is larger than 1 MB"
    assert rows.keys() == {"torn.jpg", "huge.jpg"}


def test_no_spreadsheet_computes_what_follows_a_line_break(visit: Visit) -> None:
    lines = visit.page.evaluate(
        """() => import("./static/csv.js")
            .then(({ csvOf }) => csvOf([{ name: "\\n=1+1.jpg", error: new Error("a; =1+1; \\uff1d") }]))"""
    )
    assert "'\n=1+1.jpg" in lines
    assert "a; '=1+1; '\uff1d" in lines


def test_of_a_folder_the_pictures_are_asked_about(visit: Visit, folder: Path) -> None:
    choose_folder(visit, folder)
    for name in ("holiday/a.jpg", "holiday/inner/b.jpg"):
        expect(answer(visit.page, name).locator(".score").first).to_contain_text("Score")
    expect(visit.page.locator(".answer")).to_have_count(2)
    expect(visit.page.get_by_text("Passed over: 1 file that is no picture.").last).to_be_visible()


def drop(visit: Visit, folder: Path) -> None:
    box = visit.page.locator("#drop").bounding_box()
    assert box is not None
    devtools = visit.context.new_cdp_session(visit.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        event = {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data}
        devtools.send("Input.dispatchDragEvent", event)


def choose_folder(visit: Visit, folder: Path) -> None:
    visit.page.get_by_label("Choose a folder").set_input_files(folder)


def test_a_folder_can_be_dropped(visit: Visit, folder: Path) -> None:
    drop(visit, folder)
    expect(visit.page.locator(".answer h3")).to_have_text(["holiday/a.jpg", "holiday/inner/b.jpg"])
    expect(visit.page.locator(".waiting")).to_have_count(0)


@pytest.mark.parametrize("give", [choose_folder, drop])
def test_of_a_folder_the_pictures_are_those_of_the_shell_and_in_its_order(
    visit: Visit, folder: Path, give: Callable[[Visit, Path], None]
) -> None:
    for name in ("B.jpg", "c.jpg", "inner.jpg", "inner/10.jpg", "._a.jpg", ".thumbs/t.jpg", "inner/.notes"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(JPEGS[0])
    give(visit, folder)
    pictures, _, others = find_pictures([str(folder)])
    expect(visit.page.locator(".answer h3")).to_have_text(
        [Path(name).relative_to(folder.parent).as_posix() for name in pictures]
    )
    assert others.total() == 1, "notes.txt"
    expect(visit.page.get_by_text("Passed over: 1 file that is no picture.").last).to_be_visible()
    expect(visit.page.locator(".waiting")).to_have_count(0)


@pytest.mark.parametrize("give", [choose_folder, drop])
def test_a_hidden_folder_that_is_chosen_itself_is_read(
    visit: Visit, folder: Path, give: Callable[[Visit, Path], None]
) -> None:
    give(visit, folder.rename(folder.with_name(".holiday")))
    expect(visit.page.locator(".answer h3")).to_have_text([".holiday/a.jpg", ".holiday/inner/b.jpg"])
    expect(visit.page.locator(".waiting")).to_have_count(0)


def test_of_a_dropped_folder_what_cannot_be_read_is_named(visit: Visit) -> None:
    # made up: to an administrator, as whom tests may run, every file can be read
    visit.page.evaluate(
        """(bytes) => {
            const refuse = (failed) => failed(new DOMException("", "NotReadableError"));
            const entry = (path, more) => ({ fullPath: path, name: path.split("/").at(-1), ...more });
            const file = (path, data) => entry(path, { isFile: true, file: (found, failed) =>
                data ? found(new File([new Uint8Array(data)], "", { type: "image/jpeg" })) : refuse(failed) });
            const folder = (path, inside) => entry(path, { isDirectory: true, createReader: () => {
                const answers = [inside, []];
                return { readEntries: (found, failed) => inside ? found(answers.shift()) : refuse(failed) };
            } });
            const [a, d] = ["/holiday/a.jpg", "/holiday/d.jpg"].map((path) => file(path, bytes));
            const dropped = folder("/holiday", [a, file("/holiday/b.jpg"), folder("/holiday/c"), d]);
            const items = [{ webkitGetAsEntry: () => dropped }];
            const drop = new DragEvent("drop", { cancelable: true });
            dispatchEvent(Object.defineProperty(drop, "dataTransfer", { value: { files: [dropped], items } }));
        }""",
        list(JPEGS[0]),
    )
    expect(visit.page.locator(".answer h3")).to_have_text(["holiday/a.jpg", "holiday/d.jpg"])
    expect(visit.page.get_by_text("Cannot be read: holiday/b.jpg, holiday/c.").last).to_be_visible()
    expect(visit.page.locator(".waiting")).to_have_count(0)


def test_a_hundred_pictures_have_progress_and_can_be_cancelled(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("checkbox", name="cooler").uncheck()
    held: list[Route] = []
    page.route("**/v1/predict?*", lambda route: held.append(route))
    visit.choose(*[(f"{n}.jpg", JPEGS[n % 4]) for n in range(100)])
    expect(page.get_by_text("0 of 100 answers")).to_be_visible()

    wait_until(page, lambda: len(held) >= 4)  # so many are asked at a time
    for route in held[:3]:
        route.continue_()
    wait_until(page, lambda: len(held) >= 7)
    expect(page.get_by_text("3 of 100 answers")).to_be_visible()
    bar = page.get_by_role("progressbar", name="Answers")
    assert bar.evaluate("(bar) => [bar.value, bar.max]") == [3, 100]

    page.get_by_role("button", name="Cancel").click()  # also what the service has been asked
    expect(page.get_by_role("status")).to_contain_text("100 pictures: ")
    expect(page.get_by_role("status")).to_contain_text("97 without an answer")
    page.unroute("**/v1/predict?*")
    assert page.evaluate("document.activeElement.id") == "save", "the button that had the focus is gone"
    expect(bar).to_be_hidden()

    card = answer(page, "50.jpg")
    expect(card).to_contain_text("No answer: cancelled")
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".score")).to_contain_text("Score")
    assert page.evaluate("document.activeElement.className") == "answer"

    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".answer")).to_have_count(0)
    visit.choose(*[(f"{n}.jpg", JPEGS[n % 4]) for n in range(100)])
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^100 pictures: ((?!without).)*$"), timeout=30_000)


def test_what_a_file_says_of_itself_stands_apart_and_stays_text(visit: Visit) -> None:
    claims = [
        {"source": "PNG text", "says": "<b>masterpiece</b>, Steps: 20", "signed": False},
        {"source": "C2PA", "says": "made by a camera", "signed": True},
    ]

    def add_claims(route: Route) -> None:
        response = route.fetch()
        said = response.json()
        said["predictions"][0]["claims"] = claims
        route.fulfill(response=response, json=said)

    visit.page.route("**/v1/predict?*", add_claims)
    visit.choose(("cat.jpg", JPEGS[0]))
    card = answer(visit.page, "cat.jpg")
    expect(card.get_by_role("heading", name="What the file says of itself")).to_be_visible()
    expect(card.locator(".claims li")).to_have_text(
        [
            "<b>masterpiece</b>, Steps: 20 (PNG text; unsigned, anyone can write it)",
            "made by a camera (C2PA; its signature fits the file)",
        ]
    )
    expect(visit.page.locator(".waiting")).to_have_count(0)
