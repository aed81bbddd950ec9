"""`models.<name>.pretrained`: training starts from weights that somebody else trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from detector.errors import UserError
from detector.files import file_sha256
from stages import fingerprint
from stages.model import build
from stages.params import load_params, model_entry
from tests.conftest import ROOT, Project, copy_project
from tools import unpack

RESNET: dict[str, Any] = {"timm": "test_resnet", "args": {}, "stem": None}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that come with every clone."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "released", folder / "released")
    (folder / "models").mkdir()
    shutil.copy(ROOT / "models/pretrained.dvc", folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        unpack.main([])
    return folder / "models/pretrained"


def test_every_clone_has_the_imagenet_weights_with_licence_and_origin(imagenet: Path) -> None:
    assert "MIT" in (imagenet / "LICENSE").read_text()
    weights = imagenet / "resnet18-imagenet.safetensors"
    begin, end = file_sha256(weights)[:8], file_sha256(weights)[-6:]
    assert f"{begin}… {end}".replace(" ", "") in (imagenet / "README.md").read_text()


def test_the_published_entry_starts_from_them_as_they_are_meant(imagenet: Path) -> None:
    """Norm and largest channel of the last maps' mean, as the weights' README says for two pictures."""
    spec = model_entry(load_params() | {"model": "resnet18_imagenet"})
    assert spec["pretrained"] == "models/pretrained/resnet18-imagenet.safetensors"
    network: Any = build(spec, str(imagenet / "resnet18-imagenet.safetensors")).eval()
    grey = np.full((224, 224, 3), 128, np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 223, 224, dtype=np.uint8)[None, :, None], (224, 224, 3))
    x = torch.from_numpy(np.stack([grey, ramp])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        features = network.forward_features((x - mean) / std).mean((2, 3))
    assert features.norm(dim=1).tolist() == pytest.approx([21.52, 28.04], abs=0.01)
    assert features.argmax(dim=1).tolist() == [133, 133]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    with pytest.raises(UserError, match=r"weights\.safetensors are not of test_resnet: they lack conv1\.0\.weight"):
        build(RESNET, str(file))
    lacking = timm.create_model("test_resnet").state_dict()
    del lacking["layer2.0.conv1.weight"]
    save_file(lacking, file)
    with pytest.raises(UserError, match=r"they lack layer2\.0\.conv1\.weight"):
        build(RESNET, str(file))


def test_a_file_that_holds_more_than_tensors_is_not_opened(tmp_path: Path) -> None:
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict(), "run": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth cannot be read: it has pickled objects"):
        build(RESNET, str(tmp_path / "x.pth"))


def test_the_same_seed_gives_the_same_start_from_a_file(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "x.safetensors")
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        network: Any = build(RESNET, str(tmp_path / "x.safetensors"))
        heads.append(torch.cat([network.get_classifier().weight.flatten(), torch.rand(2)]))
    assert torch.equal(*heads)


def test_a_changed_file_trains_anew_and_a_missing_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage `train` depends on models/pretrained.json, which the first stage writes."""
    copy_project(tmp_path)
    project, noted, file = Project(tmp_path), tmp_path / "models/pretrained.json", tmp_path / "weights/own.safetensors"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def written() -> dict[str, str]:
        fingerprint.main()
        found: dict[str, str] = json.loads(noted.read_text())
        return found

    assert written() == {"pretrained": False}
    project.set(models__tiny__pretrained="weights/own.safetensors")
    file.parent.mkdir()
    file.write_bytes(b"1")
    first = written()
    assert written() == first
    file.write_bytes(b"2")
    second = written()
    assert second["sha256"] != first["sha256"]
    file.unlink()
    assert written() == second, "what is not here cannot have changed"

    noted.unlink()
    advice = "put the file there, or set models.<name>.pretrained"
    with pytest.raises(UserError, match=rf"the weights weights/own\.safetensors are not here: {advice}"):
        fingerprint.main()
    (tmp_path / "weights.dvc").touch()
    with pytest.raises(UserError, match="are not here: `dvc pull weights` fetches them"):
        fingerprint.main()
