"""Train one detector: data/train and data/val in, models/trained out.

    dvc repro train                     what params.yaml says
    dvc exp run -S model=vit_tiny       another entry of `models`
    python -m stages.train              the same without DVC

A run that was killed resumes after its last finished epoch when it is started again, and ends with the same bytes.
With `train.processes` above 1 each process calls `train_together`, and the first of them writes what is written.
"""

import json
import platform
import time
from pathlib import Path

import numpy as np
import timm
import torch
from tqdm import tqdm

from detector.calibration import choose_abstention_band, choose_threshold, fit_offset, fit_temperature
from detector.cores import keep_freed_memory
from detector.errors import UserError, run
from detector.files import atomic_write, check_space
from detector.labels import CLASSES, FAKE, probability
from detector.record import ModelRecord
from stages.data import INDEX, channel_statistics, load_split
from stages.device import device_name, peak_memory_mb
from stages.model import save_model, scale_of_bytes
from stages.params import load_params, model_entry, weights_path
from stages.train.augment import augmentation, read_batches, reader
from stages.train.average import WeightAverage
from stages.train.checkpoint import Checkpoint, digest_of, loaded_code, optimizer_tensors, restore_optimizer
from stages.train.graph import CapturedStep, Step
from stages.train.history import History, best_epoch, check_finite, validation_metrics, write_curves
from stages.train.network import (
    check_sides,
    choose_precision,
    compute_deterministically,
    keep_first_output,
    make_network,
    pretrained_statistics,
)
from stages.train.optimizer import learning_rate, make_optimizer
from stages.train.options import check_options
from stages.train.processes import Group, run_in_processes
from stages.train.step import make_step

CROP = 0.75  # side of the crops in the first epochs, as a share of the image's


def main() -> None:
    params = load_params()
    check_options(params["train"], model_entry(params), params["seed"])
    run_in_processes(train_together, params["train"]["processes"])


