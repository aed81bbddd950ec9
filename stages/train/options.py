"""The parameters of a training, checked before the first epoch."""

import math
from collections.abc import Callable
from typing import Any

from detector.errors import UserError

SMALLEST = 32  # pixels, the smallest side that `prepare` makes

Rule = Callable[[Any], bool]


def check_options(options: dict[str, Any], spec: dict[str, Any], seed: int) -> None:
    """Raise UserError for what would otherwise be noticed after the last epoch, or never.

    options: the section `train` of params.yaml. spec: the entry of `models`.
    """

    def check(name: str, value: Any, is_valid: Rule, expected: str) -> None:
        if not is_valid(value):
            raise UserError(f"{name} is {value!r} in params.yaml: {expected}")

    augment, of_images = options["augment"], "a share of the images, 0 to 1"
    check("seed", seed, whole(0), "a whole number, 0 or more")
    accuracy = options["selective_accuracy"]
    check("train.selective_accuracy", accuracy, lambda x: number(0, 1)(x) and 0 < x < 1, "a share below 1, as 0.995")
    check("train.augment.flip", augment["flip"], truth, "true or false")
    translate = augment["translate"]
    check("train.augment.translate", translate, whole(0, SMALLEST - 1), f"pixels, 0 to {SMALLEST - 1}")
    check("train.augment.corruption", augment["corruption"], number(0, 1), of_images)
    check("train.auxiliary_loss", options["auxiliary_loss"], number(0), "a weight such as 0.3; 0 for none")
    check("train.warmup", options["warmup"], number(0, 1), "a share of the steps, 0 to 1")
    check("train.gradient_clip", options["gradient_clip"], number(0), "a norm such as 1.0; 0 for no limit")
    check("train.flip_tta", options["flip_tta"], number(0, 1), of_images)
    check("train.processes", options["processes"], whole(1), "a number of processes, 1 or more")
    check("train.cuda_graph", options["cuda_graph"], truth, "true or false")
    size, weights = spec["input_size"], spec["pretrained"]
    check("input_size", size, lambda x: x is None or whole(8, 4096)(x), "a number of pixels, 8 to 4096, or null")
    check("pretrained", weights, lambda x: x is None or isinstance(x, bool | str), "true, false or a path")
    check("epochs", spec["epochs"], whole(1), "a number of epochs, 1 or more")
    check("crop_epochs", spec["crop_epochs"], number(0, 1), "a share of the epochs, 0 to 1")
    check("batch_size", spec["batch_size"], whole(1), "a number of images, 1 or more")
    check("learning_rate", spec["learning_rate"], number(0), "a number such as 4e-3")
    check("weight_decay", spec["weight_decay"], number(0), "a number such as 0.05")
    check("ema_decay", spec["ema_decay"], lambda x: number(0, 1)(x) and x < 1, "below 1, as 0.98; 0 for no average")

    processes, batch_size = options["processes"], spec["batch_size"]
    if batch_size % processes:
        raise UserError(
            f"batch_size is {batch_size} in params.yaml, which {processes} processes (train.processes) cannot share "
            f"evenly: a multiple of {processes}"
        )
    if options["cuda_graph"] and processes > 1:
        raise UserError("train.cuda_graph is true and train.processes above 1 in params.yaml: it is for one process")


def truth(value: Any) -> bool:
    return isinstance(value, bool)


def number(low: float, high: float = math.inf) -> Rule:
    """Of finite numbers between both ends, and of nothing else."""
    return lambda value: (
        isinstance(value, int | float) and not truth(value) and low <= value <= high and math.isfinite(value)
    )


def whole(low: int, high: float = math.inf) -> Rule:
    return lambda value: isinstance(value, int) and number(low, high)(value)
