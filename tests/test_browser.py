"""The page that answers in the browser itself, in a real one: it says what `python -m detector` says."""

import base64
import gzip
import json
import re
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.schemas import Models
from benchmarks.small_model import open_small
from detector import Detector
from detector.claims import read_claims
from detector.errors import UserError
from detector.preprocessed import Preprocessed
from detector.released import DEFAULT
from detector.session import score
from tests import claims
from tests.browser_pictures import WIDE, Picture, all_pictures, crafted, picture, saved
from tests.browsing import Host
from tests.conftest import ROOT
from tests.serving import megabytes
from tools.browser import BUILT
from tools.small_model import shrink

pytestmark = pytest.mark.long

UNREAD = "Content Credentials, not read in the browser: `python -m detector` reads and checks them with c2pa-python"

# Asks the engine about files, given as [name, base64], and returns what it says or why it does not.
ASK = """async ([question, files]) => {
    const { ask } = await import("./static/engine.js");
    const answers = [];
    for (const [name, text] of files) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        answers.push(await ask(question, new File([bytes], name)).then(
            (answer) => answer.pixels ? { ...answer, pixels: btoa(String.fromCharCode(...answer.pixels)) } : answer,
            (error) => ({ problem: error.message })));
    }
    return answers;
}"""


@pytest.fixture
def page(browser: Browser, host: Host) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(host.url)
    yield page
    context.close()


@pytest.fixture(scope="module")
def detector(place: Path) -> Detector:
    return Detector.load(place / DEFAULT)


def ask(page: Page, question: str, pictures: list[Picture]) -> list[dict[str, Any]]:
    files = [[one.name, base64.b64encode(one.data).decode()] for one in pictures]
    answers = []
    for start in range(0, len(files), 20):
        answers += page.evaluate(ASK, [question, files[start : start + 20]])
    return answers


def predict_all(detector: Detector, pictures: list[Picture]) -> list[tuple[Preprocessed | UserError, Any]]:
    """What Python says: each picture made ready, or why it cannot be read; and the prediction."""
    read = detector.preprocess_all([one.data for one in pictures])
    predictions = iter(detector.predict_batch([one for one in read if isinstance(one, Preprocessed)]))
    return [(one, next(predictions) if isinstance(one, Preprocessed) else None) for one in read]


def test_the_smaller_model_has_the_ood_scores_of_the_release(place: Path, detector: Detector) -> None:
    small = shrink(place / DEFAULT)
    read = detector.preprocess_all([one.data for one in all_pictures()[::5]])
    pixels = np.stack([one.pixels for one in read if isinstance(one, Preprocessed)])
    released = detector.score(pixels).ood_scores
    assert np.allclose(score(open_small(small), pixels, 0).ood_scores, released, rtol=1e-4)


# About 60 seconds of processor time, a third of it in Python.
def test_five_hundred_pictures_get_the_answers_of_python(page: Page, detector: Detector) -> None:
    pictures = all_pictures()
    assert len(pictures) >= 500
    exact = [one for one in pictures if one.is_exact]
    inputs = dict(zip([one.name for one in exact], ask(page, "preprocess", exact), strict=True))
    changes, wrong = [], []
    for one, (read, expected), said in zip(
        pictures, predict_all(detector, pictures), ask(page, "predict", pictures), strict=True
    ):
        if isinstance(read, UserError) or "problem" in said:
            if one.name.endswith(".tif"):
                assert said["problem"] == "a TIFF, which browsers do not open: save it as PNG or JPEG"
            elif not isinstance(read, UserError) or "problem" not in said:
                wrong.append((one.name, str(read), said))
            continue
        prediction = said["prediction"]
        changes.append(abs(prediction["p_fake"] - expected.p_fake))
        turned = {prediction["verdict"], expected.verdict} == {"REAL", "FAKE"}
        if turned or prediction["notes"] != expected.notes:
            wrong.append((one.name, expected, prediction))
        if one.is_exact:
            pixels = np.frombuffer(base64.b64decode(inputs[one.name]["pixels"]), np.uint8)
            if not np.array_equal(pixels.reshape(read.pixels.shape), read.pixels):
                wrong.append((one.name, "other pixels", inputs[one.name]["notes"]))
    assert wrong == []
    assert np.mean(np.array(changes) <= 0.02) >= 0.99, sorted(changes)[-10:]


