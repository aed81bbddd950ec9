"""The step of training on one device: what has to hold of it, and its rates, eagerly and as a CUDA graph.

For benchmarks.gpu. Everything takes the device from its task, so that tests can try it on a CPU, where no graph is
captured.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.train_step import operations_per_image, time_in_turns
from detector.errors import is_out_of_memory
from stages.model import scale_of_bytes, standardize
from stages.train.augment import Read, augmentation, read_batches
from stages.train.average import WeightAverage
from stages.train.checkpoint import optimizer_tensors, restore_optimizer
from stages.train.graph import WARM_UP, CapturedStep
from stages.train.network import compute_deterministically, make_network
from stages.train.optimizer import make_optimizer
from stages.train.step import backward, make_step, train_step, update

SIZES = (256, 512, 1024, 2048, 4096)
MEAN, STD = (0.47, 0.46, 0.42), (0.24, 0.24, 0.27)  # any numbers will do
STEPS, TURNS = 10, 3

State = dict[str, dict[str, torch.Tensor]]


@dataclass
class Task:
    """What is measured: a model of params.yaml on the images that `read` reads, targets int64 (N, 2) on the device."""

    spec: dict[str, Any]
    options: dict[str, Any]
    side: int  # of the images, px
    read: Read
    targets: torch.Tensor
    device: torch.device
    precision: str


class Run:
    """A training of the task in this process, from the same start each time."""

    def __init__(self, task: Task, graph: bool = False, batch_size: int | None = None) -> None:
        torch.manual_seed(0)
        spec, options, side = task.spec, task.options, task.side
        self.task, self.batch_size = task, batch_size or spec["batch_size"]
        self.network = make_network(spec, options, side, task.device, task.precision).train()
        self.optimizer, self.average = make_optimizer(self.network, spec, task.precision), WeightAverage(self.network)
        self.generator = torch.Generator(task.device)
        self.augmented = augmentation(side, self.batch_size, options["augment"], self.generator, task.device, crop=None)
        self.statistics = scale_of_bytes(MEAN, STD, task.device)
        self.rate = torch.full((), spec["learning_rate"] / 100, device=task.device)
        parts = self.network, self.optimizer, self.average, self.augmented, self.statistics
        step = make_step(*parts, spec, options, task.precision)
        self.step = CapturedStep(step, self.optimizer, self.generator) if graph else step
        self.batches = self.endless()

    def endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from read_batches(self.task.read, self.task.targets, self.batch_size, self.generator)

    def epoch(self, number: int, steps: int) -> None:
        """Take so many steps with random numbers of their own, as an epoch of a training does."""
        torch.manual_seed(number)
        self.generator.manual_seed(number)
        batches = read_batches(self.task.read, self.task.targets, self.batch_size, self.generator)
        for pixels, y in itertools.islice(batches, steps):
            self.step(pixels, y, self.rate)

    def one_step(self) -> None:
        self.step(*next(self.batches), self.rate)

    def images(self) -> torch.Tensor:
        """Return the next batch, augmented and standardized."""
        return standardize(self.augmented(next(self.batches)[0]), *self.statistics)

    def state(self) -> State:
        """What a checkpoint has of it."""
        groups = {
            "network": self.network.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return {group: {name: t.detach().cpu().clone() for name, t in part.items()} for group, part in groups.items()}

    def restore(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.average.module.load_state_dict(state["average"])
        restore_optimizer(self.optimizer, state["optimizer"])


def checks(task: Task, steps: int = 2 * WARM_UP) -> dict[str, str]:
    """What has to hold, each with what was found. An epoch is `steps` long here."""

    def after(graph: bool, epochs: tuple[int, ...], start: State | None = None) -> State:
        one = Run(task, graph)
        if start is not None:
            one.restore(start)
        for epoch in epochs:
            one.epoch(epoch, steps)
        return one.state()

    def compare(one: dict[str, dict[str, torch.Tensor]], other: State) -> str:
        pairs = [(tensor, other[group][name]) for group, part in one.items() for name, tensor in part.items()]
        unequal = sum(not torch.equal(*pair) for pair in pairs)
        return "the same bytes" if not unequal else f"**{unequal} of {len(pairs)} tensors differ**"

    found = {}
    for name, graph in (("eager", False), ("captured", True)):
        whole = after(graph, (0, 1))
        found[f"{name}, twice"] = compare(whole, after(graph, (0, 1)))
        found[f"{name}, resumed after an epoch"] = compare(whole, after(graph, (1,), after(graph, (0,))))
    found["captured and eager"] = compare(whole, after(False, (0, 1)))
    one = Run(task)
    pixels, y = next(one.batches)
    x = standardize(one.augmented(pixels), *one.statistics)
    results = {}
    for precision in ("fp32", "bf16"):
        loss, _ = backward(one.network, x, y, task.options["auxiliary_loss"], precision)
        gradients = [p.grad.flatten() for p in one.network.parameters() if p.grad is not None]
        results[precision] = loss.item(), torch.cat(gradients).double()
    cosine = torch.cosine_similarity(results["bf16"][1], results["fp32"][1], dim=0).item()
    ratio = results["bf16"][0] / results["fp32"][0]
    found["bf16 against fp32"] = f"loss {ratio - 1:+.2%}, cosine of the gradients {cosine:.5f}"
    return found


def profile(task: Task, side: int = 8192, steps: int = STEPS, turns: int = TURNS) -> dict[str, str]:
    """Milliseconds of the parts of a step, then rates and their share of that of a product of bf16 matrices."""
    one, eager, captured = Run(task), Run(task), Run(task, graph=True)
    pixels, y = next(one.batches)
    x = standardize(one.augmented(pixels), *one.statistics)
    options = task.options
    backward(one.network, x, y, options["auxiliary_loss"], task.precision)
    gradients = [(parameter, parameter.grad) for parameter in one.network.parameters()]

    def change() -> None:
        for parameter, gradient in gradients:  # Muon takes them away
            parameter.grad = gradient
        update(one.network, one.optimizer, one.rate, options["gradient_clip"])

    def on_resident() -> None:
        train_step(one.network, one.optimizer, x, y, one.rate, options, task.precision)
        one.average.update(task.spec["ema_decay"])

    a, b = torch.randn(2, side, side, device=task.device, dtype=torch.bfloat16)
    variants: dict[str, Callable[[], object]] = {
        "batch: gather, augment, standardize": lambda: standardize(
            one.augmented(next(one.batches)[0]), *one.statistics
        ),
        "forward and backward": lambda: backward(one.network, x, y, options["auxiliary_loss"], task.precision),
        "clipping and optimizer": change,
        "average": lambda: one.average.update(task.spec["ema_decay"]),
        "step, eager": eager.one_step,
        "step, captured": captured.one_step,
        "eager step on a batch that is there": on_resident,
        "product": lambda: a @ b,
    }
    seconds = in_turns(variants, task, steps, turns)
    rows = {name: f"{1000 * value:.2f}" for name, value in seconds.items() if name != "product"}
    operations, possible = operations_per_image(one.network, x[:8]), 2 * side**3 / seconds["product"] / 1e12
    for name in ("eager", "captured"):
        rate = one.batch_size / seconds[f"step, {name}"]
        done = operations * rate / 1e12
        rows[f"{name}: images/s"] = f"{rate:,.0f}"
        rows[f"{name}: TFLOP/s, share of the {possible:.3g} of a bf16 product"] = f"{done:.3g}, {done / possible:.1%}"
    ratio = seconds["eager step on a batch that is there"] / seconds["step, eager"]
    rows["eager: rate to that on a batch that is there"] = f"{ratio:.2f}"
    return rows


def determinism(task: Task, steps: int = STEPS, turns: int = TURNS) -> dict[str, str]:
    """Images/s of the captured and the eager step with deterministic kernels and without."""

    def with_flags(one: Run, deterministic: bool, fill: bool) -> Callable[[], None]:
        def step() -> None:
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            one.one_step()

        return step

    flags = {
        "as in training": (True, False),
        "any kernels": (False, False),
        "empty tensors filled, torch's default": (True, True),
    }
    variants = {
        f"{kind}, {name}": with_flags(Run(task, graph), *values)
        for kind, graph in (("eager", False), ("captured", True))
        for name, values in flags.items()
    }
    seconds = in_turns(variants, task, steps, turns)
    compute_deterministically()
    return {name: f"{task.spec['batch_size'] / value:,.0f}" for name, value in seconds.items()}


def curve(task: Task, sizes: tuple[int, ...] = SIZES, steps: int = STEPS, turns: int = TURNS) -> dict[str, str]:
    """Images/s by batch size, as far as there are images and memory."""
    rows = {}
    for size in (size for size in sizes if size <= len(task.targets)):
        try:
            variants = {name: Run(task, name == "captured", size).one_step for name in ("eager", "captured")}
            seconds = in_turns(variants, task, steps, turns)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            rows[f"{size:,}"] = "out of memory"
            break
        rows[f"{size:,}"] = ", ".join(f"{size / value:,.0f}" for value in seconds.values())
    return rows


def in_turns(variants: Any, task: Task, steps: int, turns: int) -> dict[str, float]:
    """Seconds of a step of each variant. The first turn does not count: where `steps` is above WARM_UP, what is to be
    captured is captured in it."""
    return time_in_turns(variants, "variants", argparse.Namespace(steps=steps, turns=turns), task.device)
