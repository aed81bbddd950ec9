"""How fast a training step is, and what the choices in it are worth: ratios, all from one run.

    python -m benchmarks.train_step > benchmarks/results/train_step.md      every model of params.yaml
    python -m benchmarks.train_step resnet18                                one
    python -m benchmarks.train_step quick --batches 64 128 512 1024         and the curve of batch size
    python -m benchmarks.train_step resnet18_224 --side 224                 on images of another side

Images/s of the real step (gather, augment, normalize, forward, backward, update, average) over those of the same step
on one batch that is already there, augmented and normalized. Then the same step without the small-map convolutions and,
if asked for, in the other precision, compiled and with other batch sizes. Variants take turns, so that whatever else
the machine does meets all alike, as does a product of large matrices: what the real step computes a second is given as
a share of what the product does. Counted is the network, forward and backward on whole images, not the optimizer.

And the bytes of all tensors that the real step holds at its peak. Counted on a CPU, they are what a GPU would hold
beside the images, the workspace of its kernels and CUDA itself.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.heading import heading
from detector.cores import keep_freed_memory

import torch  # isort: skip
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from detector.errors import run
from detector.sizes import REFERENCE_SIDE, images_at_a_time
from stages.data import MappedImages
from stages.device import claim
from stages.model import SmallMapConv2d, normalize
from stages.params import load_params, model_entry
from stages.train.augment import batches, reader
from stages.train.average import WeightAverage
from stages.train.network import choose_precision, compute_deterministically, make_network
from stages.train.optimizer import make_optimizer
from stages.train.step import backward, train_step, update

aten = torch.ops.aten
MEAN, STD = (0.47, 0.46, 0.42), (0.24, 0.24, 0.27)  # any numbers will do
IMAGES = 20_000  # of 32 px, or as many pixels
REAL, RESIDENT, PRODUCT = "the real step", "resident batch", "matrix product"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    params = load_params()
    parser.add_argument("models", nargs="*", default=list(params["models"]), metavar="model")
    parser.add_argument("--steps", type=int, default=3, help="of each turn of a variant (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="of each variant (default: %(default)s)")
    parser.add_argument("--precision", action="store_true", help="the other precision too; the slower one")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes a minute to start")
    parser.add_argument("--batches", type=int, nargs="+", default=[], metavar="N", help="other batch sizes too")
    parser.add_argument("--side", type=int, default=REFERENCE_SIDE, help="of the images, px (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.side < REFERENCE_SIDE or arguments.side % 2:
        parser.error(f"--side is an even number from {REFERENCE_SIDE} on")
    if any(not 2 <= size <= images_at_a_time(IMAGES, arguments.side) for size in arguments.batches):
        parser.error(f"--batches are of 2 to {images_at_a_time(IMAGES, arguments.side):,} images")
    keep_freed_memory()
    claim()
    compute_deterministically()  # as in training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(heading("Training step", f"images of {arguments.side} px").rstrip())
    for name in arguments.models:
        compare(name, params, device, arguments)


def compare(name: str, params: dict[str, Any], device: torch.device, arguments: argparse.Namespace) -> None:
    spec, options = model_entry(params | {"model": name}), params["train"]
    precision = choose_precision(options["precision"], device)
    generator = torch.Generator(device).manual_seed(0)
    shape = max(spec["batch_size"], images_at_a_time(IMAGES, arguments.side)), arguments.side, arguments.side, 3
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device)
    read = reader(MappedImages([images.cpu().numpy()]), device)
    targets = torch.randint(0, 2, (len(images), 2), generator=generator, device=device)

    def real(batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for x, y in batches(read, targets, arguments.side, batch_size, options["augment"], generator):
                yield normalize(x, MEAN, STD), y

    batch_size = spec["batch_size"]
    x, y = next(real(batch_size))
    resident = itertools.repeat((x, y))
    network = make_network(spec, options, arguments.side, device, precision)
    plain = copy.deepcopy(network)
    small: list[Any] = [module for module in plain.modules() if isinstance(module, SmallMapConv2d)]
    for module in small:
        module.__class__ = torch.nn.Conv2d
    operations = operations_per_image(network, x[:8])
    other = "fp32" if precision == "bf16" else "bf16"
    peaks = []
    for one in (precision, other) if arguments.precision else (precision,):
        fresh = make_network(spec, options, arguments.side, device, one)
        peaks.append(f"{tensor_bytes(fresh, spec, options, one, real(batch_size)) / 1e9:.3g} GB in {one}")
    counted = count_operations(name, spec, options, precision, real(batch_size), copy.deepcopy(network))
    # what is timed, and how many images it takes
    variants = {
        REAL: (stepper(network, spec, options, precision, real(batch_size)), batch_size),
        RESIDENT: (stepper(network, spec, options, precision, resident), batch_size),
        "plain convolutions": (stepper(plain, spec, options, precision, resident), batch_size),
    }
    if arguments.precision:
        step = stepper(make_network(spec, options, arguments.side, device, other), spec, options, other, resident)
        variants[other] = step, batch_size
    if arguments.compile:
        compiled = copy.deepcopy(network)
        compiled.compile()
        variants["torch.compile"] = stepper(compiled, spec, options, precision, resident), batch_size
    for size in arguments.batches:
        variants[f"{REAL}, batch {size}"] = stepper(network, spec, options, precision, real(size)), size

    side = 8192 if device.type == "cuda" else 4096
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    steps = {variant: step for variant, (step, _) in variants.items()}
    seconds = time_in_turns(steps | {PRODUCT: lambda: a @ b}, name, arguments, device)
    rates = {variant: images / seconds[variant] for variant, (_, images) in variants.items()}
    print(f"\n| {name}, batch {batch_size}, {precision} | images/s | of the resident batch |")
    print("| --- | ---: | ---: |")
    for variant, rate in rates.items():
        print(f"| {variant} | {rate:,.0f} | {rate / rates[RESIDENT]:.2f} |")
    done, possible = operations * rates[REAL] / 1e12, 2 * side**3 / seconds[PRODUCT] / 1e12
    print(
        f"\nThe network takes {operations / 1e9:.3g} GFLOP an image, so the real step does {done:.3g} TFLOP/s: "
        f"{done / possible:.1%} of the {possible:.3g} of a {precision} product of {side}x{side} matrices. At "
        f"its peak it holds tensors of {', '.join(peaks)}.\n\n{counted}"
    )


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches meanwhile, but for views, which compute nothing, and of them the
    reads of a number by the host, for which a GPU's program has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = function.is_view or function in (aten.detach.default, aten._unsafe_view.default)
        self.count += not is_view
        self.reads += function in (aten._local_scalar_dense.default, aten.nonzero.default)
        return function(*args, **kwargs or {})


def count_operations(
    name: str,
    spec: dict[str, Any],
    options: dict[str, Any],
    precision: str,
    source: Iterator[tuple[torch.Tensor, torch.Tensor]],
    network: torch.nn.Module,
) -> str:
    """Return in a line how many operations the parts of a step dispatch: on a GPU each is a launch."""
    network.train()
    optimizer, average = make_optimizer(network, spec, precision), WeightAverage(network)
    parts: dict[str, Operations] = {}
    for _ in range(2):  # the first makes the optimizer's moments
        with Operations() as parts["batch"]:
            x, y = next(source)
        with Operations() as parts["forward and backward"]:
            backward(network, x, y, options["auxiliary_loss"], precision)
        with Operations() as parts["clipping and optimizer"]:
            update(network, optimizer, spec["learning_rate"] / 100, options["gradient_clip"])
        with Operations() as parts["average"]:
            average.update(spec["ema_decay"])
    counts = ", ".join(f"{part} {one.count}" for part, one in parts.items())
    total, reads = (sum(getattr(one, what) for one in parts.values()) for what in ("count", "reads"))
    return f"Operations dispatched in a step of {name}: {counts}; {total} together, {reads} reads by the host."


def operations_per_image(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Floating-point operations of forward and backward for one of the images x (B, 3, H, W), additions counted too."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted
        network(x).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() / len(x)


def tensor_bytes(
    network: torch.nn.Module,
    spec: dict[str, Any],
    options: dict[str, Any],
    precision: str,
    source: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> int:
    """Return the bytes of all tensors that the step of a network holds at its peak: weights, their average, the
    optimizer's moments, the batch and what is computed from it. What a kernel takes for itself is not counted."""
    with MemTracker() as tracker:
        step = stepper(network, spec, options, precision, source)
        step()
        tracker.reset_mod_stats()  # it refuses a second step without
        step()  # the first one made the moments, this one finds them there
    return sum(sizes["Total"] for sizes in tracker.get_tracker_snapshot("peak").values())


def time_in_turns(
    variants: dict[str, Callable[[], object]], name: str, arguments: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    """Seconds of one step of each variant, the median over its turns."""
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    turns = list(itertools.product(range(arguments.turns + 1), variants))
    for repeat, variant in tqdm(turns, desc=name, disable=None):
        started = time.perf_counter()
        for _ in range(arguments.steps):
            variants[variant]()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:  # the first is to warm up
            seconds[variant].append((time.perf_counter() - started) / arguments.steps)
    return {variant: statistics.median(times) for variant, times in seconds.items()}


def stepper(
    network: torch.nn.Module,
    spec: dict[str, Any],
    options: dict[str, Any],
    precision: str,
    source: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> Callable[[], None]:
    network.train()
    optimizer = make_optimizer(network, spec, precision)
    average = WeightAverage(network)

    def step() -> None:
        x, y = next(source)
        train_step(network, optimizer, x, y, spec["learning_rate"] / 100, options, precision)
        average.update(spec["ema_decay"])

    return step


if __name__ == "__main__":
    run(main)