def unusual() -> Iterator[Picture]:
    """Files that are right, but seldom are so; and PNGs whose note of what is clear is too short."""
    plain = Image.new("RGB", (40, 40), "orange")
    avif, bmp = bytearray(saved(plain, "AVIF")), bytearray(saved(plain, "BMP"))
    avif[8:12], bmp[6:10] = b"mif1", b"mine"
    yield Picture("other brand first.avif", bytes(avif))
    yield Picture("reserved bytes.bmp", bytes(bmp))
    for mode in ("L", "RGB", "RGBA"):
        png = saved(plain.convert(mode), "PNG")
        for length in (0, 1, 5, 6):
            clear = claims.chunk(b"tRNS", b"\0\xff\0\xa5\0\0"[:length])
            yield Picture(f"{mode} {length}.png", png[:33] + clear + png[33:])
    yield Picture("no colours.avif", saved(plain, "AVIF", subsampling="4:0:0"))
    yield Picture("no colours, transparent.avif", saved(plain.convert("RGBA"), "AVIF", subsampling="4:0:0"))
    yield Picture("bytes of nothing.jpg", bytes_of_nothing())
    languages = [{"enUS": "Écran façade"}, {"zhCN": "屏幕 P3"}, {"deDE": "Schirm", "enGB": "Screen"}, {"deDE": "a\0b"}]
    for number, names in enumerate(languages):
        yield Picture(f"profile {number}.png", saved(plain, "PNG", icc_profile=profile(in_languages(names))))
    for name in (b"plain", b"\xc9cran", b""):
        tag = b"desc" + struct.pack(">4xI", len(name) + 1) + name + bytes(79)
        yield Picture(f"profile {name!r}.jpg", saved(plain, "JPEG", icc_profile=profile(tag)))


def bytes_of_nothing() -> bytes:
    """A JPEG with bytes between its segments that belong to none."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    jpeg = saved(noise, "JPEG")
    return jpeg[:20] + b"abc" + jpeg[20:]


def in_languages(names: dict[str, str]) -> bytes:
    """A tag of a profile's name by language and country, ICC.1:2010, 10.13."""
    texts = [name.encode("utf-16-be") for name in names.values()]
    tag = b"mluc" + struct.pack(">4xII", len(names), 12)
    for number, code in enumerate(names):
        start = 16 + 12 * len(names) + sum(map(len, texts[:number]))
        tag += struct.pack(">4sII", code.encode(), len(texts[number]), start)
    return tag + b"".join(texts)


def profile(name: bytes) -> bytes:
    """A profile with this tag for its name."""
    bare = WIDE or b""
    (count,) = struct.unpack_from(">I", bare, 128)
    table = struct.pack(">I", count + 1)
    for number in range(count):
        tag, place, length = struct.unpack_from(">4sII", bare, 132 + 12 * number)
        table += struct.pack(">4sII", tag, place + 12, length)
    table += struct.pack(">4sII", b"desc", len(bare) + 12, len(name))
    return struct.pack(">I", len(bare) + 12 + len(name)) + bare[4:128] + table + bare[132 + 12 * count :] + name


def test_unusual_pictures_get_the_answers_of_python(page: Page, detector: Detector) -> None:
    pictures = list(unusual())
    said = ask(page, "preprocess", pictures)
    read = detector.preprocess_all([one.data for one in pictures])
    expected = [{"problem": str(one)} if isinstance(one, UserError) else {"notes": list(one.notes)} for one in read]
    found = [{name: one[name] for name in ("problem", "notes") if name in one} for one in said]
    assert dict(zip([one.name for one in pictures], found, strict=True)) == dict(
        zip([one.name for one in pictures], expected, strict=True)
    )


