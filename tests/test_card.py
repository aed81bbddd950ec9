"""`dvc repro card`: the model card says what is true of its model, whichever model that is."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from detector.errors import UserError
from detector.record import ExportedRecord
from stages.card import REPORTS, body, main, origin
from stages.params import load_params
from tests.conftest import Project

Inputs = tuple[ExportedRecord, dict[str, Any], list[dict[str, str]], dict[str, Any]]


@pytest.fixture
def inputs(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """What the card of the tests' own model is made of."""
    monkeypatch.chdir(pipeline)
    reports = {name: json.loads(Path(f"metrics/{name}.json").read_text()) for name in REPORTS}
    with Path("plots/test/object_classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    return ExportedRecord.read(Path("models/exported")), reports, classes, load_params()


def flat(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_a_card_says_of_which_share_of_fakes_a_probability_speaks(inputs: Inputs) -> None:
    record, reports, classes, params = inputs
    for fakes, share in ((100, "half"), (300, "75%")):
        prepare = reports["prepare"] | {"train_fake": fakes, "train_real": 100}
        said = flat(body(record, reports | {"prepare": prepare}, classes, params))
        assert f"for a world in which {share} of the pictures are fake" in said


def test_a_card_has_the_numbers_of_its_model_and_their_intervals(pipeline: Path, inputs: Inputs) -> None:
    _, reports, _, params = inputs
    _, head, text = (pipeline / "models/exported/README.md").read_text().split("---\n", 2)
    known, said, test = YAML(typ="safe").load(head), flat(text), reports["test"]
    assert (known["license"], known["datasets"]) == ("mit", [params["datasets"]["cifake"]["hub"]])
    assert known["model-index"][0]["results"][0]["metrics"][0]["value"] == test["accuracy"]
    for name in ("accuracy", "ece", "fake_recall", "real_recall", "tpr_at_1_fpr"):
        assert f"{100 * test[name]:.2f} %" in said
    assert f"{test['auroc']:.4f} | {test['auroc_low']:.4f} to {test['auroc_high']:.4f}" in said
    assert all(f"{100 * row['accuracy']:.2f} %" in said for row in reports["robustness"])
    learnt = [
        tensor.numel()
        for name, tensor in load_file(pipeline / "models/trained/model.safetensors").items()
        if "running" not in name and "tracked" not in name
    ]
    assert f"{sum(learnt):,} parameters" in said
    for row in reports["external_sources"]:  # what it is worth elsewhere
        assert f"{row['dataset']}: {row['source']}" in said
        value, low, high = (100 * number for number in row["confidently_wrong"])
        assert f"{value:.1f} % ({low:.1f} to {high:.1f})" in said
    for words in ("Stable Diffusion 1.4", "UNSURE", "bicubic", "## Intended use", "## Limits", "10.1109/ACCESS", "MIT"):
        assert words in text
    assert "None" not in text
    assert "nan" not in text.split()


def test_the_card_is_written_anew_from_the_files_that_dvc_knows(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = (pipeline / "models/exported/README.md").read_text()
    for name in ("params.yaml", "plots/test/object_classes.csv", "models/exported/model.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((pipeline / name).read_bytes())
    (tmp_path / "metrics").mkdir()
    for name in REPORTS:
        (tmp_path / f"metrics/{name}.json").write_bytes((pipeline / f"metrics/{name}.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    main()
    assert (tmp_path / "models/exported/README.md").read_text() == written


def test_it_says_what_training_was(inputs: Inputs) -> None:
    record, reports, classes, params = inputs
    said = flat(body(record, reports, classes, params))
    assert "epochs from random weights, with muon" in said
    assert "of the training images, on the scale of 0 to 1" in said
    assert "30 % of the training images were corrupted in these ways" in said
    assert "It enlarges the image" not in said
    params["train"]["augment"]["corruption"] = 0
    assert "No image was corrupted in training." in flat(body(record, reports, classes, params))


def test_pretrained_weights_are_named_with_their_licence(inputs: Inputs, tmp_path: Path) -> None:
    record, reports, classes, params = inputs
    weights = tmp_path / "weights.safetensors"
    record = record.model_copy(update={"pretrained": str(weights), "enlarged_size": 96})
    with pytest.raises(UserError, match=r"weights\.safetensors are not here"):  # a card without the licence
        body(record, reports, classes, params)
    weights.touch()
    (tmp_path / "LICENSE").write_text("Copyright (c) Somebody\n")
    said = flat(body(record, reports, classes, params))
    assert f"epochs from the weights {weights}, under a licence of their own" in said
    assert "that its pretrained weights want" in said
    assert "have this licence: ``` Copyright (c) Somebody ```" in said
    assert "It enlarges the image to 96x96 (bicubic)" in said
    known = record.model_copy(update={"pretrained": "models/pretrained/resnet18-imagenet.safetensors"})
    assert origin(known).startswith("ML.NET's ResNet18 (NuGet package")


def test_the_licence_of_the_repository_is_not_that_of_weights_beside_it(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, reports, classes, params = inputs
    monkeypatch.chdir(tmp_path)
    for name in ("LICENSE", "mine.safetensors"):
        Path(name).write_text("Copyright (c) the repository")
    said = body(record.model_copy(update={"pretrained": "mine.safetensors"}), reports, classes, params)
    assert "Copyright (c) the repository" not in said


def test_a_card_of_other_data_says_so(inputs: Inputs) -> None:
    record, reports, classes, params = inputs
    reports["test"]["sources"] = {
        "flux": {"images": 50, "recall": 0.5, "low": 0.4, "high": 0.6, "auroc": 0.7},
    }
    record = record.model_copy(update={"dataset": "mine", "fit": "crop", "reencode": 75, "stem": None})
    text = body(record, reports, classes[-1:], params)
    said = flat(text)
    assert "Trained on the data set mine." in said
    assert "The middle 32x32 pixels are taken as they are" in said
    assert "encoded as JPEG of quality 75" in said
    assert "timm's own stem" in said
    assert "| flux | 50.00 % | 40.00 % to 60.00 % | 50 |" in text
    for other in ("CIFAKE", "CIFAR", "small sample", "### By object", "what object they show", "A JPEG is decoded"):
        assert other not in text


def test_what_could_not_be_measured_is_left_out(inputs: Inputs) -> None:
    """Where every test image is in training too, or no image gets an answer, and where nothing is elsewhere."""
    record, reports, classes, params = inputs
    reports["external_sources"] = []
    for name in ("accuracy_without_leaked", "selective_accuracy", "auroc_low", "auroc_high"):
        reports["test"].pop(name, None)
    record = record.model_copy(update={"abstention_band": (0.01, 0.99), "flip_tta_margin": 0.0})
    said = flat(body(record, reports, classes, params))
    assert "Accuracy without images" not in said
    assert "On the test split no image gets another answer." in said
    assert "Nothing was measured: `evaluate.external` names no data set that was here." in said
    assert "flipped image" not in said


@pytest.mark.long
def test_a_new_export_gets_its_card_from_the_next_dvc_repro(here: Project) -> None:
    here.env["CIFAKE_SOURCE"] = "data/sample"
    card = here.path / "models/exported/README.md"
    before = card.read_text()
    here.stage("export")  # by itself: a card of the export before would be of another model
    assert not card.exists()
    here.run("dvc", "repro")
    assert card.read_text() == before
