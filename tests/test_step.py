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
from stages.train.graph import CapturedStep, Step
from stages.train.network import compute_deterministically, make_network
from stages.train.optimizer import make_optimizer
from stages.train.step import backward, make_step, update
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


@pytest.mark.long
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


def test_no_tensor_is_filled_before_it_is_written() -> None:
    """Where torch is to be deterministic it fills each empty one, unless told not to. `Operations` does not see it."""
    pixels, y = a_batch()
    compute_deterministically()
    (gradients, _, _), _ = programs(None)

    def fills() -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            gradients(pixels, y)
        return sum(event.count for event in seen.key_averages() if event.key == "aten::fill_")

    assert fills() < 20
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        assert fills() > 100, "torch has ceased to"
    finally:
        compute_deterministically()


def a_step(crop: int | None, optimizer_name: str) -> tuple[Step, torch.optim.Optimizer, torch.Generator, list[Any]]:
    """A whole step, what it needs to be captured, and the tensors that it changes."""
    torch.manual_seed(0)
    params = load_params()
    entry = TINY | {"optimizer": optimizer_name}
    spec, options = model_entry(params | {"model": "tiny", "models": {"tiny": entry}}), params["train"]
    network = make_network(spec, options, SIZE, DEVICE, "fp32").train()
    optimizer, average = make_optimizer(network, spec, "fp32"), WeightAverage(network)
    generator = torch.Generator(DEVICE).manual_seed(0)
    augmented = augmentation(SIZE, BATCH, options["augment"], generator, DEVICE, crop)
    statistics = scale_of_bytes((0.5,) * 3, (0.25,) * 3, DEVICE)
    step = make_step(network, optimizer, average, augmented, statistics, spec, options, "fp32")
    return step, optimizer, generator, [*network.state_dict().values(), *average.module.state_dict().values()]


@pytest.mark.parametrize(("crop", "optimizer"), [(None, "muon"), (24, "muon"), (24, "sgd"), (24, "adamw")])
def test_a_step_computes_the_same_with_its_inputs_and_its_rate_in_tensors_that_keep_their_place(
    crop: int | None, optimizer: str
) -> None:
    """What a CUDA graph needs, and all of it that shows without a GPU."""
    rates = [1e-3, 3e-3, 2e-3]

    def after(kind: str) -> list[torch.Tensor]:
        eager, of, generator, state = a_step(crop, optimizer)
        places = set()

        def step(
            pixels: torch.Tensor, y: torch.Tensor, rate: float | torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            places.add((pixels.data_ptr(), y.data_ptr(), rate.data_ptr() if isinstance(rate, torch.Tensor) else None))
            return eager(pixels, y, rate)

        take = CapturedStep(step, of, generator) if kind == "captured" else step
        batches, results = [a_batch(number) for number in range(len(rates))], []
        torch.manual_seed(2)
        for (pixels, y), rate in zip(batches, rates, strict=True):
            given = rate if kind in ("number", "captured") else torch.tensor(rate, dtype=getattr(torch, kind))
            with Operations() as operations:
                results += [result.clone() for result in take(pixels, y, given)]
            pixels.zero_()  # whoever gave it may use it for something else
        assert operations.reads == 0
        assert (len(places) == 1) == (kind == "captured")
        return results + state

    by_number, by_double, by_float, captured = (after(kind) for kind in ("number", "float64", "float32", "captured"))
    if optimizer == "muon":  # whose sum rounds once more where the rate is a tensor
        torch.testing.assert_close(by_double, by_number, rtol=1e-4, atol=1e-5)
    else:
        assert all(map(torch.equal, by_number, by_double))
    assert all(map(torch.equal, by_float, captured))


def a_batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    pixels = torch.randint(2**31 - 1, (BATCH, SIZE, SIZE), dtype=torch.int32)
    return pixels, torch.stack([torch.randint(2, (BATCH,)), torch.randint(-1, 10, (BATCH,))], 1)
