"""`dvc repro export`: the folder that is asked and shipped says what the trained model says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ruamel.yaml import YAML
from safetensors import safe_open

from detector import Detector
from detector.errors import UserError
from detector.labels import probability
from detector.record import ExportedRecord, ModelRecord
from detector.reference import Reference
from detector.session import open_session, score
from stages.data import load_split
from stages.export.__main__ import main, write_model
from stages.model import build, load_model, predict_logits, save_model
from tests.conftest import ROOT
from tests.models import trained
from tools.reference import add_reference

MODELS = YAML(typ="safe").load(ROOT / "params.yaml")["models"]


@pytest.fixture(scope="module")
def images(prepared: Path) -> np.ndarray:
    """uint8 (1000, 32, 32, 3)"""
    return load_split(prepared / "data/train").images[:1000]


@pytest.mark.parametrize(
    "name",
    [
        "small_resnet",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("vit_tiny", marks=pytest.mark.long),
    ],
)
def test_every_model_of_params_is_asked_without_torch(name: str, images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = MODELS[name]
    network: Any = build(spec)
    record = trained(**{key: spec[key] for key in ("timm", "args", "stem")}, model=name)
    mean, std = record.mean, record.std
    some = images[:100]
    logits = predict_logits(network, some, mean, std)
    with torch.no_grad():  # untrained, it says the same of all: spread the answers out
        head, by = network.get_classifier(), 2 / float(logits.std())
        head.weight.mul_(by)
        head.bias.copy_(by * (head.bias - float(np.median(logits))))
    write_model(tmp_path / "model", network, record, some, some, "sample", {})

    rounded, _ = load_model(tmp_path / "model")  # the same folder is what training and evaluation read
    expected = predict_logits(rounded, some, mean, std)
    session = open_session(tmp_path / "model" / "model.onnx")
    together, ood_scores, _ = score(session, some, 0)
    assert together == pytest.approx(expected, abs=1e-3)
    assert np.ptp(probability(expected, 0.6)) > 0.3, "the answers are all alike, so nothing was compared"
    alone = [score(session, image[None], 0) for image in some[:3]]
    assert np.concatenate([logit for logit, *_ in alone]) == pytest.approx(together[:3], abs=1e-3)
    assert np.concatenate([ood_score for _, ood_score, _ in alone]) == pytest.approx(ood_scores[:3], rel=1e-4)
    assert score(session, images, 0)[0].shape == (1000,)

    margin = float(np.median(np.abs(together)))
    close = np.abs(together) < margin
    mean_of_both = (together + score(session, some[:, :, ::-1], 0)[0]) / 2
    assert np.abs(mean_of_both - together).max() > 1e-2, "the flipped image says the same, so nothing was averaged"
    flipped = score(session, some, margin)[0]
    assert flipped == pytest.approx(np.where(close, mean_of_both, together), abs=1e-3)
    assert flipped == pytest.approx(predict_logits(rounded, some, mean, std, margin), abs=1e-3)
    assert batch_norms_of_convolutions(tmp_path / "model" / "model.onnx") == []


def batch_norms_of_convolutions(path: Path) -> list[str]:
    """Those that onnxruntime did not merge with their convolutions, which takes nearly twice as long."""
    options = onnxruntime.SessionOptions()
    as_run = path.with_name("as_run.onnx")
    options.optimized_model_filepath, options.log_severity_level = str(as_run), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(as_run, load_external_data=False).graph.node
    convolved = {node.output[0] for node in nodes if node.op_type == "Conv"}
    assert convolved
    return [node.name for node in nodes if node.op_type == "BatchNormalization" and node.input[0] in convolved]


def test_the_weights_exist_once_and_in_half_the_size(pipeline: Path) -> None:
    folder = pipeline / "models/exported"
    names = sorted(path.name for path in folder.iterdir())  # README.md: tests/test_card.py
    assert names == ["README.md", "model.json", "model.onnx", "model.safetensors", "reference.safetensors"]
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    outside = [one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    assert {entry.value for one in outside for entry in one.external_data if entry.key == "location"} == {
        "model.safetensors"
    }
    inside = [one.name for one in graph.initializer if one.name.startswith("network.") and one not in outside]
    assert inside == []
    with safe_open(folder / "model.safetensors", "numpy") as file:
        large = {file.get_slice(name).get_dtype() for name in file.keys() if file.get_tensor(name).size > 40_000}  # noqa: SIM118
    assert large <= {"F16"}
    assert str(pipeline) not in (folder / "model.onnx").read_bytes().decode("latin1"), "paths of this machine"


def test_the_folder_says_what_it_is_worth(pipeline: Path) -> None:
    folder = pipeline / "models/exported"
    metrics = json.loads((pipeline / "metrics/export.json").read_text())
    test = json.loads((pipeline / "metrics/test.json").read_text())
    assert metrics["compared"] == 600
    assert metrics["largest_difference"] <= 1e-3
    assert metrics["exported_accuracy"] == pytest.approx(test["accuracy"], abs=0.002)
    assert min(metrics["ood_noise"], metrics["ood_colour"]) > 0.9

    record, before = ExportedRecord.read(folder), ModelRecord.read(pipeline / "models/trained")
    others = {"sha256"}
    assert record.model_dump(exclude=others).items() >= before.model_dump(exclude=others).items()
    assert (record.dataset, record.test) == ("cifake", test)
    assert Detector.load(folder).title.startswith("tiny, ")


@pytest.fixture
def here(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project after all stages, in which `main` is called: importing torch anew takes seconds."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(shutil.copytree(pipeline, tmp_path / "here"))
    return tmp_path / "here"


def test_the_same_model_is_exported_to_the_same_bytes(pipeline: Path, here: Path) -> None:
    shutil.rmtree(here / "models/exported")
    main()
    for name in ("model.safetensors", "model.onnx", "model.json", "reference.safetensors"):
        file = Path("models/exported", name)
        assert (here / file).read_bytes() == (pipeline / file).read_bytes(), name


def test_a_model_of_an_older_release_gets_the_reference_that_export_writes(pipeline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline / "models/exported", tmp_path / "older"))
    (folder / "reference.safetensors").unlink()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    del model.graph.output[2]
    onnx.save(model, folder / "model.onnx")
    record = ExportedRecord.read(folder)
    record.write(folder)
    add_reference(folder, record, load_split(pipeline / "data/val").images)
    exported, added = (path / "reference.safetensors" for path in (pipeline / "models/exported", folder))
    assert exported.read_bytes() == added.read_bytes()
    assert len(Reference.read(folder, ExportedRecord.read(folder)).rows) == 240


def test_weights_that_sixteen_bits_cannot_hold_are_refused(here: Path) -> None:
    before = (here / "models/exported/model.onnx").read_bytes()
    network, record = load_model("models/trained")
    modules: dict[str, Any] = dict(network.named_modules())
    for name, conv in modules.items():
        if isinstance(conv, torch.nn.Conv2d) and conv.weight.numel() > 40_000:
            norm = modules[name.replace("conv", "bn")]  # it makes good for a factor that float16 takes for zero
            with torch.no_grad():
                norm.weight.mul_(1e9 * norm.eps**0.5 / (norm.running_var + norm.eps).sqrt())
                norm.running_var.zero_()
                norm.running_mean.mul_(1e-9)
                conv.weight.mul_(1e-9)
    # of 600 images few are between FAKE and REAL
    save_model("models/trained", network, record.model_copy(update={"temperature": 1e-4}))
    with pytest.raises(UserError, match="would answer otherwise than models/trained"):
        main()
    assert (here / "models/exported/model.onnx").read_bytes() == before


def test_a_channel_that_is_always_silent_is_no_matter(here: Path) -> None:
    path = here / "metrics/export.json"
    before = json.loads(path.read_text())
    network, record = load_model("models/trained")
    stem = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    with torch.no_grad():  # as weight decay does
        stem.weight[0] = stem.bias[0] = 0
    save_model("models/trained", network, record)
    main()
    after = json.loads(path.read_text())
    assert [kind for kind in before if kind.startswith("ood_") and abs(after[kind] - before[kind]) > 0.2] == []


def test_a_model_of_other_data_is_told(here: Path) -> None:
    path = here / "models/trained/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_digest": "0"}))
    with pytest.raises(UserError, match=r"was not trained on data/train"):
        main()
