"""Training keeps its promises: it learns, repeats to the byte, and fails in one line with nothing lost."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from detector.calibration import choose_abstention_band, choose_threshold, fit_offset, fit_temperature
from detector.errors import UserError
from detector.labels import FAKE, probability
from stages.data import load_split
from stages.data import write_split as pack_split
from stages.model import SmallMapConv2d, build, load_model, predict_logits
from stages.params import load_params
from stages.train import __main__ as train
from stages.train.optimizer import learning_rate
from tests.conftest import TINY, Project, the_error


@pytest.fixture(scope="module")
def undisturbed(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished training, to compare with."""
    path = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(pipeline, path)
    return Project(path)


def test_a_trained_model_is_a_folder_that_explains_itself(undisturbed: Project) -> None:
    folder = undisturbed.path / "models/trained"
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    network, record = load_model(folder)
    train = load_split(undisturbed.path / "data/train")
    assert record.timm == "test_resnet"
    assert record.classes == ("FAKE", "REAL")
    assert record.data_digest == train.info["digest"]
    np.testing.assert_allclose(record.mean, train.images[:].mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(record.std, train.images[:].std((0, 1, 2)) / 255)

    # everything in model.json that was chosen on the validation split is what its images say
    val = load_split(undisturbed.path / "data/val")
    is_fake = val.labels == FAKE
    unflipped = predict_logits(network, val.images, record.mean, record.std)
    assert fit_offset(unflipped, is_fake) == pytest.approx(0, abs=0.01), "the network has it in it"
    share = load_params()["train"]["flip_tta"]
    assert (np.abs(unflipped) < record.flip_tta_margin).mean() == pytest.approx(share, abs=1 / len(val))
    logits = predict_logits(network, val.images, record.mean, record.std, record.flip_tta_margin)
    assert record.validation.accuracy == pytest.approx(((logits > 0) == is_fake).mean())
    assert record.temperature == pytest.approx(fit_temperature(logits, is_fake))
    assert record.temperature != pytest.approx(1, abs=1e-3), "then an unfitted one would pass as well"
    p_fake = probability(logits, record.temperature)
    assert record.threshold == pytest.approx(choose_threshold(p_fake, is_fake))
    assert record.abstention_band == pytest.approx(choose_abstention_band(p_fake, is_fake, 0.995))


def test_what_a_model_calls_fake_is_what_was_labelled_fake(project: Project, train_here: Callable[[], str]) -> None:
    """FAKE images are bright here, REAL ones dark."""
    random = np.random.default_rng(0)
    for name, count in (("train", 480), ("val", 120)):
        labels = np.arange(count) % 2
        images = random.integers(0, 100, (count, 32, 32, 3)) + np.where(labels == FAKE, 150, 0)[:, None, None, None]
        write_split(project, name, images.astype(np.uint8), labels, np.full(count, -1))
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2}  # Muon takes longer to learn this
    project.set(models__tiny=TINY | sgd, train__selective_accuracy=0.95)
    train_here()
    network, record = load_model(project.path / "models/trained")
    assert record.validation.accuracy > 0.95
    assert record.abstention_band != (0, 1), "120 images without a mistake prove 95 %"
    bright, dark = (np.full((1, 32, 32, 3), level, np.uint8) for level in (200, 50))
    assert predict_logits(network, bright, record.mean, record.std)[0] > 0, "the positive class is FAKE"
    assert predict_logits(network, dark, record.mean, record.std)[0] < 0


def write_split(project: Project, name: str, images: np.ndarray, labels: np.ndarray, objects: np.ndarray) -> None:
    """In the place of the one that `prepare` made."""
    path = project.path / f"data/{name}"
    info = load_split(path).info
    shutil.rmtree(path)
    columns: dict[str, np.ndarray] = {"labels": labels.astype(np.int64), "object_class": objects.astype(np.int8)}
    pack_split(path, images.shape, lambda start, stop: images[start:stop], columns, info)


