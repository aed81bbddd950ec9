"""The frozen extractor of adapted models: features that were learned on ImageNet, of any picture.

features.onnx, here and in the folder of each adapted model, computes them (tools/features.py wrote it): the network
ResNet-18 up to its third stage, and of the maps of each stage their means and standard deviations over the picture. Its
weights lie beside it in features.safetensors, 2.8 million numbers: a part of models/pretrained.
"""

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from detector.errors import UserError
from detector.files import file_sha256
from detector.places import model_folder

GRAPH = Path(__file__).with_name("features.onnx")
PRETRAINED = Path("models/pretrained")
WEIGHTS, LICENSE = "features.safetensors", "features.LICENSE"  # beside the graph
# Of features.safetensors, in which the graph reads by offsets.
WEIGHTS_SHA256 = "bfd91089384eabbfd8fff7a8120450d2c0648ac2311c906406c2b0a09b8b26b8"
LAYERS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")  # of the network; its last stage is left out
LEAST_SIDE = 128  # px: smaller pictures are enlarged to it


def write_extractor(folder: Path) -> None:
    """Write the extractor's three files into a folder. Raises UserError where models/pretrained is missing or other."""
    pretrained = model_folder(PRETRAINED)
    source = pretrained / "resnet18-imagenet.safetensors"
    try:
        write_weights(source, folder / WEIGHTS)
        shutil.copy(pretrained / "LICENSE", folder / LICENSE)
    except FileNotFoundError as error:
        raise UserError(
            f"no {error.filename or source}: `dvc pull {PRETRAINED}` fetches it; outside a clone `python -m detector "
            "fetch pretrained`"
        ) from None
    except SafetensorError as error:
        raise UserError(f"{source} is broken ({error}): `dvc pull --force {PRETRAINED}` fetches it anew") from None
    if file_sha256(folder / WEIGHTS) != WEIGHTS_SHA256:
        raise UserError(f"{source} is not the file that {GRAPH.name} reads: `dvc pull --force {PRETRAINED}`")
    shutil.copy(GRAPH, folder)


def write_weights(source: Path, path: Path) -> None:
    """Write the tensors of a ResNet-18 that the extractor needs."""
    with safe_open(source, "np") as file:
        names = [name for name in file.keys() if name.startswith(LAYERS) and "num_batches" not in name]  # noqa: SIM118
        save_file({name: file.get_tensor(name) for name in names}, path)
