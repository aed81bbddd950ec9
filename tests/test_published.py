"""What is published is one thing: the committed results and the released models are runs that have a record."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from detector.released import list_files, stored_at
from tests.conftest import ROOT
from tools.record import PUBLISHED, RunRecord

PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
RELEASED = sorted(set(json.loads((ROOT / "detector/released.json").read_text())) - {"pretrained"})
MODELS, SEEDS = ("quick", "resnet18", "resnet18_imagenet", "vit_tiny"), range(3)  # a fork may publish more
NAMES = [f"{model}-seed{seed}" for model in MODELS for seed in SEEDS]
RECORDS = {name: RunRecord.read(ROOT / PUBLISHED / f"{name}.json") for name in NAMES}
NOT_IN_PARAMS: dict[str, Any] = {"quick": {"corruption": 0}}  # as README says it is trained


def read(path: str) -> bytes:
    return (ROOT / path).read_bytes()


def released(model: str, file: str) -> str:
    return read(stored_at(list_files(read, model)[file])).decode()


def test_all_records_are_of_the_same_code() -> None:
    assert len({record.code for record in RECORDS.values()}) == 1


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_of_what_params_yaml_says_of_its_model(name: str) -> None:
    record = RECORDS[name]
    assert name == f"{record.model}-seed{record.seed}"
    datasets = {name: PARAMS["datasets"][name] for name in record.params["datasets"]}  # own ones may be beside them
    models = {record.model: PARAMS["models"][record.model]}
    augment = PARAMS["train"]["augment"] | NOT_IN_PARAMS.get(record.model, {})
    train = PARAMS["train"] | {"augment": augment}
    chosen = {"model": record.model, "seed": record.seed, "models": models, "train": train}
    chosen |= {"datasets": datasets}
    assert record.params == PARAMS | chosen


def seed_0(model: str) -> RunRecord:
    return RunRecord.read(ROOT / PUBLISHED / f"{model}-seed0.json")


def test_the_committed_results_are_those_of_the_run_that_params_yaml_describes() -> None:
    record = seed_0(PARAMS["model"])
    known = record.metrics.model_dump(mode="json", exclude_unset=True)
    committed = {path.stem: json.loads(path.read_text()) for path in (ROOT / "metrics").glob("*.json")}
    assert committed == known


@pytest.mark.parametrize("model", RELEASED)
def test_a_released_model_is_the_run_of_seed_0_and_its_card_has_the_numbers_of_its_record(model: str) -> None:
    record = seed_0(model)
    exported: dict[str, Any] = json.loads(released(model, "model.json"))
    assert (exported["model"], exported["seed"]) == (model, 0)
    assert exported["test"] == record.metrics.test
    card = released(model, "README.md")
    shown = {"Accuracy": "accuracy", "FAKE recall": "fake_recall", "REAL recall": "real_recall"}
    shown |= {"Expected calibration error of P(FAKE), 15 bins of equal mass": "ece"}
    for label, name in shown.items():
        assert f"| {label} | {100 * record.test(name):.2f} % |" in card
    assert f"{record.metrics.train['seconds'] / 60:.0f} minutes on {record.machine}" in " ".join(card.split())
    for row in record.metrics.robustness:
        assert f"{100 * row['accuracy']:.2f} %" in card


def test_every_released_model_is_an_artifact_of_dvc() -> None:
    artifacts = YAML(typ="safe").load(ROOT / "dvc.yaml")["artifacts"]
    assert {name: artifact["path"] for name, artifact in artifacts.items()} == {
        name: str(Path("models", name)) for name in RELEASED
    }
