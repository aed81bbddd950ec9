"""What an answer is worth elsewhere: the stage `external`, and the fingerprint of its data."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from detector import Detector
from detector.errors import UserError
from detector.fetch import fetch
from detector.labels import FAKE
from stages.external.__main__ import answers, external_rows, external_summary, main, source_rows
from stages.fingerprint import main as fingerprint
from stages.intervals import auroc_interval, share_interval, wilson_interval
from stages.params import load_params
from stages.prepare.sources import Pictures
from tests.conftest import ROOT, Project
from tests.test_prepare import picture
from tools import elsewhere
from tools.record import PUBLISHED, RunRecord


def test_each_source_has_what_people_are_told_about_its_pictures(pipeline: Path) -> None:
    rows = json.loads((pipeline / "metrics/external_sources.json").read_text())
    assert [(row["dataset"], row["source"], row["images"], row["groups"]) for row in rows] == [
        ("sample", "FAKE", 300, 3),
        ("sample", "REAL", 300, 3),
    ]
    table = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()
    for label, (row, wrong) in enumerate(zip(rows, ("REAL", "FAKE"), strict=True)):
        said = Detector.load(pipeline / "models/exported").predict(
            [one["image"]["bytes"] for one in table if one["label"] == label]
        )
        expected = {
            "caught" if label == FAKE else "false_alarms": [one.verdict == "FAKE" for one in said],
            "coverage": [one.verdict != "UNSURE" for one in said],
            "out_of_distribution": [one.out_of_distribution for one in said],
            "confidently_wrong": [one.verdict == wrong and not one.out_of_distribution for one in said],
        }
        for name, flags in expected.items():
            value, low, high = row[name]
            assert value == pytest.approx(np.mean(flags), abs=1e-6)
            assert low <= value <= high
    assert "auroc" in rows[0]
    assert "auroc" not in rows[1]
    assert json.loads((pipeline / "metrics/external.json").read_text()) == external_summary(rows)


def test_only_this_stage_runs_again_when_external_data_change(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.path)
    monkeypatch.setenv("CIFAKE_SOURCE", "data/sample")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    mine = here.path / "mine/FAKE"
    mine.mkdir(parents=True)
    for number in range(3):
        picture(number, (32, 32)).save(mine / f"{number}.png")
    (mine / "broken.png").write_bytes(b"no picture")
    here.set(datasets__mine={"path": str(here.path / "mine")}, evaluate__external=["mine"])
    fingerprint()
    assert here.changed_stages() == {"external"}
    noted = (here.path / "data/external.json").read_text()
    assert str(here.path) not in noted

    main()
    (row,) = json.loads((here.path / "metrics/external_sources.json").read_text())
    assert (row["source"], row["images"], row["groups"], row["auroc"]) == ("FAKE", 3, None, None)
    csv = (here.path / "plots/external/sources.csv").read_text()
    assert csv.splitlines()[1].startswith("mine: FAKE,")

    picture(9, (32, 32)).save(mine / "another.png")
    fingerprint()
    changed = (here.path / "data/external.json").read_text()
    assert changed != noted
    shutil.rmtree(mine)  # what is not here cannot have changed
    (here.path / "mine").rmdir()
    fingerprint()
    assert (here.path / "data/external.json").read_text() == changed

    for names in ("sample", [1]):
        here.set(evaluate__external=names)
        with pytest.raises(UserError, match=r"it must be a list of entries of `datasets`$"):
            fingerprint()
    here.set(evaluate__external=["yours"])
    with pytest.raises(UserError, match=r"evaluate\.external names yours; datasets has cifake, sample"):
        fingerprint()


def test_what_a_released_model_is_worth_elsewhere_is_told_without_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As its record has it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    fetch("vit_tiny", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["elsewhere", "models/vit_tiny"])
    params = load_params()
    params["evaluate"]["external"] = ["sample"]
    monkeypatch.setattr(elsewhere, "load_params", lambda: params)
    monkeypatch.chdir(ROOT)
    elsewhere.main()
    said = capsys.readouterr().out
    record = RunRecord.read(ROOT / PUBLISHED / "vit_tiny-seed0.json")
    rows = [row for row in record.metrics.external_sources or [] if row["dataset"] == "sample"]
    assert elsewhere.table(rows) in said
    assert f"auroc_elsewhere {rows[0]['auroc'][0]:.4f}" in said


def test_what_the_model_was_trained_on_and_what_is_not_here_is_left_out(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pipeline)
    params = load_params()
    params["evaluate"]["external"] = ["cifake", "elsewhere"]  # of these tests' project
    assert external_rows(Detector.load("models/exported"), params) == []
    said = capsys.readouterr().out
    assert "cifake is left out: the model was trained on it" in said
    assert "elsewhere is left out: its data are not here" in said
    assert external_summary([]) == {}


def test_who_always_says_the_same_is_wrong_in_half_of_the_cases() -> None:
    def row(label: str, **shares: float) -> dict[str, Any]:
        return {"class": label, "control": False, **{name: [share, 0.0, 1.0] for name, share in shares.items()}}

    rows = [
        row("FAKE", auroc=0.4, caught=0.0, confidently_wrong=1.0),
        row("FAKE", auroc=0.6, caught=0.0, confidently_wrong=1.0),
        row("REAL", false_alarms=0.0, confidently_wrong=0.0),
        row("REAL", false_alarms=1.0, confidently_wrong=1.0) | {"control": True},
    ]
    assert external_summary(rows) == {
        "confidently_wrong_elsewhere": 0.5,
        "auroc_elsewhere": 0.5,
        "caught_elsewhere": 0.0,
        "false_alarms_elsewhere": 0.0,
    }


def test_sources_that_are_not_elsewhere_are_marked_and_images_in_no_group_stand_alone(pipeline: Path) -> None:
    rows = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()[::20]
    labels, images = (np.array([one["label"] for one in rows]), [one["image"]["bytes"] for one in rows])
    pictures = Pictures(
        read=lambda number: images[number],
        name=str,
        labels=labels.astype(np.int64),
        sources=labels.astype(np.int32),
        source_names=["fakes", "photographs"],
        groups=np.where(np.arange(len(rows)) < 2, 1, 0).astype(np.uint64),
    )
    found = source_rows(
        "mine", {"test": pictures}, Detector.load(pipeline / "models/exported"), {"photographs": ["cifake"]}
    )
    assert [(row["source"], row["control"]) for row in found] == [("fakes", False), ("photographs", True)]
    assert sum(row["groups"] for row in found) >= len(rows) - 2


def test_a_picture_that_was_not_read_in_time_is_asked_about_again(pipeline: Path) -> None:
    """As on a machine that stood still for a minute."""
    detector = Detector.load(pipeline / "models/exported")
    stream, calls = detector.stream, []

    def slow_once(pictures: Iterable[Any]) -> Iterator[Any]:
        calls.append(len(given := list(pictures)))
        for number, one in enumerate(stream(given)):
            yield UserError("the time ran out") if len(calls) == 1 and number == 1 else one

    detector.stream = slow_once  # type: ignore[method-assign]
    rows = pq.read_table(ROOT / "data/sample/test.parquet").to_pylist()[:3]
    pictures = Pictures(
        read=lambda number: b"broken" if number == 2 else rows[number]["image"]["bytes"],
        name=str,
        labels=np.zeros(3, np.int64),
        sources=np.zeros(3, np.int32),
        source_names=["fakes"],
        groups=np.zeros(3, np.uint64),
    )
    said = answers("mine", [pictures], detector)
    assert [one is None for one in said] == [False, False, True]
    assert calls == [3, 2]


def test_where_a_class_is_missing_nothing_is_said_of_both() -> None:
    fakes = [{"class": "FAKE", "control": False, "caught": [0.5, 0, 1], "confidently_wrong": [0.5, 0, 1]}]
    assert external_summary(fakes) == {"caught_elsewhere": 0.5}


def test_of_nothing_no_share_is_known() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 1) == (0.0, pytest.approx(0.7935, abs=1e-4))


def test_intervals_are_wider_where_images_come_in_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"photograph {number}" for number in range(20)], 30)
    is_fake = np.tile([True, False], 300)
    of_group = np.repeat(rng.normal(0, 1, 20), 30)  # what the images of one photograph have in common
    p_fake = rng.normal(0, 1, 600) + of_group * is_fake + is_fake

    def width(interval: list[float] | None) -> float:
        assert interval is not None
        value, low, high = interval
        assert low <= value <= high
        return high - low

    said_fake = p_fake > 0.5
    assert width(share_interval(said_fake, groups)) > 1.3 * width(share_interval(said_fake))
    assert width(auroc_interval(p_fake, is_fake, groups)) > 1.3 * width(auroc_interval(p_fake, is_fake))
    # where each image is a group of its own, both ways say about the same
    alone = np.arange(600).astype(str)
    assert width(auroc_interval(p_fake, is_fake, alone)) == pytest.approx(
        width(auroc_interval(p_fake, is_fake)), rel=0.1
    )
    # of three groups that happen to agree, the bootstrap would have it that nothing is uncertain
    alike = np.repeat(["a", "b", "c"], 200)
    p_fake[200:400] = p_fake[400:] = p_fake[:200]
    assert auroc_interval(p_fake, is_fake, alike) == auroc_interval(p_fake, is_fake)
    # no share is known to be 0 because none was seen
    none = np.zeros(600, bool)
    assert share_interval(none, groups) == share_interval(none) == [0.0, 0.0, pytest.approx(0.0064, abs=1e-4)]
    assert auroc_interval(p_fake[:3], is_fake[:3]) is None
