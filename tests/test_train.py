"""Training keeps its promises: resumes, repeats to the byte, and fails in one line with nothing lost."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import save_file as numpy_save_file
from safetensors.torch import load_file, save_file
from torch import nn

from detector.data import load_split
from detector.errors import UserError
from detector.metrics import probability
from detector.model import SmallMapConv2d, build, load, predict_logits
from stages import train
from stages.params import load_params
from stages.train import learning_rate
from tests.conftest import TINY, Project, the_error


def weights_digest(project: Project) -> str:
    return hashlib.sha256((project.path / "models/trained/model.safetensors").read_bytes()).hexdigest()


def outputs(project: Project) -> dict[str, bytes]:
    """All that a training writes, by path."""
    files = [path for name in ("models", "metrics", "plots") for path in (project.path / name).rglob("*")]
    return {str(path.relative_to(project.path)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def train_here(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Trains in this process, which saves the seconds that importing torch takes. Returns what was said."""
    monkeypatch.chdir(project.path)
    for name in ("DVC_ROOT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def train_here() -> str:
        train.main()
        return capsys.readouterr().out

    return train_here


def start(project: Project, *command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=project.path, env=project.env, stdout=pipe, stderr=pipe, text=True)


def wait_for_state(project: Project, process: subprocess.Popen[str]) -> None:
    """Until the first epoch is finished."""
    deadline = time.monotonic() + 600
    while not list(project.path.glob(".dvc/tmp/train/*/state.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished training, to compare with."""
    path = tmp_path_factory.mktemp("undisturbed") / "project"
    subprocess.run(["cp", "-r", prepared, path], check=True)
    project = Project(path)
    project.stage("train")
    return project


def test_a_trained_model_is_a_folder_that_explains_itself(undisturbed: Project) -> None:
    folder = undisturbed.path / "models/trained"
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    info = json.loads((folder / "model.json").read_text())
    train = load_split(undisturbed.path / "data/train.safetensors")
    assert info["timm"] == "test_resnet"
    assert info["classes"] == ["FAKE", "REAL"]
    assert info["data_digest"] == train.info["digest"]
    np.testing.assert_allclose(info["mean"], train.images.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(info["std"], train.images.std((0, 1, 2)) / 255)

    # what model.json says of the validation split is so, with a second look where the first is least sure
    val = load_split(undisturbed.path / "data/val.safetensors")
    network, info = load(folder)
    first_looks = np.abs(predict_logits(network, val.images, info | {"mirror": 0}, 1000))
    assert (first_looks < info["mirror"]).mean() == pytest.approx(load_params()["train"]["mirror"], abs=1 / len(val))
    logits = predict_logits(network, val.images, info, 1000)
    assert info["metrics"]["accuracy"] == pytest.approx(((logits > 0) == (val.labels == 0)).mean())
    right = ((probability(logits, info["temperature"]) >= info["threshold"]) == (val.labels == 0)).mean()
    assert right >= max(0.5, info["metrics"]["accuracy"] - 0.02)


def test_metrics_and_curves_of_every_epoch_are_logged(undisturbed: Project) -> None:
    metrics = json.loads((undisturbed.path / "metrics/train.json").read_text())
    assert metrics.keys() >= {
        *("best_epoch", "val_accuracy", "val_auroc", "epochs", "seconds", "images_per_second"),
        *("peak_memory_mb", "device", "parameters"),
    }
    curves = undisturbed.path / "plots/training/plots/metrics"
    names = [f"{split}/{name}.tsv" for split in ("train", "val") for name in ("loss", "accuracy")]
    for name in (*names, "val/auroc.tsv", "learning_rate.tsv", "images_per_second.tsv"):
        header, *rows = (curves / name).read_text().split()[1::2]
        assert header == Path(name).stem
        assert len(rows) == TINY["epochs"], name
    accuracies = [float(value) for value in (curves / "val/accuracy.tsv").read_text().split()[3::2]]
    assert metrics["val_accuracy"] == max(accuracies)
    assert accuracies[metrics["best_epoch"] - 1] == max(accuracies)


def test_the_same_commit_and_params_give_the_same_bytes(
    project: Project, undisturbed: Project, train_here: Callable[[], str]
) -> None:
    train_here()
    assert weights_digest(project) == weights_digest(undisturbed)
    project.set(seed=1)
    train_here()
    assert weights_digest(project) != weights_digest(undisturbed)


def test_several_threads_give_the_same_bytes_too(project: Project) -> None:
    """What one thread computes cannot depend on which of them is first."""
    project.env["OMP_NUM_THREADS"] = "2"
    project.set(models__tiny__epochs=1)
    digests = set()
    for _ in range(2):
        project.stage("train")
        digests.add(weights_digest(project))
        shutil.rmtree(project.path / "models/trained")
    assert len(digests) == 1


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_the_undisturbed_one(
    project: Project, undisturbed: Project, train_here: Callable[[], str]
) -> None:
    process = start(project, sys.executable, "-m", "stages.train")
    wait_for_state(project, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (project.path / "models/trained").exists()

    assert "going on after epoch" in train_here()
    assert weights_digest(project) == weights_digest(undisturbed)
    assert list((project.path / ".dvc/tmp/train").iterdir()) == []  # a finished run leaves no state
    rows = (project.path / "plots/training/plots/metrics/val/loss.tsv").read_text().splitlines()
    assert len(rows) == 1 + TINY["epochs"]


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_a_vit_and_its_optimizers_resume_to_the_byte_too(
    project: Project, train_here: Callable[[], str], optimizer: str
) -> None:
    vit = {"timm": "test_vit", "args": {"img_size": 32, "patch_size": 8}, "optimizer": optimizer, "learning_rate": 1e-3}
    project.set(models__tiny=TINY | vit)
    train_here()
    expected = weights_digest(project)
    process = start(project, sys.executable, "-m", "stages.train")
    wait_for_state(project, process)
    process.kill()
    process.communicate()
    assert "going on after epoch" in train_here()
    assert weights_digest(project) == expected


def test_a_queued_run_that_was_killed_goes_on_when_it_is_queued_again(project: Project, undisturbed: Project) -> None:
    project.repository()
    sweep = start(project, sys.executable, "-m", "stages.sweep", "-S", "seed=0")
    wait_for_state(project, sweep)
    kill_training(project)
    said, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, said + errors
    assert said.count(" failed: queued again as ") == 1, said
    again = said.split(" failed: queued again as ")[1].splitlines()[0]
    assert "going on after epoch" in project.run("dvc", "queue", "logs", again).stdout
    project.run("dvc", "exp", "apply", again)
    assert weights_digest(project) == weights_digest(undisturbed)


def kill_training(project: Project) -> None:
    """SIGKILL the training that works somewhere below the project's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            below = (process / "cwd").readlink().is_relative_to(project.path)
            if below and b"-m\0stages.train" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


def test_which_object_is_shown_is_learnt_beside_and_left_out_of_the_model(
    project: Project, train_here: Callable[[], str]
) -> None:
    path = project.path / "data/train.safetensors"
    split = load_split(path)
    objects = np.arange(len(split), dtype=np.int8) % 10  # the sample's names do not tell
    tensors = {"images": split.images, "labels": split.labels, "object_class": objects}
    path.unlink()
    numpy_save_file(tensors, path, {"split": json.dumps(split.info)})
    losses = set()
    for weight in (0, 0.3):
        project.set(train__object_loss=weight, models__tiny__epochs=1)
        train_here()
        losses.add((project.path / "plots/training/plots/metrics/train/loss.tsv").read_text())
        network, _ = load(project.path / "models/trained")
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
        ({"model": "resnet81"}, "model is 'resnet81'; params.yaml has resnet18, vit_tiny, quick, small_resnet, tiny"),
        ({"models__tiny__timm": "tset_resnet"}, "did you mean test_resnet"),
        ({"models__tiny__args": {"no_such": 1}}, "no_such"),
        ({"models__tiny__stem": "deep"}, "conv, conv2 or null"),
        ({"models__tiny": {"timm": "test_resnet"}}, "lacks args, stem"),
        ({"models__tiny__optimizer": "adam"}, "sgd, adamw or muon"),
        ({"models__tiny__pretrained": "missing.safetensors"}, "missing.safetensors"),
        ({"train__precision": "fp16"}, "auto, fp32 or bf16"),
        ({"train__sure": 99.5}, "train.sure is 99.5 in params.yaml: a share below 1"),
        ({"train__mirror": True}, "train.mirror is True in params.yaml: a share of the images, 0 to 1"),
        ({"train__augment__damage": 2}, "train.augment.damage is 2 in params.yaml: a share of the images, 0 to 1"),
        ({"models__tiny__cropped": 2}, "cropped is 2 in params.yaml: a share of the epochs, 0 to 1"),
        (
            {
                "models__tiny": TINY
                | {"timm": "vit_tiny_patch16_224", "args": {"img_size": 32, "patch_size": 8}, "stem": None}
            },
            "tiny cannot see 24x24 pixels (Input height (24) doesn't match model (32).): set models.tiny.cropped to 0",
        ),
        ({"train__object_loss": -0.3}, "train.object_loss is -0.3 in params.yaml: a weight such as 0.3; 0 for none"),
        ({"models__tiny__learning_rate": 1e30, "train__gradient_clip": 0}, "the loss is not finite"),
    ],
)
def test_a_mistake_gets_one_line_and_earlier_outputs_stay(
    undisturbed: Project, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(undisturbed.path)
    before, document = outputs(undisturbed), Path("params.yaml").read_text()
    undisturbed.set(**params)
    try:
        with pytest.raises(UserError) as error:
            train.main()
    finally:
        Path("params.yaml").write_text(document)
    assert told in str(error.value)
    assert "\n" not in str(error.value).strip()
    assert outputs(undisturbed) == before


def test_without_a_network_pretrained_weights_are_refused_in_one_line(project: Project) -> None:
    project.set(models__tiny__pretrained=True)
    project.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HF_HOME": str(project.path / "empty")}
    started = time.monotonic()
    line = the_error(project.stage("train", ok=False))
    assert "set models.<name>.pretrained to a local weights file, or to false" in line
    assert time.monotonic() - started < 60  # the hub's client alone would try again for a minute and a half


def test_without_prepared_data_it_says_how_to_get_them(project: Project) -> None:
    (project.path / "data/val.safetensors").unlink()
    assert "dvc pull data/val.safetensors" in the_error(project.stage("train", ok=False))


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_a_run_takes_one_line_and_leaves_no_half_written_model(
    project: Project, sent: signal.Signals, status: int
) -> None:
    process = start(project, sys.executable, "-m", "stages.train")
    wait_for_state(project, process)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode == status
    assert [line for line in errors.splitlines() if "error: " in line], errors
    assert "Traceback" not in errors
    assert outputs(project).keys() <= {"metrics/prepare.json", "metrics/.gitignore", "models/.gitignore"}


def test_out_of_memory_is_one_line(project: Project) -> None:
    project.set(models__tiny__batch_size=2100, models__tiny__timm="resnet50", models__tiny__stem=None)

    def limit_memory() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2_000_000_000, 2_000_000_000))

    result = project.stage("train", ok=False, preexec_fn=limit_memory)
    assert result.returncode == 1
    assert "out of memory: lower batch_size" in the_error(result)
    assert not (project.path / "models/trained").exists()


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
