"""The network at the start of a training, in the form in which it trains fastest, and at its end."""

from typing import Any

import torch

from detector.errors import UserError, is_out_of_memory
from stages.data import OBJECT_CLASSES
from stages.device import device_name
from stages.model import build, seen_side
from stages.params import weights_path


def make_network(
    spec: dict[str, Any], options: dict[str, Any], side: int, device: torch.device, precision: str
) -> torch.nn.Module:
    """Return the network at the start, for images of `side` px, on its device, in the form in which it trains fastest.

    Raises UserError for an `input_size` below `side`, for missing weights, for a network whose last layer is not one
    of logits, and for what `build` refuses.
    """
    enlargement = (spec["input_size"] or side) / side
    if enlargement < 1:
        raise UserError(
            f"input_size is {spec['input_size']} in params.yaml, but the images have {side} px and are never made "
            f"smaller: {side} or more, or null"
        )
    # after the logit of FAKE those of the object classes, a second task while training
    outputs = 1 + len(OBJECT_CLASSES) if options["auxiliary_loss"] else 1
    weights = weights_path(spec["pretrained"])
    pretrained = bool(spec["pretrained"]) if weights is None else str(weights)
    network: Any = build(spec, pretrained, outputs, enlargement).to(memory_format=torch.channels_last).to(device)
    last = network.get_classifier()
    if not isinstance(last, torch.nn.Linear | torch.nn.Conv2d):  # `keep_first_output` cuts it
        raise UserError(f"{spec['timm']} ends in {type(last).__name__}, not in one linear layer: take another network")
    if device.type == "cpu" and precision == "bf16":
        modules: list[Any] = list(network.modules())
        for module in modules:
            if hasattr(module, "fused_attn"):  # in bf16 a step of vit_tiny takes 2.7 times as long with torch's own
                module.fused_attn = False
    return network


def pretrained_statistics(network: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the images that timm's weights of this network were trained on, on the scale of 0 to
    1: what they want their input to have."""
    return tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])


def keep_first_output(network: Any, offset: float) -> None:
    """Leave a trained network the logit of FAKE alone, with `offset` added, and without the object classes. A last
    layer that has no bias keeps its logit as it is."""
    classifier = network.get_classifier()
    for name, parameter in list(classifier.named_parameters()):
        added = offset if name == "bias" else 0.0
        setattr(classifier, name, torch.nn.Parameter(parameter[:1].detach() + added))


@torch.no_grad()
def check_sides(network: torch.nn.Module, side: int, crop: int | None, name: str, device: torch.device) -> None:
    """Raise UserError for a network that does not take the images, of `side` px, or their crops, where it gets any."""
    network.eval()  # leaves its running means alone
    whole = f"models.{name}.args must be for {seen_side(network, side)} px, as img_size says it of ViTs"
    trials = [("images", side, whole)]
    if crop:
        trials.append(("crops", crop, f"set models.{name}.crop_epochs to 0"))
    for what, tried, to_do in trials:
        try:
            network(torch.zeros(1, 3, tried, tried, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"{name} does not take {what} of {tried}x{tried} pixels ({error}): {to_do}") from None


def compute_deterministically() -> None:
    """Let torch choose kernels that give the same bytes each time, on one device."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # torch would fill each empty tensor first, in case a program reads it: as many operations again as a step has
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return bf16 or fp32: for `auto` bf16 where it is quicker. Raises UserError for any other value."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise UserError(f"train.precision is {wanted!r}: auto, fp32 or bf16")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    # Emulated bf16 is slower than fp32. With AVX512, resnet18 trains in bf16 at 0.7 of fp32's rate on Intel, and at 1.4
    # times it on AMD.
    quick = torch.cpu._is_avx512_bf16_supported() and "AMD" in device_name()
    return "bf16" if quick or torch.cpu._is_amx_tile_supported() else "fp32"
