"""Train one detector: data/train.safetensors and data/val.safetensors in, models/trained out.

    dvc repro train                     what params.yaml says
    dvc exp run -S model=vit_tiny       another entry of `models`
    python -m stages.train              the same without DVC

A run that was killed goes on from its last finished epoch when it is started again, and ends with the same bytes.
"""

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from dvclive import Live
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from detector.data import CLASSES, FAKE, OBJECT_CLASSES, Split, load_split
from detector.device import claim, describe
from detector.errors import UserError, replacing, run
from detector.metrics import choose_threshold, choose_unsure, fit_temperature, probability
from detector.model import build, normalize, predict_logits, save
from stages import keep_freed_memory
from stages.augment import batches, pack
from stages.muon import Muon
from stages.params import load_params, model_entry
from stages.resume import RunState, digest_of, optimizer_tensors, prefixed, restore_optimizer, without_prefix

EVALUATION_BATCH = 1000
WINDOW = 0.75  # side of what a cropped epoch sees of an image, in that of the image


def main() -> None:
    params = load_params()
    seed, options, spec = params["seed"], params["train"], model_entry(params)
    check_numbers(options, spec)

    keep_freed_memory()
    claim()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision(options["precision"], device)
    train, val = load_split("data/train.safetensors"), load_split("data/val.safetensors")
    info = describe_model(params, spec, train)

    # what dvc.yaml lists as deps of this stage
    code = [Path("detector", f"{name}.py") for name in ("data", "device", "errors", "metrics", "model")]
    code += [Path("stages", f"{name}.py") for name in ("train", "augment", "muon", "resume")]
    data = [train.info["digest"], val.info["digest"]]
    versions = [torch.__version__, timm.__version__, describe(), precision]
    state = RunState(digest_of(*code, spec, options, seed, data, versions, weights_digest(spec)))

    torch.manual_seed(seed)
    network = make_network(spec, options, device, precision)
    window = round(WINDOW * train.images.shape[1])
    if spec["cropped"]:
        check_window(network, window, params["model"], device)
    optimizer = make_optimizer(network, spec, precision)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(spec["ema_decay"]), use_buffers=True)
    judged = average.module if spec["ema_decay"] else network  # what is validated and saved
    if options["compile"]:
        network.compile()

    pixels = pack(torch.from_numpy(train.images).to(device))
    targets = torch.from_numpy(np.stack([train.labels == FAKE, train.object_class], axis=1).astype(np.int64)).to(device)
    batch_size = min(spec["batch_size"], len(train))
    steps_per_epoch, epochs = len(train) // batch_size, spec["epochs"]
    history: list[dict[str, float]] = []  # of each finished epoch
    best: dict[str, torch.Tensor] = {}  # weights of the best of them

    if saved := state.load(device):
        tensors, record = saved
        history = record["history"]
        network.load_state_dict(without_prefix("network", tensors))
        average.load_state_dict(without_prefix("average", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        best = without_prefix("best", tensors)
        print(f"going on after epoch {len(history)} of {epochs}, from {state.folder}", flush=True)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{params['model']}: {parameters:,} parameters, {describe()}, {precision}", flush=True)

    total = epochs * steps_per_epoch * batch_size
    bar = tqdm(
        total=total,
        initial=len(history) * steps_per_epoch * batch_size,
        unit=" images",
        unit_scale=True,
        disable=None,
    )
    for epoch in range(len(history), epochs):
        # each epoch has random numbers of its own, so that a resumed run meets those of the undisturbed one
        torch.manual_seed(seed * 100_003 + epoch)
        generator = torch.Generator(device).manual_seed(seed * 100_003 + epoch)
        started = time.perf_counter()
        network.train()
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device)
        seen = window if epoch < spec["cropped"] * epochs else None
        drawn = batches(pixels, targets, batch_size, options["augment"], generator, seen)
        for step, (x, y) in enumerate(drawn, start=1):
            rate = learning_rate(spec, options["warmup"], epoch * steps_per_epoch + step, epochs * steps_per_epoch)
            loss, logits = train_step(network, optimizer, normalize(x, info), y, rate, options, precision)
            if spec["ema_decay"]:
                average.update_parameters(network)
            loss_sum += loss
            correct += ((logits > 0) == (y[:, 0] == 1)).sum()
            # reading a number waits for the device, so it is done now and then
            if step % 20 == 0 or step == steps_per_epoch:
                check_finite(loss_sum, epoch)
                accuracy = correct.item() / (step * batch_size)
                bar.set_postfix(loss=f"{loss_sum.item() / step:.3f}", accuracy=f"{accuracy:.2%}")
                bar.update((epoch * steps_per_epoch + step) * batch_size - bar.n)
        trained = time.perf_counter()
        validation = judge(predict_logits(judged, val.images, info, EVALUATION_BATCH), val)

        result = {
            "train/loss": loss_sum.item() / steps_per_epoch,
            "train/accuracy": correct.item() / (steps_per_epoch * batch_size),
            **{f"val/{name}": value for name, value in validation.items()},
            "learning_rate": rate,
            "images_per_second": steps_per_epoch * batch_size / (trained - started),
            "seconds": time.perf_counter() - started,
        }
        history.append(result)
        if best_epoch(history) == len(history):
            best = {name: tensor.detach().clone() for name, tensor in judged.state_dict().items()}
        tensors = {
            **prefixed("network", network.state_dict()),
            **prefixed("average", average.state_dict()),
            **prefixed("optimizer", optimizer_tensors(optimizer)),
            **prefixed("best", best),
        }
        state.save(tensors, {"history": history})
        bar.write(
            f"epoch {len(history)}/{epochs}: loss {result['train/loss']:.4f}; "
            f"validation: loss {result['val/loss']:.4f}, accuracy {result['val/accuracy']:.2%}, "
            f"AUROC {result['val/auroc']:.4f}; {result['images_per_second']:.0f} images/s"
        )
    bar.close()

    judged.load_state_dict(best)
    keep_first_output(judged)
    if options["mirror"]:
        first_looks = predict_logits(judged, val.images, info, EVALUATION_BATCH)
        info["mirror"] = float(np.quantile(np.abs(first_looks), options["mirror"]))
    val_logits = predict_logits(judged, val.images, info, EVALUATION_BATCH)
    temperature = fit_temperature(val_logits, val.labels == FAKE)
    p_fake = probability(val_logits, temperature)
    threshold = choose_threshold(p_fake, val.labels == FAKE)
    unsure = choose_unsure(p_fake, val.labels == FAKE, options["sure"])
    chosen = history[best_epoch(history) - 1]
    info |= {"threshold": threshold, "unsure": unsure, "temperature": temperature, "metrics": judge(val_logits, val)}
    metrics = {
        "best_epoch": best_epoch(history),
        "val_accuracy": chosen["val/accuracy"],
        "val_auroc": chosen["val/auroc"],
        "epochs": epochs,
        "seconds": round(sum(result["seconds"] for result in history), 1),
        "images_per_second": round(np.median([result["images_per_second"] for result in history]), 1),
        "peak_memory_mb": peak_memory_mb(device),
        "device": describe(),
        "precision": precision,
        "parameters": parameters,
    }
    save("models/trained", judged, info)
    with replacing("metrics/train.json") as new:
        new.write_text(json.dumps(metrics, indent=2) + "\n")
    write_curves(history, state.folder / "live")
    state.remove()


def describe_model(params: dict[str, Any], spec: dict[str, Any], train: Split) -> dict[str, Any]:
    """The part of model.json that is known before training."""
    levels = np.arange(256) / 255
    shares = [
        np.bincount(train.images[..., channel].ravel(), minlength=256) / train.images[..., 0].size
        for channel in range(3)
    ]
    mean = [float(share @ levels) for share in shares]
    std = [float(np.sqrt(share @ levels**2 - m**2)) for share, m in zip(shares, mean, strict=True)]
    return {
        "model": params["model"],
        "seed": params["seed"],
        "timm": spec["timm"],
        "args": spec["args"],
        "stem": spec["stem"],
        "pretrained": spec["pretrained"],
        "input_size": train.images.shape[1],
        "mean": mean,
        "std": std,
        "mirror": 0.0,  # one look at an image while training, whatever its logit
        "classes": CLASSES,
        "data_digest": train.info["digest"],
    }


def check_numbers(options: dict[str, Any], spec: dict[str, Any]) -> None:
    """Raise UserError for what would otherwise be noticed after the last epoch, or never."""
    sure = options["sure"]
    if not isinstance(sure, float) or not 0 < sure < 1:
        raise UserError(f"train.sure is {sure!r} in params.yaml: a share below 1, such as 0.995")
    shares = {
        "train.augment.damage": (options["augment"]["damage"], "images"),
        "train.mirror": (options["mirror"], "images"),
        "cropped": (spec["cropped"], "epochs"),
    }
    for name, (share, whole) in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UserError(f"{name} is {share!r} in params.yaml: a share of the {whole}, 0 to 1")
    weight = options["object_loss"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise UserError(f"train.object_loss is {weight!r} in params.yaml: a weight such as 0.3; 0 for none")


@torch.no_grad()
def check_window(network: torch.nn.Module, side: int, name: str, device: torch.device) -> None:
    """Raise UserError for a network that takes whole images only."""
    network.eval()  # leaves its running means alone
    try:
        network(torch.zeros(1, 3, side, side, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"{name} cannot see {side}x{side} pixels ({error}): set models.{name}.cropped to 0") from None


def choose_precision(wanted: str, device: torch.device) -> str:
    """`auto` is bf16 where it is quicker, else fp32."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise UserError(f"train.precision is {wanted!r}: auto, fp32 or bf16")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    # Emulated, bf16 is slower. So it is with AVX512's bf16 on Intel, whose fp32 is as quick: resnet18 trains at 0.7 of
    # fp32's rate there, and at 1.4 times it on AMD.
    quick = torch.cpu._is_avx512_bf16_supported() and "AMD" in describe()
    return "bf16" if quick or torch.cpu._is_amx_tile_supported() else "fp32"


def make_network(
    spec: dict[str, Any], options: dict[str, Any], device: torch.device, precision: str
) -> torch.nn.Module:
    """The network at the start, on its device, in the form in which it trains fastest."""
    # after the logit of FAKE those of the object classes, a second task while training
    outputs = 1 + len(OBJECT_CLASSES) if options["object_loss"] else 1
    network = build(spec, weights_path(spec), outputs).to(memory_format=torch.channels_last).to(device)
    if device.type == "cpu" and precision == "bf16":
        modules: list[Any] = list(network.modules())
        for module in modules:
            if hasattr(module, "fused_attn"):  # in bf16 a step of vit_tiny takes 2.7 times as long with torch's own
                module.fused_attn = False
    return network


def keep_first_output(network: Any) -> None:
    """Leave a trained network the logit of FAKE alone, without the object classes."""
    classifier = network.get_classifier()
    for name, parameter in list(classifier.named_parameters()):
        setattr(classifier, name, torch.nn.Parameter(parameter[:1].detach().clone()))


def weights_path(spec: dict[str, Any]) -> bool | str:
    """`pretrained` with a path made absolute: in a queued run it is relative to the repository it was queued from."""
    if isinstance(spec["pretrained"], str):
        return str(Path(os.environ.get("DVC_ROOT", "."), spec["pretrained"]))
    return spec["pretrained"]


def weights_digest(spec: dict[str, Any]) -> str | None:
    path = weights_path(spec)
    return digest_of(Path(path)) if isinstance(path, str) and Path(path).is_file() else None


def make_optimizer(network: Any, spec: dict[str, Any], precision: str) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels only; biases, norms and position embeddings go without."""
    hidden: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = []  # of the first layer, which sees colours, and the last, which gives logits
    others: list[torch.nn.Parameter] = []
    last = {id(parameter) for parameter in network.get_classifier().parameters()}
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or name in ("pos_embed", "cls_token"):
            others.append(parameter)
        else:
            (outer if parameter.shape[1] <= 3 or id(parameter) in last else hidden).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": spec["weight_decay"], "orthogonal": True},
        {"params": outer, "weight_decay": spec["weight_decay"], "orthogonal": False},
        {"params": others, "weight_decay": 0.0, "orthogonal": False},
    ]
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=spec["learning_rate"], momentum=0.9, nesterov=True, fused=True)
    if spec["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=spec["learning_rate"], betas=(0.9, 0.98), fused=True)
    if spec["optimizer"] == "muon":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Muon(groups, spec["learning_rate"], (0.9, 0.98), dtype)
    raise UserError(f"optimizer is {spec['optimizer']!r}: sgd, adamw or muon")


def learning_rate(spec: dict[str, Any], warmup: float, step: int, steps: int) -> float:
    """Rises in a line over the first `warmup` share of the steps, then falls in a line to zero."""
    rising = max(1, round(warmup * steps))
    return spec["learning_rate"] * min(step / rising, (steps - step + 1) / (steps - rising + 1))


def train_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    rate: float,
    options: dict[str, Any],
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update on normalized images x (B, 3, H, W) and int64 y (B, 2): is it FAKE, its object class or -1.

    Returns the loss () and the logits (B) of FAKE, detached.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        outputs = network(x)
    logits, object_logits = outputs[:, 0].float(), outputs[:, 1:].float()
    loss = F.binary_cross_entropy_with_logits(logits, y[:, 0].float())
    total = loss
    if options["object_loss"]:
        entropy = F.cross_entropy(object_logits, y[:, 1], ignore_index=-1, reduction="sum") / len(y)
        total = loss + options["object_loss"] * entropy
    optimizer.zero_grad()
    total.backward()
    if options["gradient_clip"]:
        torch.nn.utils.clip_grad_norm_(network.parameters(), options["gradient_clip"])
    optimizer.step()
    return loss.detach(), logits.detach()


def judge(logits: np.ndarray, split: Split) -> dict[str, float]:
    """What logits (N) of a split are worth, before any temperature and threshold."""
    y, is_fake = torch.from_numpy(logits), torch.from_numpy(split.labels == FAKE)
    return {
        "loss": F.binary_cross_entropy_with_logits(y, is_fake.float()).item(),
        "accuracy": ((y > 0) == is_fake).float().mean().item(),
        "auroc": float(roc_auc_score(is_fake, y)),
    }


def check_finite(loss: torch.Tensor, epoch: int) -> None:
    if not loss.isfinite():
        raise UserError(
            f"the loss is not finite in epoch {epoch + 1}: lower this model's learning_rate, or set train.gradient_clip"
            " or train.precision=fp32; earlier outputs are untouched"
        )


def best_epoch(history: list[dict[str, float]]) -> int:
    """Counted from 1: the highest validation accuracy, of equal ones the lowest validation loss."""
    return 1 + max(range(len(history)), key=lambda i: (history[i]["val/accuracy"], -history[i]["val/loss"]))


def peak_memory_mb(device: torch.device) -> int:
    """Of the GPU, or of this process without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def write_curves(history: list[dict[str, float]], folder: Path) -> None:
    """plots/training: the dvclive log of the whole run, whether it was resumed or not."""
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:
        for live.step, result in enumerate(history, start=1):
            for name, value in result.items():
                live.log_metric(name, value)
    with replacing("plots/training") as new:
        shutil.copytree(folder, new)


if __name__ == "__main__":
    run(main)
