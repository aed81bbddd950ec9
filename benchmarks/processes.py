"""How much faster several processes train than one: the same batches, shared or not.

    python -m benchmarks.processes > benchmarks/results/processes.md        two processes
    python -m benchmarks.processes --model vit_tiny --processes 4

The real step, from the gather to the average, in turns: the first process alone with the whole batch while the others
sleep; all of them, each with its share; and all of them without adding up their gradients, which shows what the
exchange costs and what the rest. Each process has the same number of threads in all three: its part of the cores, or of
OMP_NUM_THREADS, and on GPUs a GPU. The efficiency is the rate over that of so many processes as fast as the one.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import distributed

from benchmarks.heading import heading
from detector.cores import keep_freed_memory
from detector.errors import UserError, run
from detector.sizes import REFERENCE_SIDE
from stages.data import MappedImages
from stages.model import normalize
from stages.params import load_params, model_entry
from stages.train.augment import batches, reader
from stages.train.average import WeightAverage
from stages.train.network import choose_precision, compute_deterministically, make_network
from stages.train.optimizer import make_optimizer
from stages.train.processes import Group, run_in_processes
from stages.train.step import train_step

MEAN, STD = (0.47, 0.46, 0.42), (0.24, 0.24, 0.27)  # any numbers will do
IMAGES = 20_000


def main() -> None:
    arguments = parse()
    if arguments.processes < 2:
        raise UserError(f"--processes is {arguments.processes}: 2 or more, beside the one")
    if (size := model_entry(load_params() | {"model": arguments.model})["batch_size"]) % arguments.processes:
        raise UserError(
            f"--processes is {arguments.processes}: {arguments.model} has batches of {size}, a part of that"
        )
    run_in_processes(measure, arguments.processes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="of a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="(default: %(default)s)")
    return parser.parse_args()


def measure(group: Group) -> None:
    arguments = parse()
    keep_freed_memory()
    compute_deterministically()  # as in training
    params = load_params() | {"model": arguments.model}
    spec, options = model_entry(params), params["train"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision(options["precision"], device)
    batch_size, side = spec["batch_size"], REFERENCE_SIDE
    random = np.random.default_rng(0)
    images = MappedImages([random.integers(0, 256, (max(batch_size, IMAGES), side, side, 3), np.uint8)])
    targets = torch.from_numpy(random.integers(0, 2, (len(images), 2))).to(device)
    start = make_network(spec, options, side, device, precision)

    def stepper(process: tuple[int, int], exchange: bool) -> Callable[[], None]:
        network = copy.deepcopy(start).train()
        optimizer, average = make_optimizer(network, spec, precision), WeightAverage(network)
        trained = group.parallel(network, side, device).train() if exchange else network
        generator, read = torch.Generator(device).manual_seed(0), reader(images, device)
        source = itertools.chain.from_iterable(
            batches(read, targets, side, batch_size, options["augment"], generator, None, process)
            for _ in itertools.count()
        )

        def step() -> None:
            x, y = next(source)
            rate = spec["learning_rate"] / 100
            train_step(trained, optimizer, normalize(x, MEAN, STD), y, rate, options, precision)
            average.update(spec["ema_decay"])

        return step

    mine, several = (group.rank, group.size), f"{group.size} processes"
    alone = stepper((0, 1), False) if group.rank == 0 else lambda: None
    variants = {"one process": alone, several: stepper(mine, True), f"{several}, no exchange": stepper(mine, False)}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn, (variant, step) in itertools.product(range(arguments.turns + 1), variants.items()):
        distributed.barrier()
        began = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        distributed.barrier()
        if turn:  # the first is to warm up
            seconds[variant].append((time.perf_counter() - began) / arguments.steps)

    print(heading(several, f"these threads in each; {distributed.get_backend()}"))
    print(f"{arguments.model}, batches of {batch_size} images of {side} px, {precision}.\n")
    print("| | images/s | of one process | efficiency |\n| --- | ---: | ---: | ---: |")
    one = batch_size / statistics.median(seconds["one process"])
    for variant, times in seconds.items():
        rate, count = batch_size / statistics.median(times), 1 if variant == "one process" else group.size
        print(f"| {variant} | {rate:,.0f} | {rate / one:.2f} | {rate / one / count:.0%} |")
    gradients = sum(parameter.nbytes for parameter in start.parameters()) / 1e6
    print(f"\nThe gradients of a step are {gradients:.1f} MB.")


if __name__ == "__main__":
    run(main)
