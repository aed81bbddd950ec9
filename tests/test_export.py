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
from detector.ask import open_session, score
from detector.data import load_split
from detector.metrics import probability
from detector.model import build, load, predict_logits
from stages.export import write_model
from tests.conftest import ROOT, Project, the_error

MODELS = YAML(typ="safe").load(ROOT / "params.yaml")["models"]
INFO: dict[str, Any] = {
    "input_size": 32,
    "mean": [0.47, 0.46, 0.42],
    "std": [0.24, 0.24, 0.27],
    "mirror": 0.0,
    "classes": ["FAKE", "REAL"],
    "temperature": 0.6,
    "unsure": [0.1, 0.9],
}


@pytest.fixture(scope="module")
def exported(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after all four stages, on the sample."""
    path = tmp_path_factory.mktemp("exported") / "project"
    shutil.copytree(prepared, path)
    project = Project(path)
    project.set(models__tiny__epochs=2)
    for name in ("train", "evaluate", "export"):
        project.stage(name)
    return path


@pytest.fixture(scope="module")
def images(prepared: Path) -> np.ndarray:
    """uint8 (1000, 32, 32, 3)"""
    return load_split(prepared / "data/train.safetensors").images[:1000]


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "vit_tiny"])
def test_every_model_of_params_is_asked_without_torch(name: str, images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = MODELS[name]
    network: Any = build(spec)
    info = {**INFO, **{key: spec[key] for key in ("timm", "args", "stem")}, "model": name}
    some = images[:100]
    logits = predict_logits(network, some, info, 100)
    with torch.no_grad():  # untrained, it says the same of all: spread the answers out
        head, by = network.get_classifier(), 2 / float(logits.std())
        head.weight.mul_(by)
        head.bias.copy_(by * (head.bias - float(np.median(logits))))
    write_model(tmp_path / "model", network, info, some, some)

    rounded, _ = load(tmp_path / "model")  # the same folder is what training and evaluation read
    expected = predict_logits(rounded, some, info, 100)
    session = open_session(tmp_path / "model" / "model.onnx")
    together, distances = score(session, some, 0)
    assert together == pytest.approx(expected, abs=1e-3)
    assert np.ptp(probability(expected, 0.6)) > 0.3, "the answers are all alike, so nothing was compared"
    alone = [score(session, image[None], 0) for image in some[:3]]
    assert np.concatenate([logit for logit, _ in alone]) == pytest.approx(together[:3], abs=1e-3)
    assert np.concatenate([distance for _, distance in alone]) == pytest.approx(distances[:3], rel=1e-4)
    assert score(session, images, 0)[0].shape == (1000,)

    cut = float(np.median(np.abs(together)))
    close = np.abs(together) < cut
    mean_of_both = (together + score(session, some[:, :, ::-1], 0)[0]) / 2
    assert np.abs(mean_of_both - together).max() > 1e-2, "the mirror image says the same, so nothing was averaged"
    answered = score(session, some, cut)[0]
    assert answered == pytest.approx(np.where(close, mean_of_both, together), abs=1e-3)
    assert answered == pytest.approx(predict_logits(rounded, some, info | {"mirror": cut}, 100), abs=1e-3)
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


def test_the_weights_exist_once_and_in_half_the_size(exported: Path) -> None:
    folder = exported / "models/exported"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "model.json", "model.onnx", "model.safetensors"]
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
    assert str(exported) not in (folder / "model.onnx").read_bytes().decode("latin1"), "paths of this machine"


def test_the_folder_says_what_it_is_worth(exported: Path) -> None:
    folder = exported / "models/exported"
    metrics = json.loads((exported / "metrics/export.json").read_text())
    test = json.loads((exported / "metrics/test.json").read_text())
    assert metrics["compared"] == 600
    assert metrics["largest_difference"] <= 1e-3
    assert metrics["exported_accuracy"] == pytest.approx(test["accuracy"], abs=0.002)
    assert min(metrics["unlike_noise"], metrics["unlike_colour"]) > 0.9

    info = json.loads((folder / "model.json").read_text())
    trained = json.loads((exported / "models/trained/model.json").read_text())
    assert trained.items() <= info.items()
    assert (info["dataset"], info["test"]) == ("sample", test)
    assert Detector.load(folder).title.startswith("tiny, ")

    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert YAML(typ="safe").load(head)["license"] == "mit"
    assert f"{100 * test['accuracy']:.2f} %" in body
    assert f"{100 * test['ece']:.2f} %" in body
    robustness = json.loads((exported / "metrics/robustness.json").read_text())
    assert all(f"{100 * row['accuracy']:.2f} %" in body for row in robustness)
    for said in ("Stable Diffusion 1.4", "UNSURE", "bicubic", "## Intended use", "## Limits", "10.1109/ACCESS", "MIT"):
        assert said in body


def test_the_same_model_is_exported_to_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "again")
    again = Project(tmp_path / "again")
    shutil.rmtree(again.path / "models/exported")
    again.stage("export")
    for name in ("model.safetensors", "model.onnx", "model.json", "README.md"):
        file = Path("models/exported", name)
        assert (again.path / file).read_bytes() == (exported / file).read_bytes(), name


def test_weights_that_sixteen_bits_cannot_hold_are_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "project")
    project = Project(tmp_path / "project")
    before = (project.path / "models/exported/model.onnx").read_bytes()
    code = """
import torch
from detector.model import load, save
network, info = load("models/trained")
modules = dict(network.named_modules())
for name, conv in modules.items():
    if isinstance(conv, torch.nn.Conv2d) and conv.weight.numel() > 40_000:
        norm = modules[name.replace("conv", "bn")]  # it makes good for a factor that float16 takes for zero
        with torch.no_grad():
            norm.weight.mul_(1e9 * norm.eps**0.5 / (norm.running_var + norm.eps).sqrt())
            norm.running_var.zero_()
            norm.running_mean.mul_(1e-9)
            conv.weight.mul_(1e-9)
save("models/trained", network, info | {"temperature": 1e-4})  # of 600 images few are between FAKE and REAL
"""
    project.run("python", "-c", code)
    assert "would answer otherwise than models/trained" in the_error(project.stage("export", ok=False))
    assert (project.path / "models/exported/model.onnx").read_bytes() == before


def test_a_model_of_other_data_is_told(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "project")
    project = Project(tmp_path / "project")
    card = project.path / "models/trained/model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"data_digest": "0"}))
    assert "was not trained on data/train.safetensors" in the_error(project.stage("export", ok=False))
