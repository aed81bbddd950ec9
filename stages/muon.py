"""Muon: momentum whose matrices are made orthogonal before they are used.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon);
Liu et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982) for the scale of the update, with which one
learning rate and weight decay serve both kinds of parameters.
"""

from collections import defaultdict
from typing import Any

import torch

MOMENTUM = 0.95
STEPS = 3  # of Newton and Schulz's iteration; Jordan has 5, which costs more than it gains where images are small
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Jordan's, steep at 0: small singular values grow in few steps


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
        same_shape = defaultdict(list)  # one batch of products instead of many small ones
        for parameter in group["params"]:
            same_shape[parameter.shape].append(parameter)
        for shape, parameters in same_shape.items():
            directions = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                directions.append(parameter.grad.lerp(state["momentum"], MOMENTUM).flatten(1))  # Nesterov's
                parameter.grad = None  # AdamW passes over it
            updates = orthogonalize(torch.stack(directions), self.dtype)
            # an update has the size of AdamW's, a root mean square of 0.2 times the learning rate
            size = 0.2 * max(updates.shape[1:]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(shape), alpha=-group["lr"] * size)


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N, rows, columns) to matrices of the same singular vectors, with all singular values near 1; float32."""
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