def test_metrics_and_curves_of_every_epoch_are_logged(undisturbed: Project) -> None:
    metrics = json.loads((undisturbed.path / "metrics/train.json").read_text())
    assert metrics.keys() >= {
        *("best_epoch", "val_accuracy", "val_auroc", "epochs", "seconds", "images_per_second"),
        *("peak_memory_mb", "device", "parameters", "python", "torch", "timm"),
    }
    curves = undisturbed.path / "plots/training/plots/metrics"
    names = [f"{split}/{name}.tsv" for split in ("train", "val") for name in ("loss", "accuracy")]
    for name in (*names, "val/auroc.tsv", "learning_rate.tsv", "images_per_second.tsv"):
        header, *rows = (curves / name).read_text().split()[1::2]
        assert header == Path(name).stem
        assert len(rows) == TINY["epochs"], name
    least = 1 if torch.cuda.is_available() else 100  # torch itself, which counts where it is the process's memory
    assert least <= metrics["peak_memory_mb"] < 10_000
    accuracies = [float(value) for value in (curves / "val/accuracy.tsv").read_text().split()[3::2]]
    assert metrics["val_accuracy"] == round(max(accuracies), 6)
    assert accuracies[metrics["best_epoch"] - 1] == max(accuracies)
    assert metrics["val_accuracy"] * 240 == pytest.approx(round(metrics["val_accuracy"] * 240), abs=2e-4)
    assert len(str(metrics["val_accuracy"])) <= len("0.123456")
    saved = load_file(undisturbed.path / "models/trained/model.safetensors")
    learnt = [tensor.numel() for name, tensor in saved.items() if "running" not in name and "tracked" not in name]
    assert metrics["parameters"] == sum(learnt), "the auxiliary outputs are not part of the model"


def test_the_same_commit_and_params_give_the_same_bytes(
    project: Project, undisturbed: Project, train_here: Callable[[], str]
) -> None:
    train_here()
    assert project.weights() == undisturbed.weights()
    project.set(seed=1)
    train_here()
    assert project.weights() != undisturbed.weights()


def test_other_object_classes_are_another_training(
    project: Project, train_here: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the targets of the auxiliary task, so a training of others must not go on."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "make_network", interrupted)
    split = load_split(project.path / "data/train")
    folders = set()
    for objects in (np.arange(len(split)) % 10, np.arange(len(split)) % 5):
        write_split(project, "train", split.images[:], split.labels, objects)
        with pytest.raises(KeyboardInterrupt):
            train_here()
        folders |= {path.name for path in (project.path / ".dvc/tmp/train").iterdir()}
    assert len(folders) == 2


def test_outputs_are_replaced_together_or_not_at_all(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    here.set(seed=5, models__tiny__epochs=1)
    before = here.outputs()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "write_curves", full)
    with pytest.raises(OSError, match="No space left"):
        train.main()
    assert here.outputs() == before


@pytest.mark.long
def test_several_threads_give_the_same_bytes_too(project: Project) -> None:
    """What one thread computes cannot depend on which of them is first."""
    project.env["OMP_NUM_THREADS"] = "2"
    project.set(models__tiny__epochs=1)
    split = load_split(project.path / "data/train")  # few images: tests beside this one use the cores too
    write_split(project, "train", split.images[:480], split.labels[:480], split.object_class[:480])
    twice = "from stages.train.__main__ import main; main(); os.rename('models/trained', 'models/first'); main()"
    project.run(sys.executable, "-c", f"import os; {twice}")
    first = (project.path / "models/first/model.safetensors").read_bytes()
    assert first == (project.path / "models/trained/model.safetensors").read_bytes()


def test_which_object_is_shown_is_learnt_beside_and_left_out_of_the_model(
    project: Project, train_here: Callable[[], str]
) -> None:
    split = load_split(project.path / "data/train")
    objects = np.arange(len(split)) % 10  # the sample's names do not tell
    write_split(project, "train", split.images[:], split.labels, objects)
    losses = set()
    for weight in (0, 0.3):
        project.set(train__auxiliary_loss=weight, models__tiny__epochs=1)
        train_here()
        losses.add((project.path / "plots/training/plots/metrics/train/loss.tsv").read_text())
        network, _ = load_model(project.path / "models/trained")
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1)
    assert len(losses) == 2


