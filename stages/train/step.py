"""One step of training, from the pixels to the averaged weights. Nothing in it waits for the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from stages.model import standardize
from stages.train.average import WeightAverage
from stages.train.graph import Rate, Step


def make_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    augmented: Callable[[torch.Tensor], torch.Tensor],
    statistics: tuple[torch.Tensor, torch.Tensor],
    spec: dict[str, Any],
    options: dict[str, Any],
    precision: str,
) -> Step:
    """Return the step: pixels, as `read_batches` gives them, targets, int64 (B, 2), and the learning rate, a number or
    a tensor () on the device -> the loss () and how many images the network got right ().

    augmented: what `augmentation` returns. statistics: what `scale_of_bytes` returns.
    """

    def step(pixels: torch.Tensor, y: torch.Tensor, rate: Rate) -> tuple[torch.Tensor, torch.Tensor]:
        x = standardize(augmented(pixels), *statistics)
        loss, logits = train_step(network, optimizer, x, y, rate, options, precision)
        if spec["ema_decay"]:
            average.update(spec["ema_decay"])
        return loss, ((logits > 0) == (y[:, 0] == 1)).sum()

    return step


def train_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    rate: Rate,
    options: dict[str, Any],
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Update the network once, on normalized images x (B, 3, H, W) and int64 y (B, 2): whether FAKE, and the object
    class or -1.

    Returns the loss () and the logits (B) of FAKE, detached.
    """
    loss, logits = backward(network, x, y, options["auxiliary_loss"], precision)
    update(network, optimizer, rate, options["gradient_clip"])
    return loss, logits


def backward(
    network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, auxiliary_loss: float, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradients, and return what `train_step` does. The object class is an auxiliary task: the network's
    outputs after the first are its logits."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        outputs = network(x)
    logits, auxiliary_logits = outputs[:, 0].float(), outputs[:, 1:].float()
    loss = F.binary_cross_entropy_with_logits(logits, y[:, 0].float())
    total = loss
    if auxiliary_loss:
        auxiliary = F.cross_entropy(auxiliary_logits, y[:, 1], ignore_index=-1, reduction="sum") / len(y)
        total = loss + auxiliary_loss * auxiliary
    network.zero_grad()
    total.backward()
    return loss.detach(), logits.detach()


def update(network: torch.nn.Module, optimizer: torch.optim.Optimizer, rate: Rate, gradient_clip: float) -> None:
    """Change the weights by their gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    if gradient_clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_clip)
    optimizer.step()
