"""The network: a timm model whose first output is the logit of FAKE, and the folder it is saved in.

The folder holds `model.safetensors`, the weights, and `model.json`, everything else about the model
(detector/record.py).
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from detector.errors import UserError
from detector.files import atomic_write
from detector.record import ModelRecord
from detector.sizes import images_at_a_time
from stages.data import MappedImages

EVALUATION_BATCH = 1000  # images of 32 px scored at a time


class SmallMapConv2d(nn.Conv2d):
    """A padded 3x3 convolution that is computed as a matrix product on maps of 2x2 and 1x1.

    The last stages of a network at 32 px see such maps, where most taps of the kernel meet padding only. The product
    leaves those out, up to 9 times the work, and gives the same values and gradients. Measured on two cores: the
    whole training step of resnet18 is 1.7 times as fast.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        height, width = x.shape[-2:]
        if height > 2 or width > 2:
            return super().forward(x)
        (down, across), weight = self.stride, self.weight
        rows, columns = -(-height // down), -(-width // across)
        # output (i, j) meets input (a, b) through the tap (a - down * i + 1, b - across * j + 1)
        taps = [
            weight[:, :, 1 - down * i : 1 - down * i + height, 1 - across * j : 1 - across * j + width]
            for i in range(rows)
            for j in range(columns)
        ]
        dense = torch.stack(taps, dim=1).flatten(2).flatten(0, 1)
        y = F.linear(x.flatten(1), dense).view(-1, self.out_channels, rows, columns)
        return y.contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """The noise residual of an image: what is left when its 3x3 local mean is taken away, a high-pass filter.

    Generators leave their traces in it, while colours and subjects are gone. In the field it is the first step of the
    spatial rich model (SRM; Fridrich and Kodovsky 2012, "Rich Models for Steganalysis of Digital Images") and, learned,
    of Bayar and Stamm's constrained convolution (2016, "A Deep Learning Approach to Universal Image Manipulation
    Detection Using a New Convolutional Layer").
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Enlarged(nn.Module):
    """A timm network that sees its images enlarged: bicubic, in the batch, on the device of the network.

    `build` makes a subclass of it and of timm's class. A module around the network would hide timm's methods and rename
    the weights.
    """

    enlargement: float  # the side that the network sees over that of the image; the same for crops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 3, H, W) -> logits (N, outputs)."""
        return super().forward(self.enlarge(x))

    def forward_intermediates(self, x: torch.Tensor, **options: Any) -> Any:
        """timm's, on the enlarged images."""
        return super().forward_intermediates(self.enlarge(x), **options)  # type: ignore[misc]

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        """x: float32 (N, 3, H, W) -> the same, larger: `F.interpolate` but for rounding, as two products of matrices.

        On a CPU that is 7 times as fast; in onnxruntime, interpolation was a fifth of an answer.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, columns = (bicubic_matrix(side, round(self.enlargement * side), x.device) for side in x.shape[2:])
            return (rows @ x @ columns.T).contiguous(memory_format=torch.channels_last)


_matrices: dict[tuple[int, int, torch.device], torch.Tensor] = {}


def bicubic_matrix(side: int, enlarged: int, device: torch.device) -> torch.Tensor:
    """float32 (enlarged, side): what makes a row of `side` pixels one of `enlarged`."""
    if (known := _matrices.get((side, enlarged, device))) is not None:
        return known
    with torch.inference_mode(False):
        identity = torch.eye(side, device=device)
        matrix = F.interpolate(identity[None, None], (enlarged, side), mode="bicubic")[0, 0]
    if type(matrix) is torch.Tensor:  # it is none while a program is traced
        _matrices[side, enlarged, device] = matrix
    return matrix


def conv_bn_relu(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def build(
    spec: dict[str, Any], pretrained: bool | str = False, outputs: int = 1, enlargement: float = 1.0
) -> nn.Module:
    """Make the network of one entry of params.yaml's `models`: (N, 3, H, W) float32 -> (N, outputs) logits, the first
    that of FAKE.

    spec: `timm` is a timm name, `args` are arguments for timm.create_model. `stem` is what replaces the first layers:
    `null` keeps timm's own. `conv` puts 3x3 convolutions for small images there. A ResNet gets two of stride 2 in place
    of its 7x7 convolution and max-pool. A ViT gets five, three of them of stride 2, in place of its 8x8 patches (Xiao
    et al. 2021, arXiv 2106.14881). `conv2`, for ResNets, has one convolution of stride 2 only: maps of 16x16, four
    times the work. `residual`, for ResNets, is `conv` on the noise residual of the image (`Residual`). Its other keys
    do not matter here.
    pretrained: True for timm's weights from the hub, a path for a local file of them, in timm's or torchvision's names
    (safetensors, or a state dict of torch's, of which no pickled object is made), False for random weights.
    enlargement: the side that the network sees, for which `args` must be meant, over that of the images.
    Raises UserError for what timm refuses, and where the weights cannot be had or are those of another network.
    """
    name, args = spec["timm"], spec["args"] or {}
    if pretrained is True:
        _do_not_wait_for_the_hub()
    random_state = torch.get_rng_state()
    try:
        network = timm.create_model(name, pretrained=pretrained is True, num_classes=outputs, **args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        close = [] if timm.is_model(name) else difflib.get_close_matches(name, timm.list_models())
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(f"timm cannot make {name} with the args {args}: {error}{hint}") from None
    except OSError as error:
        raise UserError(
            f"no pretrained weights for {name} ({type(error).__name__}): connect to the network, or set "
            "models.<name>.pretrained to a local weights file, or to false"
        ) from None
    if isinstance(pretrained, str):
        torch.set_rng_state(random_state)
        untrained, overlay = network, {"file": pretrained}
        try:
            network = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=outputs, **args
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            if "weights_only" in reason:  # torch advises to read them all the same
                reason = "it has pickled objects, which are never read: save its tensors as safetensors"
            raise UserError(f"the weights {pretrained} cannot be read: {reason}") from None
        _check_loaded(network, untrained, name, pretrained)
    if spec["stem"] is not None:
        _replace_stem(network, name, spec["stem"])
    for module in network.modules():
        if type(module) is nn.Conv2d and _fits_small_maps(module):
            module.__class__ = SmallMapConv2d
    if enlargement != 1:
        theirs = type(network)
        network.__class__ = type(f"Enlarged{theirs.__name__}", (Enlarged, theirs), {"enlargement": enlargement})
    return network


def build_recorded(record: ModelRecord) -> nn.Module:
    """Make the network of a saved model, with random weights."""
    return build(record.model_dump(), enlargement=record.network_size / record.input_size)


def seen_side(network: nn.Module, side: int) -> int:
    """Return the side, in pixels, that images of `side` px have when the network sees them."""
    return round(network.enlargement * side) if isinstance(network, Enlarged) else side


def evaluation_batch(network: nn.Module, side: int) -> int:
    """Return how many images of `side` px are scored at a time."""
    return images_at_a_time(EVALUATION_BATCH, seen_side(network, side))


def _do_not_wait_for_the_hub() -> None:
    """Without a network connection, use weights that were downloaded before, or fail at once: the hub's client would
    try again for a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever the client's HTTP library raises
        constants.HF_HUB_OFFLINE = True


def _check_loaded(network: Any, untrained: nn.Module, name: str, path: str) -> None:
    """Raise UserError where a kernel or matrix still has the random numbers it would have without the file: timm passes
    over names that it does not find there."""
    classifier = {id(parameter) for parameter in network.get_classifier().parameters()}
    before = dict(untrained.named_parameters())
    for key, parameter in network.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in classifier and torch.equal(parameter, before[key]):
            raise UserError(f"the weights {path} are not of {name}: they lack {key}")


def _fits_small_maps(module: nn.Conv2d) -> bool:
    return (
        module.kernel_size == (3, 3)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.bias is None
    )


def _replace_stem(network: Any, name: str, stem: str) -> None:
    if stem in ("conv", "conv2", "residual") and issubclass(type(network), timm.models.ResNet):
        width = network.bn1.num_features
        network.conv1 = nn.Conv2d(3, width, 3, 2, padding=1, bias=False)
        network.maxpool = nn.Identity() if stem == "conv2" else nn.Sequential(*conv_bn_relu(width, width, stride=2))
        if stem == "residual":
            network.conv1 = nn.Sequential(Residual(), network.conv1)
    elif stem == "conv" and issubclass(type(network), timm.models.VisionTransformer):
        width = network.embed_dim
        layers = [(3, width // 4, 2), (width // 4, width // 4, 1), (width // 4, width // 2, 2)]
        layers += [(width // 2, width // 2, 1), (width // 2, width, 2)]
        steps = [module for layer in layers for module in conv_bn_relu(*layer)]
        network.patch_embed.proj = nn.Sequential(*steps, nn.Conv2d(width, width, 1))
    elif stem in ("conv", "conv2", "residual"):
        raise UserError(
            f"stem: {stem} is not for {name}: conv is for timm's ResNet and VisionTransformer, conv2 and residual for "
            "ResNet"
        )
    else:
        raise UserError(f"stem is {stem!r}: conv, conv2, residual or null")


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in channels_last, less the model's mean, over its deviation."""
    return standardize(images, *scale_of_bytes(mean, std, images.device))


def scale_of_bytes(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, each float32 (1, 3, 1, 1) on the device, on the scale of 0 to 255: model.json has both
    on that of 0 to 1, as timm and torchvision do."""
    center = torch.tensor(mean, device=device).mul_(255).view(1, 3, 1, 1)
    return center, torch.tensor(std, device=device).mul_(255).view(1, 3, 1, 1)


def standardize(images: torch.Tensor, center: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Do what `normalize` does, with what `scale_of_bytes` gave: no number comes from the host."""
    return images.permute(0, 3, 1, 2).float().sub_(center).div_(scale)


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    images: np.ndarray | torch.Tensor | MappedImages,
    mean: Sequence[float],
    std: Sequence[float],
    flip_tta_margin: float = 0.0,
    batch_size: int | None = None,
) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float32 (N) logits of FAKE.

    Where |logit| is below `flip_tta_margin`, the horizontally flipped image is scored as well, and the mean of both is
    the logit (flip test-time augmentation).

    Runs on the device of the network, in float32 whatever the precision of the training: logits of different devices
    differ by rounding only. `batch_size`: images at a time, without it as `evaluation_batch` says.
    """
    network.eval()
    batch_size = batch_size or evaluation_batch(network, images.shape[1])
    device = next(network.parameters()).device
    logits = []
    for start in range(0, len(images), batch_size):
        x = normalize(torch.as_tensor(images[start : start + batch_size]).to(device), mean, std)
        y = network(x)[:, :1]
        if len(close := (y.abs() < flip_tta_margin).squeeze(1).nonzero().squeeze(1)):
            y[close] = (y[close] + network(x[close].flip(3))[:, :1]) / 2
        logits.append(y)
    return torch.cat(logits).squeeze(1).float().cpu().numpy()


def save_model(folder: str | Path, network: nn.Module, record: ModelRecord) -> None:
    """Write a model folder whole, in place of what is there. The same weights and record give the same bytes."""
    with atomic_write(folder) as new:
        new.mkdir()
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, new / "model.safetensors")
        record.write(new)


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelRecord]:
    """Read a model folder: the network, ready to predict, and its record. Raises UserError when it is not whole."""
    folder = Path(folder)
    try:
        record = ModelRecord.read(folder)
        record.check_files(folder, "model.safetensors")
        network = build_recorded(record)
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError:
        advice = "`dvc repro train` makes it, `dvc pull train` fetches it"
        raise UserError(f"no model in {folder} (model.safetensors and model.json): {advice}") from None
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"the model in {folder} is broken: {error}") from None
    return network.to(memory_format=torch.channels_last).to(device).eval(), record
