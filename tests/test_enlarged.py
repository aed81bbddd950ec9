"""`models.<name>.input_size`: the network sees images enlarged, wherever it is, and pictures keep the data's size."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch.nn import functional as F

from detector import Detector
from detector.errors import UserError
from detector.session import open_session, score
from stages import model
from stages.evaluate import __main__ as evaluate
from stages.export import __main__ as export
from stages.export import ood
from stages.export.__main__ import write_model
from stages.model import build, build_recorded, evaluation_batch, load_model, predict_logits, save_model
from stages.train.network import check_sides, make_network
from stages.train.options import check_options
from tests.conftest import ROOT, TINY, Project
from tests.models import trained
from tests.test_sizes import mosaics
from tests.test_train import write_split

CPU = torch.device("cpu")
RESNET: dict[str, Any] = {"timm": "test_resnet", "args": {}, "stem": None}
VIT: dict[str, Any] = {"timm": "test_vit", "args": {"img_size": 64}, "stem": None}
OPTIONS: dict[str, Any] = {"auxiliary_loss": 0}


def spread(network: Any, images: np.ndarray, mean: Any, std: Any) -> None:
    """An untrained network says the same of all images: have it tell them apart."""
    logits = predict_logits(network, images, mean, std)
    with torch.no_grad():
        head, by = network.get_classifier(), 2 / float(logits.std())
        head.weight.mul_(by)
        head.bias.copy_(by * (head.bias - float(np.median(logits))))


@pytest.mark.parametrize("spec", [RESNET, VIT])
def test_the_network_sees_images_and_crops_enlarged_by_the_same_factor(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build(spec, enlargement=2.0).eval()
    plain = build(spec).eval()
    plain.load_state_dict(network.state_dict())  # by the same names
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network(x), plain(F.interpolate(x, (64, 64), mode="bicubic")))
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x))  # as averages of weights copy it
    if spec is RESNET:
        crop = x[..., :24, :24]
        torch.testing.assert_close(network(crop), plain(F.interpolate(crop, (48, 48), mode="bicubic")))


@pytest.mark.parametrize(
    ("spec", "size"), [(RESNET, 64), pytest.param(VIT, 64, marks=pytest.mark.long), (RESNET, None)]
)
def test_it_is_saved_loaded_and_exported_for_pictures_of_the_size_of_the_data(
    spec: dict[str, Any], size: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    images = mosaics(32)
    record = trained(**spec, enlarged_size=size)
    network = build_recorded(record)
    spread(network, images, record.mean, record.std)
    logits = predict_logits(network, images, record.mean, record.std)
    assert np.ptp(logits) > 1

    save_model(tmp_path / "saved", network, record)
    loaded, read = load_model(tmp_path / "saved")
    assert read.enlarged_size == size
    assert np.array_equal(predict_logits(loaded, images, record.mean, record.std), logits)

    write_model(tmp_path / "exported", network, record, images, images, "sample", {})
    exported, *_ = score(open_session(tmp_path / "exported/model.onnx"), images, 0)
    rounded, _ = load_model(tmp_path / "exported")  # to 16 bits
    assert exported == pytest.approx(predict_logits(rounded, images, record.mean, record.std), abs=1e-4)
    assert exported == pytest.approx(logits, abs=0.02)
    assert Detector.load(tmp_path / "exported").predict(list(images[:2]))[0].notes == []


def test_what_a_traced_program_made_is_not_kept_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_matrices", {})
    network = build(RESNET, enlargement=1.5).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(network, (x,), strict=False).module()(x)
        assert type(network(x)) is torch.Tensor
        torch.testing.assert_close(network(x), exported)


def test_another_enlargement_is_another_network() -> None:
    torch.manual_seed(0)
    network = build_recorded(trained(**RESNET, enlarged_size=64))
    other = build_recorded(trained(**RESNET, enlarged_size=96))
    other.load_state_dict(network.state_dict())
    x = torch.randn(4, 3, 32, 32)
    assert not torch.allclose(network.eval()(x), other.eval()(x))


def test_scored_at_a_time_are_so_many_images_that_memory_suffices() -> None:
    plain, enlarged = build(RESNET), build(RESNET, enlargement=7.0)
    assert [evaluation_batch(plain, side) for side in (32, 64, 224, 512)] == [1000, 250, 20, 3]
    assert evaluation_batch(enlarged, 32) == 20


def test_a_record_without_it_is_of_a_model_that_enlarges_nothing() -> None:
    assert trained().network_size == 32
    assert trained(enlarged_size=64).network_size == 64
    with pytest.raises(ValueError, match="enlarged_size: 16 is less than input_size, 32"):
        trained(enlarged_size=16)


@pytest.mark.parametrize("size", [True, 64.0, "64", 4, 5000])
def test_what_is_no_size_is_told_in_one_line(size: Any) -> None:
    options = YAML(typ="safe").load(ROOT / "params.yaml")["train"]
    with pytest.raises(UserError, match=r"input_size is .* in params\.yaml: a number of pixels, 8 to 4096, or null"):
        check_options(options, TINY | {"input_size": size}, 0)


def test_a_size_that_does_not_fit_the_data_or_the_network_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"input_size is 48 in params\.yaml, but the images have 64 px .*: 64 or more"):
        make_network(TINY | {"input_size": 48}, OPTIONS, 64, CPU, "fp32")
    vit = TINY | VIT | {"args": {"img_size": 64, "dynamic_img_size": False}, "input_size": 128}
    with pytest.raises(UserError) as told:
        check_sides(make_network(vit, OPTIONS, 32, CPU, "fp32"), 32, None, "tiny", CPU)
    assert "tiny does not take images of 32x32 pixels (Input height (128) doesn't match model (64).)" in str(told.value)
    assert "models.tiny.args must be for 128 px" in str(told.value)


@pytest.mark.long
def test_images_of_64_px_are_trained_on_enlarged_evaluated_explained_and_exported(
    project: Project, train_here: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAKE images are bright here, REAL ones dark, so that one epoch suffices."""
    tiles = np.concatenate([mosaics(64)] * 12) // 2
    for name, count in (("train", 240), ("val", 60), ("test", 60)):
        labels = np.arange(count) % 2
        images = tiles[:count] + np.where(labels, 0, 100).astype(np.uint8)[:, None, None, None]
        write_split(project, name, images, labels, np.full(count, -1))
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2, "batch_size": 20, "input_size": 96}
    project.set(models__tiny=TINY | sgd, train__selective_accuracy=0.9, evaluate__explained=4)
    train_here()
    network, record = load_model("models/trained")
    assert (record.input_size, record.enlarged_size) == (64, 96)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1)
    assert record.validation.accuracy > 0.9

    monkeypatch.setattr(ood, "OTHER_PICTURES", 50)
    evaluate.main()
    assert json.loads(Path("metrics/test.json").read_text())["accuracy"] > 0.9
    export.main()
    assert json.loads(Path("metrics/export.json").read_text())["largest_difference"] < 1e-3
    explanation = Detector.load("models/exported").explain(images[0])
    assert explanation.prediction.p_fake > 0.5
    assert explanation.occlusion_map.shape == (8, 8)
