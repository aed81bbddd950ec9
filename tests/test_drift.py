"""`python -m detector drift`: are pictures still what a model was validated on? And the service's watch of the same."""

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, expect
from ruamel.yaml import YAML

from detector import Detector, two_sample
from detector.__main__ import main
from detector.drift import LEVEL
from detector.drift_output import share_interval
from detector.errors import UserError
from detector.images import decode
from detector.record import ExportedRecord
from detector.reference import Reference, statistics_of
from detector.two_sample import Rows, TwoSampleTest
from stages.intervals import wilson_interval
from tests.conftest import ROOT
from tests.serving import Server, make_model

ARRIVING = 150  # pictures in a folder


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """1,200 JPEGs of 32x32, in random order: any two parts of them have the same distribution."""
    rows = pq.read_table(ROOT / "data/sample/train.parquet").to_pylist()
    return [rows[place]["image"]["bytes"] for place in np.random.default_rng(0).permutation(len(rows))[:1200]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    folder = make_model(tmp_path_factory.mktemp("models") / "weighing")
    detector, known = Detector.load(folder), np.stack([decode(data) for data in pictures[ARRIVING:]])
    threshold = detector.record.out_of_distribution.threshold
    Reference.fit(detector.score(known), statistics_of(known), threshold).write(folder)
    detector.record.write(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """Folders of pictures: `untouched`, and `blurred`, the same with less detail."""
    place = tmp_path_factory.mktemp("arrived")
    for name in ("untouched", "blurred", "drift"):
        (place / name).mkdir()
    for number, data in enumerate(pictures[:ARRIVING]):
        (place / f"untouched/{number}.jpg").write_bytes(data)
        blurred = Image.open(io.BytesIO(data)).filter(ImageFilter.GaussianBlur(1))
        blurred.save(place / f"blurred/<{number}>.png")
    (place / "drift/one.jpg").write_bytes(pictures[0])
    (place / "untouched/torn.jpg").write_bytes(pictures[0][:200])
    return place


def drift(*arguments: Any) -> int:
    """Run the command, and return its exit status."""
    try:
        main(["drift", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_report_replaces_no_folder_of_mine(model: Path, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").mkdir()
    (tmp_path / "mine.html/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        drift(folders / "untouched", "--model", model, "--html", tmp_path / "mine.html")
    assert (tmp_path / "mine.html/notes.txt").read_text() == "mine"


def test_untouched_pictures_are_no_drift(model: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift(folders / "untouched", "--model", model) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"No drift found: {ARRIVING} pictures of ")
    assert "torn.jpg" in said.err, "a picture that cannot be read is named"


def test_corrupted_pictures_are_drift_and_the_report_says_in_what(
    model: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert drift(folders / "blurred", "--model", model, "--json", "--html", page) == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["drift"]
    assert answer["p_value"] <= LEVEL
    tests = {test["name"]: test for test in answer["tests"]}
    assert tests["sharpness"]["p_value"] <= LEVEL
    assert tests["sharpness"]["now"] < tests["sharpness"]["before"] / 2
    assert tests["brightness"]["p_value"] > LEVEL, "blur leaves the brightness as it is"
    assert len(answer["most_foreign"]) == 24
    assert any("resized, compressed, filtered" in one for one in answer["advice"])

    html = page.read_text()
    assert "Drift: " in html
    assert "sharpness is lower" in html
    (said,) = re.findall(r"Out of distribution: ([\d.]+)% \(95 % interval ([\d.]+)% to ([\d.]+)%\)", html)
    share, low, high = map(float, said)
    expected = wilson_interval(round(share / 100 * ARRIVING), ARRIVING)
    assert (low, high) == pytest.approx([100 * end for end in expected], abs=0.06)
    assert html.count("<svg") == 8
    assert html.count('src="data:image/png;base64,') == 32
    assert "&lt;" in html, "names of files are text"
    assert "/<" not in html, "names of files are text"
    assert not re.search(r"<script|https?://|<link|url\(", html), "it loads nothing"


def test_the_same_folder_gets_the_same_answer(model: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for _ in range(2):
        drift(folders / "blurred", "--model", model, "--json")
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_what_cannot_be_told_is_refused(model: Path, folders: Path, tmp_path: Path) -> None:
    older = make_model(tmp_path / "older")
    with pytest.raises(UserError, match=r"has no reference.safetensors to compare pictures with: .*dvc repro export"):
        drift(folders / "untouched", "--model", older)
    with pytest.raises(UserError, match=r"^1 picture of .* can be read: telling drift takes 20 at least$"):
        drift(folders / "drift", "--model", model)
    with pytest.raises(UserError, match="is no folder"):
        drift(folders / "drift/one.jpg", "--model", model)


def test_another_models_reference_is_refused(model: Path, folders: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other")
    (other / "reference.safetensors").write_bytes(b"")
    ExportedRecord.read(other).write(other)
    (other / "reference.safetensors").write_bytes((model / "reference.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"is not the file that model.json was written for"):
        drift(folders / "untouched", "--model", other)


def test_a_folder_named_drift_can_be_asked_about(
    model: Path, folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    main(["./drift", "--model", str(model), "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["verdict"] in ("FAKE", "REAL", "UNSURE")


def test_all_tests_together_keep_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples from the reference's own distribution, 5 % are called drifted, however many tests there are."""
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 399)
    random = np.random.default_rng(0)

    def rows(count: int, shift: float = 0.0) -> Rows:
        scalars = random.exponential(size=(count, 7)).cumsum(1) + shift  # the scalars depend on each other
        return Rows(random.normal(size=(count, 4)), scalars, random.random(count) < 0.01)

    test = TwoSampleTest(rows(1000))
    alarms = np.mean([test(rows(60)).p_value <= LEVEL for _ in range(400)])
    assert 0.02 <= alarms <= 0.08  # 5 % +- 2.8 standard errors
    shifted = test(rows(60, shift=1.0))
    assert shifted.p_value <= 0.01
    assert shifted.p_values[0] > LEVEL, "the features are as they were"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model, max_files=100) as running:
        yield running


def watched(server: Server) -> dict[str, float]:
    """The metrics of the window, once there has been a comparison."""
    for _ in range(100):
        metrics = server.metrics()
        if metrics['detector_drift_answers{model="weighing"}'] > 0:
            return metrics
        time.sleep(0.1)
    raise AssertionError("no comparison in ten seconds")


def test_the_service_notices_that_other_pictures_arrive(
    server: Server, pictures: list[bytes], browser: Browser
) -> None:
    (before,) = server.client.get("/v1/models").json()["models"]
    assert before["drift"] is None
    assert np.isnan(server.metrics()['detector_drift_p_value{model="weighing"}'])

    white = io.BytesIO()
    Image.new("RGB", (32, 32), "white").save(white, "PNG")
    for _ in range(2):
        assert server.ask(*[white.getvalue()] * 50, *pictures[:50]).status_code == 200
    metrics = watched(server)
    assert metrics['detector_drift_answers{model="weighing"}'] == 200
    assert metrics['detector_drift_p_value{model="weighing"}'] <= 0.001
    assert metrics['detector_drift_out_of_distribution{model="weighing"}'] >= 0.5
    assert metrics['detector_drift_distance{model="weighing",test="contrast"}'] >= 0.4
    (after,) = server.client.get("/v1/models").json()["models"]
    assert after["drift"]["found"]

    page = browser.new_page()
    page.goto(server.url)
    expect(page.get_by_role("complementary", name="Drift")).to_contain_text("The last 200 pictures")
    page.close()


def test_what_fetch_brought_is_served_by_its_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for fetched in ("models/fetched", "hub/somebody/theirs"):
        shutil.copytree(model, tmp_path / "ai-art-detector" / fetched)
    with Server("models/fetched, hf://somebody/theirs") as server:
        assert [one["name"] for one in server.client.get("/v1/models").json()["models"]] == ["fetched", "theirs"]
        assert 'detector_drift_answers{model="theirs"}' in server.metrics()


def test_the_alert_rule_asks_for_metrics_that_there_are(server: Server) -> None:
    (group,) = YAML(typ="safe").load(ROOT / "app/alerts.yml")["groups"]
    known = {name.partition("{")[0] for name in server.metrics()}
    for rule in group["rules"]:
        assert set(re.findall(r"\bdetector_\w+", rule["expr"])) <= known
        assert set(re.findall(r"\bdetector_\w+", rule["annotations"]["description"])) <= known


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 200), (150, 150)])
def test_the_interval_of_a_share_is_scipys(count: int, of: int) -> None:
    """Written out in detector/drift_output.py: the service has no SciPy."""
    assert share_interval(count, of) == pytest.approx(wilson_interval(count, of), abs=1e-6)


def test_brightness_is_that_of_a_television_signal() -> None:
    colours = np.eye(3, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2) * 255  # red, green, blue
    assert statistics_of(colours)[:, 0] / 255 == pytest.approx([0.299, 0.587, 0.114])
