"""The step of training: one program for the device, which never waits for the host."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.train_step import Operations
from stages.model import scale_of_bytes, standardize
from stages.params import load_params, model_entry
from stages.train.augment import augmentation
from stages.train.average import WeightAverage
from stages.train.network import make_network
from stages.train.optimizer import make_optimizer
from stages.train.step import backward, update
from tests.conftest import TINY

SIZE, BATCH, DEVICE = 32, 24, torch.device("cpu")


@pytest.fixture
def traceable() -> Iterator[None]:
    before = torch._dynamo.config.trace_autograd_ops
    torch._dynamo.config.trace_autograd_ops = True
    yield
    torch._dynamo.config.trace_autograd_ops = before
    torch._dynamo.reset()


Programs = tuple[Callable[..., Any], ...]


def programs(crop: int | None) -> tuple[Programs, list[torch.Tensor]]:
    """The parts of a step, and the tensors that it changes. Gradients come to lie beside the weights between two."""
    torch.manual_seed(0)
    params = load_params()
    spec: dict[str, Any] = model_entry(params | {"model": "tiny", "models": {"tiny": TINY}})
    options = params["train"]
    network = make_network(spec, options, SIZE, DEVICE, "fp32").train()
    optimizer = make_optimizer(network, spec, "fp32")
    average = WeightAverage(network)
    augmented = augmentation(SIZE, BATCH, options["augment"], None, DEVICE, crop)
    center, scale = scale_of_bytes((0.5,) * 3, (0.25,) * 3, DEVICE)

    def gradients(pixels: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = standardize(augmented(pixels), center, scale)
        return backward(network, x, y, options["auxiliary_loss"], "fp32")[0]

    def weights() -> None:
        update(network, optimizer, 1e-3, options["gradient_clip"])

    return (gradients, weights, average.update), [*network.state_dict().values(), *average.module.state_dict().values()]


@pytest.mark.usefixtures("traceable")
def test_batch_gradients_and_average_are_traced_without_a_break() -> None:
    """`fullgraph` refuses a break in the graph, and with it every number that Python would have to wait for. The update
    is left out: torch breaks the graph of every optimizer."""
    pixels, y = a_batch()
    eager, expected = programs(24)
    (gradients, weights, averages), found = programs(24)
    trace: dict[str, Any] = {"fullgraph": True, "backend": "eager"}
    traced = torch.compile(gradients, **trace), weights, torch.compile(averages, **trace)
    before = [tensor.clone() for tensor in expected]
    for number in range(3):
        losses = []
        for compute, change, follow in (eager, traced):
            torch.manual_seed(number)
            losses.append(compute(pixels, y))
            change()
            follow(0.9)
        assert torch.equal(*losses)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    assert not any(torch.equal(one, other) for one, other in zip(before, expected, strict=True) if one.ndim > 1)


@pytest.mark.parametrize("crop", [None, 24])
def test_nothing_in_a_step_waits_for_the_device(crop: int | None) -> None:
    pixels, y = a_batch()
    (gradients, weights, averages), _ = programs(crop)
    for _ in range(2):  # the optimizer makes its moments in the first
        with Operations() as operations:
            gradients(pixels, y)
            weights()
            averages(0.9)
    assert operations.count > 100
    assert operations.reads == 0
    with Operations() as operations:
        (y.float().sum() > 0).item()
    assert operations.reads == 1, "a read is not noticed"


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    pixels = torch.randint(2**31 - 1, (BATCH, SIZE, SIZE), dtype=torch.int32)
    return pixels, torch.stack([torch.randint(2, (BATCH,)), torch.randint(-1, 10, (BATCH,))], 1)
