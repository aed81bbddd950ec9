"""The optimizer and its learning rate.

Muon is momentum whose matrices are made orthogonal before they are applied: Jordan et al. 2024, "Muon: An optimizer for
hidden layers in neural networks" (kellerjordan.github.io/posts/muon). Its updates are scaled as by Liu et al. 2025,
"Muon is Scalable for LLM Training" (arXiv 2502.16982), so that Muon and AdamW share one learning rate and weight decay.
"""

from collections import defaultdict
from typing import Any

import torch

from detector.errors import UserError

MOMENTUM = 0.95
STEPS = 3  # of Newton and Schulz's iteration; Jordan has 5, which costs more than it gains where images are small
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Jordan's, steep at 0: small singular values grow in few steps


def make_optimizer(network: Any, spec: dict[str, Any], precision: str) -> torch.optim.Optimizer:
    """Return the optimizer of one entry of `models`.

    Weight decay is for matrices and kernels only; biases, norms, position embeddings and whatever else timm says go
    without. Raises UserError for an optimizer that is not known.
    """
    hidden: list[torch.nn.Parameter] = []
    # of the first layer, which sees colours, and the last, which gives logits; and kernels of one channel each
    outer: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    last = {id(parameter) for parameter in network.get_classifier().parameters()}
    without = {"pos_embed", "cls_token"} | set(getattr(network, "no_weight_decay", set)())
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or name in without:
            others.append(parameter)
        else:
            (outer if parameter.shape[1] <= 3 or id(parameter) in last else hidden).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": spec["weight_decay"], "orthogonal": True},
        {"params": outer, "weight_decay": spec["weight_decay"], "orthogonal": False},
        {"params": others, "weight_decay": 0.0, "orthogonal": False},
    ]
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=spec["learning_rate"], momentum=0.9, nesterov=True, fused=True)
    if spec["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=spec["learning_rate"], betas=(0.9, 0.98), fused=True)
    if spec["optimizer"] == "muon":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Muon(groups, spec["learning_rate"], (0.9, 0.98), dtype)
    raise UserError(f"optimizer is {spec['optimizer']!r}: sgd, adamw or muon")


def learning_rate(spec: dict[str, Any], warmup: float, step: int, steps: int) -> float:
    """Return the rate of a step, counted from 1: it rises linearly over the first `warmup` share of the steps, then
    falls linearly to zero."""
    rising = max(1, round(warmup * steps))
    return spec["learning_rate"] * min(step / rising, (steps - step + 1) / (steps - rising + 1))


class Muon(torch.optim.AdamW):
    """Muon for the groups of parameters with `orthogonal=True` (matrices; kernels count as one row an output channel),
    AdamW for the others. `dtype` is what the orthogonalization computes in: bf16 where the hardware has it."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], dtype: torch.dtype) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        self.dtype = dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's asks every parameter for its own moments

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group["orthogonal"]:
                self.update(group)
        super().step(closure)

    def update(self, group: dict[str, Any]) -> None:
        """Update the parameters of a group. What can be done to all of them in one operation is: a GPU waits for the
        program that starts them."""
        parameters = group["params"]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        same_shape = defaultdict(list)  # one batch of products instead of many small ones
        for parameter, direction in zip(parameters, directions, strict=True):
            same_shape[parameter.shape].append((parameter, direction.flatten(1)))
            parameter.grad = None  # AdamW passes over it
        for shape, pairs in same_shape.items():
            updates = orthogonalize(torch.stack([direction for _, direction in pairs]), self.dtype)
            # an update has the size of AdamW's, a root mean square of 0.2 times the learning rate
            size = 0.2 * max(updates.shape[1:]) ** 0.5
            factor = -group["lr"] * size
            if isinstance(factor, torch.Tensor):  # as `alpha` the host would read it
                updates, factor = updates * factor, 1
            alike = [parameter for parameter, _ in pairs]
            torch._foreach_add_(alike, [update.view(shape) for update in updates], alpha=factor)


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N, rows, columns) to matrices of the same singular vectors, float32. Their larger singular values become about 1
    (0.7 to 1.2), those far below the largest stay smaller."""
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).float()