def train_together(group: Group) -> None:
    """Train in one of the processes of the group."""
    params = load_params()
    seed, options, spec = params["seed"], params["train"], model_entry(params)

    keep_freed_memory()
    compute_deterministically()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options["cuda_graph"] and device.type == "cpu":
        raise UserError("train.cuda_graph is true in params.yaml, but there is no GPU here: set it to false")
    precision = choose_precision(options["precision"], device)
    train, val = load_split("data/train"), load_split("data/val")

    data = [Path("data", name, INDEX) for name in ("train", "val")]  # all columns, and the digests of the pixels
    versions = [torch.__version__, timm.__version__, device_name(), precision]
    weights = weights_path(spec["pretrained"])
    key = digest_of(*loaded_code(), *data, spec, options, seed, versions, weights)
    group.check_equal(key, "the processes differ in code, parameters, data, versions or device: make all alike")
    checkpoint = Checkpoint(key) if group.rank == 0 else None

    torch.manual_seed(seed)
    side = train.images.shape[1]
    network = make_network(spec, options, side, device, precision)
    mean, std = pretrained_statistics(network) if spec["pretrained"] else channel_statistics(train.images.blocks())
    crop = 2 * round(CROP * side / 2)  # even, as sides are
    check_sides(network, side, crop if spec["crop_epochs"] else None, params["model"], device)
    optimizer = make_optimizer(network, spec, precision)
    average = WeightAverage(network)
    evaluated = average.module if spec["ema_decay"] else network  # what is validated and saved
    trained = group.parallel(network, side, device)

    statistics = scale_of_bytes(mean, std, device)
    read = reader(train.images, device)
    targets = torch.from_numpy(np.stack([train.labels == FAKE, train.object_class], axis=1).astype(np.int64)).to(device)
    batch_size = min(spec["batch_size"], len(train) // group.size * group.size)  # of all processes together
    steps_per_epoch, epochs = len(train) // batch_size, spec["epochs"]
    history: History = []
    best: dict[str, torch.Tensor] = {}  # weights of the best of them

    if saved := group.from_first(checkpoint and checkpoint.restore()):
        tensors, history = saved
        network.load_state_dict(tensors["network"])
        average.module.load_state_dict(tensors["average"])
        restore_optimizer(optimizer, tensors["optimizer"])
        best = tensors["best"]
        if checkpoint:
            print(f"resuming after epoch {len(history)} of {epochs}, from {checkpoint.folder}", flush=True)
    parameters = count_parameters(network)
    print(f"{params['model']}: {parameters:,} parameters, {device_name()}, {precision}", flush=True)
    if checkpoint:
        # fp32: the weights, their average, the best of it and two moments of the optimizer, beside the one before
        check_space(checkpoint.folder, 2 * 5 * 4 * parameters, "training")

    generator = torch.Generator(device)
    process = group.rank, group.size
    steps: dict[int | None, Step] = {}  # one at a time: a CUDA graph holds its memory
    done, total = (count * steps_per_epoch * batch_size for count in (len(history), epochs))
    bar = tqdm(total=total, initial=done, unit=" images", unit_scale=True, disable=True if group.rank else None)
    for epoch in range(len(history), epochs):
        # each epoch has random numbers of its own, so that a resumed run meets those of the undisturbed one
        torch.manual_seed(seed * 100_003 + epoch)
        generator.manual_seed(seed * 100_003 + epoch)
        started = time.perf_counter()
        trained.train()
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device)
        cropped = crop if epoch < spec["crop_epochs"] * epochs else None
        if cropped not in steps:
            augmented = augmentation(side, batch_size, options["augment"], generator, device, cropped, process)
            eager = make_step(trained, optimizer, average, augmented, statistics, spec, options, precision)
            steps = {cropped: CapturedStep(eager, optimizer, generator) if options["cuda_graph"] else eager}
        for step, (pixels, y) in enumerate(read_batches(read, targets, batch_size, generator, process), start=1):
            rate = learning_rate(spec, options["warmup"], epoch * steps_per_epoch + step, epochs * steps_per_epoch)
            loss, right = steps[cropped](pixels, y, rate)
            if spec["ema_decay"] and epoch == 0 and step == 1:
                average.update(0)  # nothing of the weights at the start
            loss_sum += loss
            correct += right
            # reading a number waits for the device, so it is done now and then
            if step % 20 == 0 or step == steps_per_epoch:
                check_finite(loss_sum, epoch)
                accuracy = correct.item() / (step * len(y))
                bar.set_postfix(loss=f"{loss_sum.item() / step:.3f}", accuracy=f"{accuracy:.2%}")
                bar.update((epoch * steps_per_epoch + step) * batch_size - bar.n)
        group.add_up(loss_sum, correct)
        group.share_statistics(network, average.module)
        seconds = time.perf_counter() - started
        validation = validation_metrics(group.predict_logits(evaluated, val.images, mean, std), val)

        result = {
            "train/loss": loss_sum.item() / (steps_per_epoch * group.size),
            "train/accuracy": correct.item() / (steps_per_epoch * batch_size),
            **{f"val/{name}": value for name, value in validation.items()},
            "learning_rate": rate,
            "images_per_second": steps_per_epoch * batch_size / seconds,
            "seconds": time.perf_counter() - started,
        }
        history.append(result)
        if best_epoch(history) == len(history):
            best = {name: tensor.detach().clone() for name, tensor in evaluated.state_dict().items()}
        if checkpoint:
            tensors = {
                "network": network.state_dict(),
                "average": average.module.state_dict(),
                "optimizer": optimizer_tensors(optimizer),
                "best": best,
            }
            checkpoint.save(tensors, history)
        bar.write(
            f"epoch {len(history)}/{epochs}: loss {result['train/loss']:.4f}; "
            f"validation: loss {result['val/loss']:.4f}, accuracy {result['val/accuracy']:.2%}, "
            f"AUROC {result['val/auroc']:.4f}; {result['images_per_second']:.0f} images/s"
        )
    bar.close()

    evaluated.load_state_dict(best)
    is_fake = val.labels == FAKE
    offset = group.from_first(fit_offset(group.predict_logits(evaluated, val.images, mean, std), is_fake))
    keep_first_output(evaluated, offset)
    val_logits, margin = group.predict_logits(evaluated, val.images, mean, std), 0.0
    if options["flip_tta"]:
        margin = float(np.quantile(np.abs(val_logits), options["flip_tta"]))
        val_logits = group.predict_logits(evaluated, val.images, mean, std, margin)
    if checkpoint is None:
        return
    temperature = fit_temperature(val_logits, is_fake)
    p_fake = probability(val_logits, temperature)
    record = ModelRecord.make(
        model=params["model"],
        seed=seed,
        timm=spec["timm"],
        args=spec["args"] or {},
        stem=spec["stem"],
        pretrained=spec["pretrained"] or False,
        input_size=side,
        enlarged_size=spec["input_size"],
        fit=train.info["fit"],
        reencode=train.info["reencode"],
        mean=mean,
        std=std,
        classes=CLASSES,
        data_digest=train.info["digest"],
        flip_tta_margin=margin,
        temperature=temperature,
        threshold=choose_threshold(p_fake, is_fake),
        abstention_band=choose_abstention_band(p_fake, is_fake, options["selective_accuracy"]),
        validation=validation_metrics(val_logits, val),
        sha256={},
    )
    chosen = history[best_epoch(history) - 1]
    metrics = {
        "best_epoch": best_epoch(history),
        "val_accuracy": round(chosen["val/accuracy"], 6),
        "val_auroc": round(chosen["val/auroc"], 6),
        "offset": round(offset, 6),
        "temperature": round(temperature, 6),
        "epochs": epochs,
        "seconds": round(sum(result["seconds"] for result in history), 1),
        "images_per_second": round(np.median([result["images_per_second"] for result in history]), 1),
        "peak_memory_mb": peak_memory_mb(),
        "device": device_name(),
        "precision": precision,
        "parameters": count_parameters(evaluated),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    # all or nothing: what can fail comes before the first of them takes its place
    with atomic_write("metrics/train.json") as metrics_file, atomic_write("plots/training") as plots:
        metrics_file.write_text(json.dumps(metrics, indent=2) + "\n")
        write_curves(history, checkpoint.folder / "live", plots)
        save_model("models/trained", evaluated, record)
    checkpoint.remove()


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    run(main)