def megabytes_of_page(browser: Browser, which: str) -> float:
    """Of the largest of the browser's processes for pages; which: VmRSS or VmHWM."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return max(megabytes(process["id"], which) for process in processes if process["type"] == "renderer")


def test_what_python_refuses_is_refused(browser: Browser, page: Page, detector: Detector) -> None:
    half = bytes_of_nothing()[:10_000]
    boxes = struct.pack(">4x4s4x", b"meta") + struct.pack(">4x4s", b"iprp") + 40_000 * struct.pack(">4x4s", b"ipco")
    pictures = [Picture("half.jpg", half), Picture("boxes.avif", struct.pack(">I8s4x", 16, b"ftypavif") + boxes)]
    assert [type(one) for one in detector.preprocess_all([one.data for one in pictures])] == [UserError, UserError]
    before = megabytes_of_page(browser, "VmHWM")
    assert ["problem" in one for one in ask(page, "preprocess", pictures)] == [True, True]
    assert megabytes_of_page(browser, "VmHWM") - before < 200, "boxes in boxes, each read to its end, take a gigabyte"


def test_png_of_every_kind_becomes_the_input_of_python(page: Page, detector: Detector) -> None:
    pictures = crafted()
    wrong: list[Any] = []
    read_all = detector.preprocess_all([one.data for one in pictures])
    for one, read, said in zip(pictures, read_all, ask(page, "preprocess", pictures), strict=True):
        if isinstance(read, UserError) or "problem" in said:
            if said.get("problem") != str(read):
                wrong.append((one.name, str(read), said))
            continue
        pixels = np.frombuffer(base64.b64decode(said["pixels"]), np.uint8)
        if said["notes"] != list(read.notes) or not np.array_equal(pixels.reshape(read.pixels.shape), read.pixels):
            wrong.append((one.name, read.notes, said["notes"]))
    assert wrong == []


def test_the_occlusion_map_is_that_of_python(page: Page, detector: Detector) -> None:
    pictures = [
        Picture(name, (ROOT / "app/static/examples" / name).read_bytes()) for name in ("ship.png", "coffee.jpg")
    ]
    for one, said in zip(pictures, ask(page, "explain", pictures), strict=True):
        expected = detector.explain(one.data)
        assert np.abs(np.array(said["occlusion_map"]) - expected.occlusion_map).max() < 0.15
        assert said["seen_region"] == list(expected.seen_region)
        assert said["prediction"]["verdict"] == expected.prediction.verdict


# 10 seconds
def test_a_file_says_of_itself_what_it_says_to_python(page: Page) -> None:
    cases = [case for case in claims.CASES.values() if not case.name.startswith("tiff")]
    wrong = []
    for case, said in zip(cases, ask(page, "predict", [Picture(one.name, one.data) for one in cases]), strict=True):
        expected = [dict(vars(claim)) for claim in case.claims]  # the cases are others' as well
        for claim in expected:
            claim["says"] = claim["says"].replace(claims.UNREAD, UNREAD)
        if "problem" in said or said["prediction"]["claims"] != expected:
            wrong.append((case.name, expected, said))
    assert wrong == []


def test_a_packed_text_may_end_in_any_way(page: Page) -> None:
    packed = zlib.compress(claims.PARAMETERS.encode())
    ends = {"none": packed[:-4], "wrong": packed[:-1] + bytes([packed[-1] ^ 1]), "cut": packed[:-20]}
    ends |= {f"{len(junk)} more": packed + junk for junk in (b"", b"x", bytes(70_000))}
    files = []
    for kind, start in ((b"zTXt", b"parameters\0\0"), (b"iTXt", b"parameters\0\1\0\0\0")):
        for name, text in ends.items():
            files.append(Picture(f"{kind.decode()} {name}", claims.png(claims.chunk(kind, start + text))))
    for one, said in zip(files, ask(page, "predict", files), strict=True):
        expected = [vars(claim) for claim in read_claims(one.data)]
        assert said["prediction"]["claims"] == expected, one.name
        assert bool(expected) == (not one.name.endswith("wrong"))


# 20 seconds
def test_what_a_file_may_say_takes_seconds_at_most(page: Page) -> None:
    parts = {
        "packed": claims.packed_text("parameters", b"x" * 2**20),
        "deep JSON": claims.text("prompt", '{"a":' * 200_000),
        "quotes": claims.text("prompt", '{"' + '\\"' * 500_000),
        "spaces": claims.text("Comment", " " * 10**6 + "x" + " " * 10**6),
        "long": claims.text("Software", "x" * 2**21),
    }
    for name, elements in {
        "deep XMP": "<a>" * 340_000,
        "comments": "<a><!--" * 150_000,
        "ampersands": "&" * 10**6,
    }.items():
        packet = claims.xmp('xmp:CreatorTool="GIMP"', elements=elements)
        parts[name] = claims.chunk(b"iTXt", claims.XMP_KEYWORD + packet)
    for name, part in parts.items():
        data = claims.png(part)
        begun = time.monotonic()
        (said,) = ask(page, "predict", [Picture(name, data)])
        assert time.monotonic() - begun < 20, f"{name}: what reads everything again and again takes minutes"
        assert said["prediction"]["claims"] == [vars(claim) for claim in read_claims(data)], name


def test_what_a_file_says_is_shown_beside_the_answer(page: Page, tmp_path: Path) -> None:
    for name in ("png of nothing", "png parameters"):
        (tmp_path / f"{name}.png").write_bytes(claims.CASES[name].data)
        page.get_by_label("Choose pictures").set_input_files(tmp_path / f"{name}.png")
    silent, speaking = (page.locator("li.answer").filter(has_text=name) for name in ("of nothing", "parameters.png"))
    heading = speaking.get_by_role("heading", name="What the file says of itself")
    expect(heading).to_be_visible(timeout=60_000)
    expect(speaking.locator(".claims li")).to_have_text(
        f"{claims.PARAMETERS_SAID} (PNG parameters; unsigned, anyone can write it)"
    )
    expect(silent.locator(".verdict")).to_have_text(re.compile("REAL|FAKE|UNSURE"), timeout=60_000)
    expect(silent.locator(".claims")).to_be_hidden()


def test_a_picture_is_answered_without_a_network_after_the_first_visit(browser: Browser, place: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    with Host(place / "page") as host:
        page.goto(host.url)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.goto("about:blank")  # or what the first visit is still fetching would fail
        host.shutdown()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(host.url)
    page.get_by_role("button", name="Ship").click()
    expect(page.locator(".verdict strong")).to_have_text("FAKE", timeout=60_000)
    page.get_by_role("button", name=re.compile("Show the evidence")).click()
    expect(page.get_by_role("img", name=re.compile("with the evidence in it"))).to_be_visible(timeout=60_000)
    assert errors == []
    context.close()


def test_nothing_is_asked_of_another_host_and_pictures_stay(page: Page, host: Host) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    page.get_by_label("Choose pictures").set_input_files(ROOT / "app/static/examples/cat.jpg")
    expect(page.locator(".verdict strong")).to_have_text("REAL", timeout=60_000)
    assert [one for one in sent if not one.startswith((f"GET {host.url}", f"GET blob:{host.url}"))] == []


def test_memory_does_not_grow_with_the_number_of_pictures(browser: Browser, page: Page) -> None:
    rng = np.random.default_rng(0)
    several = [Picture(f"{n}.jpg", saved(picture(rng, 900, 700), "JPEG")) for n in range(4)]
    ask(page, "predict", several * 50)  # until it takes no more for what waits to be collected
    before = megabytes_of_page(browser, "VmRSS")
    ask(page, "predict", several * 25)
    assert megabytes_of_page(browser, "VmRSS") - before < 60, "100 pictures of 2.5 MB"


def test_the_first_visit_fetches_at_most_20_megabytes(place: Path) -> None:
    """As GitHub Pages sends it: with gzip what is text, WebAssembly or JSON; the rest as it is."""
    packed = {".html", ".js", ".mjs", ".json", ".css", ".svg", ".wasm", ".webmanifest", ".txt"}
    files = [path for path in (place / "page").rglob("*") if path.is_file()]
    sizes = [
        len(gzip.compress(path.read_bytes(), 6)) if path.suffix in packed else path.stat().st_size for path in files
    ]
    assert sum(sizes) < 20e6
    model = [path.stat().st_size for path in files if path.name in ("model.onnx", "model.safetensors")]
    assert sum(model) <= 12e6


def test_the_page_says_of_its_model_what_the_service_says(place: Path) -> None:
    said = json.loads((place / "page/model.json").read_text())
    Models.model_validate({name: said[name] for name in ("limits", "limit")} | {"models": [said["summary"]]})
    assert set(said["summary"]) == set(Models.model_json_schema()["$defs"]["Model"]["properties"])


def test_a_build_holds_what_the_next_one_may_replace(place: Path) -> None:
    assert {path.name for path in (place / "page").iterdir()} == BUILT
