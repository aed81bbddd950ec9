"""Muon: torch's own where torch has it (matrices), and the same for kernels."""

from typing import Any

import pytest
import timm
import torch

from stages.train import optimizer as module
from stages.train.optimizer import Muon, make_optimizer, orthogonalize


def group(*parameters: torch.Tensor, orthogonal: bool) -> dict[str, Any]:
    return {"params": list(parameters), "weight_decay": 0.1, "orthogonal": orthogonal}


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_a_matrix_is_updated_as_torch_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizer = Muon([group(ours, orthogonal=True)], 0.1, (0.9, 0.98), torch.bfloat16)
    reference = torch.optim.Muon(
        [theirs],
        lr=0.1,
        weight_decay=0.1,
        momentum=module.MOMENTUM,
        ns_steps=module.STEPS,
        adjust_lr_fn="match_rms_adamw",
    )
    for _ in range(5):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # rounding to bf16, in another order
    assert (ours - 1).abs().mean() > 0.05


def test_a_kernel_counts_as_one_row_an_output_channel() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(8, 4, 3, 3)
    kernel, matrix = torch.nn.Parameter(torch.zeros(8, 4, 3, 3)), torch.nn.Parameter(torch.zeros(8, 36))
    for parameter in (kernel, matrix):
        parameter.grad = gradient.clone().view(parameter.shape)
        Muon([group(parameter, orthogonal=True)], 0.1, (0.9, 0.98), torch.float32).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_what_is_no_matrix_of_a_hidden_layer_is_updated_as_adamw_does() -> None:
    torch.manual_seed(0)
    hidden, ours, theirs = torch.nn.Parameter(torch.eye(4)), *(torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer = Muon([group(hidden, orthogonal=True), group(ours, orthogonal=False)], 0.1, (0.9, 0.98), torch.float32)
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for _ in range(3):
        ours.grad = torch.randn(4)
        theirs.grad, hidden.grad = ours.grad.clone(), torch.randn(4, 4)
        optimizer.step()
        reference.step()
    assert torch.equal(ours, theirs)


def test_weights_that_timm_wants_left_alone_get_no_weight_decay() -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, reg_tokens=4, num_classes=1)
    optimizer = make_optimizer(network, {"weight_decay": 0.5, "optimizer": "muon", "learning_rate": 1e-3}, "fp32")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed = {
        names[id(parameter)] for one in optimizer.param_groups if one["weight_decay"] for parameter in one["params"]
    }
    assert "blocks.0.attn.qkv.weight" in decayed
    assert not {"pos_embed", "cls_token", "reg_token", "blocks.0.norm1.weight"} & decayed


def test_an_orthogonalized_matrix_keeps_its_singular_vectors() -> None:
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(12, 12)).Q[:, :6], torch.linalg.qr(torch.randn(6, 6)).Q
    matrix = u @ torch.diag(torch.tensor([1.0, 0.9, 0.7, 0.5, 0.3, 0.2])) @ v.T
    found = u.T @ orthogonalize(matrix[None], torch.float32)[0] @ v
    torch.testing.assert_close(found, torch.diag(found.diagonal()), atol=1e-5, rtol=0)
    assert found.diagonal().min() > 0.6
    assert found.diagonal().max() < 1.3