def test_any_other_timm_network_is_one_more_entry(project: Project, train_here: Callable[[], str]) -> None:
    entry = TINY | {"timm": "test_efficientnet", "stem": None, "optimizer": "muon", "epochs": 1, "ema_decay": 0}
    project.set(models__another=entry, model="another")
    train_here()
    assert json.loads((project.path / "models/trained/model.json").read_text())["timm"] == "test_efficientnet"


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (
            {"model": "resnet81"},
            "model is 'resnet81'; params.yaml has resnet18, vit_tiny, resnet18_imagenet, quick, resnet18_224,",
        ),
        ({"models__tiny__timm": "tset_resnet"}, "did you mean test_resnet"),
        ({"models__tiny__args": {"no_such": 1}}, "no_such"),
        ({"models__tiny__stem": "deep"}, "conv, conv2, residual or null"),
        ({"models__tiny": {"timm": "test_resnet"}}, "lacks args, stem"),
        ({"models__tiny__optimizer": "adam"}, "sgd, adamw or muon"),
        ({"models__tiny__pretrained": "missing.safetensors"}, "missing.safetensors"),
        ({"train__precision": "fp16"}, "auto, fp32 or bf16"),
        ({"train__selective_accuracy": 99.5}, "train.selective_accuracy is 99.5 in params.yaml: a share below 1"),
        ({"train__flip_tta": True}, "train.flip_tta is True in params.yaml: a share of the images, 0 to 1"),
        (
            {"train__augment__corruption": 2},
            "train.augment.corruption is 2 in params.yaml: a share of the images, 0 to",
        ),
        ({"models__tiny__crop_epochs": 2}, "crop_epochs is 2 in params.yaml: a share of the epochs, 0 to 1"),
        (
            {
                "models__tiny": TINY
                | {"timm": "vit_tiny_patch16_224", "args": {"img_size": 32, "patch_size": 8}, "stem": None}
            },
            "tiny does not take crops of 24x24 pixels (Input height (24) doesn't match model (32).): "
            "set models.tiny.crop_epochs to 0",
        ),
        (
            {"train__auxiliary_loss": -0.3},
            "train.auxiliary_loss is -0.3 in params.yaml: a weight such as 0.3; 0 for",
        ),
        ({"train__processes": 0}, "train.processes is 0 in params.yaml: a number of processes, 1 or more"),
        ({"train__processes": 7}, "batch_size is 120 in params.yaml, which 7 processes (train.processes) cannot share"),
        ({"train__cuda_graph": True}, "train.cuda_graph is true in params.yaml, but there is no GPU here: set it to"),
        ({"train__cuda_graph": 1}, "train.cuda_graph is 1 in params.yaml: true or false"),
        ({"train__cuda_graph": True, "train__processes": 2}, "it is for one process"),
        ({"seed": True}, "seed is True in params.yaml: a whole number, 0 or more"),
        ({"train__augment__flip": "no"}, "train.augment.flip is 'no' in params.yaml: true or false"),
        ({"train__augment__translate": 32}, "train.augment.translate is 32 in params.yaml: pixels, 0 to 31"),
        ({"train__warmup": 1.5}, "train.warmup is 1.5 in params.yaml: a share of the steps, 0 to 1"),
        ({"train__gradient_clip": -1}, "train.gradient_clip is -1 in params.yaml: a norm such as 1.0"),
        ({"models__tiny__ema_decay": 1}, "ema_decay is 1 in params.yaml: below 1, as 0.98; 0 for no average"),
        ({"models__tiny__epochs": 0}, "epochs is 0 in params.yaml: a number of epochs, 1 or more"),
        ({"models__tiny__batch_size": 0}, "batch_size is 0 in params.yaml: a number of images, 1 or more"),
        ({"models__tiny__learning_rate": "fast"}, "learning_rate is 'fast' in params.yaml: a number such as 4e-3"),
        ({"models__tiny__weight_decay": -0.1}, "weight_decay is -0.1 in params.yaml: a number such as 0.05"),
        ({"models__tiny__pretrained": 1}, "pretrained is 1 in params.yaml: true, false or a path"),
        ({"models__tiny": TINY | {"input_sise": 96}}, "the key input_sise: did you mean input_size?"),
        (
            {"models__tiny": TINY | {"timm": "repvit_m0_9", "stem": None, "epochs": 1}},
            "repvit_m0_9 ends in RepVitClassifier, not in one linear layer: take another network",
        ),
        ({"models__tiny__learning_rate": 1e30, "train__gradient_clip": 0}, "the loss is not finite"),
    ],
)
def test_a_mistake_gets_one_line_and_earlier_outputs_stay(
    undisturbed: Project, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(undisturbed.path)
    before, document = undisturbed.outputs(), Path("params.yaml").read_text()
    undisturbed.set(**params)
    try:
        with pytest.raises(UserError) as error:
            train.main()
    finally:
        Path("params.yaml").write_text(document)
    assert told in str(error.value)
    assert "\n" not in str(error.value).strip()
    assert undisturbed.outputs() == before


@pytest.mark.long
def test_without_a_network_pretrained_weights_are_refused_in_one_line(project: Project) -> None:
    project.set(models__tiny__pretrained=True)
    project.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HF_HOME": str(project.path / "empty")}
    started = time.monotonic()
    line = the_error(project.stage("train", ok=False))
    assert "set models.<name>.pretrained to a local weights file, or to false" in line
    assert time.monotonic() - started < 60  # the hub's client alone would try again for a minute and a half


def test_without_prepared_data_it_says_how_to_get_them(project: Project, train_here: Callable[[], str]) -> None:
    shutil.rmtree(project.path / "data/val")
    with pytest.raises(UserError, match=r"dvc pull data/val"):
        train_here()


def test_training_starts_from_local_weights(project: Project, tmp_path: Path, train_here: Callable[[], str]) -> None:
    """Weights as timm saves them, of a network with 1,000 classes and its usual stem."""
    torch.manual_seed(7)
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    spec = {"timm": "test_resnet", "args": {}, "stem": "conv"}
    network = build(spec, str(tmp_path / "weights.safetensors"))
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1)

    save_file(weights, project.path / "weights.safetensors")
    project.set(models__tiny__pretrained="weights.safetensors", models__tiny__epochs=1, models__tiny__learning_rate=0.0)
    train_here()
    trained = load_file(project.path / "models/trained/model.safetensors")
    torch.testing.assert_close(trained["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_vit_weights_for_224_pixels_are_resampled_to_32(tmp_path: Path) -> None:
    weights = timm.create_model("test_vit").state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    spec = {"timm": "test_vit", "args": {"img_size": 32, "patch_size": 8}, "stem": None}
    network = build(spec, str(tmp_path / "weights.pth"))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1)
    assert torch.equal(network.state_dict()["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])


def test_numbers_like_1e_3_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("rate: 1e-3\nname: on\n")
    monkeypatch.chdir(tmp_path)
    assert load_params() == {"rate": 0.001, "name": "on"}


def test_the_residual_stem_does_not_depend_on_colour() -> None:
    torch.manual_seed(0)
    network = build({"timm": "test_resnet", "args": {}, "stem": "residual"}).eval()
    x = torch.randn(4, 3, 32, 32)
    colour = torch.randn(4, 3, 1, 1)
    torch.testing.assert_close(network(x + colour), network(x), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(network(x), network(x.roll(1, 0)), atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_small_maps_are_convolved_exactly(size: int, stride: int) -> None:
    torch.manual_seed(0)
    plain: nn.Module = nn.Conv2d(6, 5, 3, stride, padding=1, bias=False).double()
    quick: nn.Module = nn.Conv2d(6, 5, 3, stride, padding=1, bias=False).double()
    quick.__class__ = SmallMapConv2d
    quick.load_state_dict(plain.state_dict())
    x = torch.randn(4, 6, size, size, dtype=torch.double)
    one, other = plain(x), quick(x)
    torch.testing.assert_close(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(plain.weight.grad, quick.weight.grad)


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [learning_rate({"learning_rate": 0.2}, 0.25, step, 100) for step in range(1, 101)]
    assert rates.index(max(rates)) == 24
    assert max(rates) == 0.2
    assert np.all(np.diff(rates[:25]) > 0)
    assert np.all(np.diff(rates[24:]) < 0)
    assert 0 < rates[-1] < 0.004
