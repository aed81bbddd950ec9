"""The section `train` of params.yaml, checked before the first epoch."""

from typing import Any

from detector.errors import UserError


def check_options(options: dict[str, Any], spec: dict[str, Any]) -> None:
    """Raise UserError for what would otherwise be noticed after the last epoch, or never."""
    accuracy = options["selective_accuracy"]
    if not isinstance(accuracy, float) or not 0 < accuracy < 1:
        raise UserError(f"train.selective_accuracy is {accuracy!r} in params.yaml: a share below 1, such as 0.995")
    shares = {
        "train.augment.corruption": (options["augment"]["corruption"], "images"),
        "train.flip_tta": (options["flip_tta"], "images"),
        "crop_epochs": (spec["crop_epochs"], "epochs"),
    }
    for name, (share, whole) in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UserError(f"{name} is {share!r} in params.yaml: a share of the {whole}, 0 to 1")
    size = spec["input_size"]
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 4096):
        raise UserError(f"input_size is {size!r} in params.yaml: a number of pixels, 8 to 4096, or null")
    processes, batch_size = options["processes"], spec["batch_size"]
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise UserError(f"train.processes is {processes!r} in params.yaml: a number of processes, 1 or more")
    if batch_size % processes:
        raise UserError(
            f"batch_size is {batch_size} in params.yaml, which {processes} processes (train.processes) cannot share "
            f"evenly: a multiple of {processes}"
        )
    graph = options["cuda_graph"]
    if not isinstance(graph, bool):
        raise UserError(f"train.cuda_graph is {graph!r} in params.yaml: true or false")
    if graph and processes > 1:
        raise UserError("train.cuda_graph is true and train.processes above 1 in params.yaml: it is for one process")
    weight = options["auxiliary_loss"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise UserError(f"train.auxiliary_loss is {weight!r} in params.yaml: a weight such as 0.3; 0 for none")
