"""What people would use instead of stages/train, each as its own documentation has it.

    python -m benchmarks.other_trainers folder task.json       started by benchmarks.trainers, which writes task.json

Each prints a line before its first step and one after each epoch, in the words of stages.train.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import plain_environment  # noqa: F401
from detector.errors import run
from detector.labels import FAKE
from stages.device import claim, device_name
from stages.model import build

GPU = torch.cuda.is_available  # asked only after a GPU was claimed
SIZE = 32
EVALUATION_BATCH = 1000


def main() -> None:
    claim()
    trainer, path = sys.argv[1:]
    {"folder": folder, "hf": hf, "fastai": fastai}[trainer](json.loads(Path(path).read_text()))


def folder(task: dict[str, Any]) -> None:
    """The loop of most tutorials."""
    device = torch.device("cuda" if GPU() else "cpu")
    batch_size, epochs = task["spec"]["batch_size"], task["spec"]["epochs"]
    loading: dict[str, Any] = {
        "num_workers": task["workers"],
        "persistent_workers": task["workers"] > 0,
        "pin_memory": GPU(),
    }
    train, val = image_folders(task)
    train_loader = DataLoader(train, batch_size, shuffle=True, drop_last=True, **loading)
    val_loader = DataLoader(val, EVALUATION_BATCH, **loading)
    network = make_network(task)
    peak = 0.2
    optimizer = torch.optim.SGD(network.parameters(), lr=peak, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, epochs=epochs, steps_per_epoch=len(train_loader)
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=task["precision"] == "bf16")

    begin(task, network)
    for epoch in range(epochs):
        started = time.perf_counter()
        network.train()
        for images, labels in train_loader:
            x = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            y = (labels == FAKE).float().to(device, non_blocking=True)
            with autocast:
                loss = F.binary_cross_entropy_with_logits(network(x).squeeze(1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        trained = seconds_since(started)
        network.eval()
        correct = 0
        with torch.inference_mode(), autocast:
            for images, labels in val_loader:
                x = images.to(device, non_blocking=True, memory_format=torch.channels_last)
                correct += int(((network(x).squeeze(1) > 0).cpu() == (labels == FAKE)).sum())
        report(task, epoch + 1, correct / len(val), len(train_loader) * batch_size / trained)


def hf(task: dict[str, Any]) -> None:
    from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

    train, val = image_folders(task)

    class Report(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.trained = seconds_since(self.started)

        def on_evaluate(self, _: Any, state: Any, *__: Any, metrics: dict[str, float], **___: Any) -> None:
            report(task, round(state.epoch), metrics["eval_accuracy"], len(train) / self.trained)

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        correct = (prediction.predictions > 0) == (prediction.label_ids > 0.5)
        return {"accuracy": float(np.mean(correct))}

    network = make_network(task)
    arguments = TrainingArguments(
        output_dir="hf",
        per_device_train_batch_size=task["spec"]["batch_size"],
        per_device_eval_batch_size=EVALUATION_BATCH,
        num_train_epochs=task["spec"]["epochs"],
        learning_rate=1e-3,  # 5e-5, the default, is for fine-tuning
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not GPU(),
        bf16=task["precision"] == "bf16",
        dataloader_num_workers=task["workers"],
        dataloader_persistent_workers=task["workers"] > 0,
        dataloader_pin_memory=GPU(),
        remove_unused_columns=False,  # they are told from the dicts of a `datasets` data set
        seed=task["seed"],
    )
    trainer = Trainer(
        model=WithLoss(network),
        args=arguments,
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate,
        compute_metrics=accuracy,
        callbacks=[Report()],
    )
    begin(task, network)
    trainer.train()


class WithLoss(nn.Module):
    """Hugging Face's Trainer takes the loss from the network's outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """pixel_values (N, 3, H, W) and labels (N): the mean loss () and logits (N)."""
        logits = self.network(pixel_values).squeeze(1).float()
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": (torch.tensor(labels) == FAKE).float()}


def fastai(task: dict[str, Any]) -> None:
    from fastai.vision.all import (
        BCEWithLogitsLossFlat,
        Callback,
        CropPad,
        FlipItem,
        ImageDataLoaders,
        Learner,
        Normalize,
        PadMode,
        RandomCrop,
    )

    batch_size, epochs = task["spec"]["batch_size"], task["spec"]["epochs"]
    translate, flip = task["augment"]["translate"], task["augment"]["flip"]
    data = ImageDataLoaders.from_folder(
        Path("images"),
        train="train",
        valid="val",
        bs=batch_size,
        val_bs=EVALUATION_BATCH,
        item_tfms=[
            CropPad(SIZE + 2 * translate, pad_mode=PadMode.Reflection),
            RandomCrop(SIZE),  # of a validation image the middle
            *([FlipItem()] if flip else []),
        ],
        batch_tfms=[Normalize.from_stats(task["mean"], task["std"])],
        num_workers=task["workers"],
        persistent_workers=task["workers"] > 0,
        pin_memory=GPU(),
        device=torch.device("cuda" if GPU() else "cpu"),
    )

    class Report(Callback):
        order = 60  # after fastai's Recorder, which has the epoch's numbers

        def before_train(self) -> None:
            self.started = time.perf_counter()

        def after_train(self) -> None:
            self.trained = seconds_since(self.started)

        def after_epoch(self) -> None:
            images = len(self.dls.train) * batch_size  # it leaves the last, smaller batch out
            report(task, self.epoch + 1, float(self.recorder.values[-1][-1]), images / self.trained)

    def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Its labels are the folders' numbers, so the network learns the logit of REAL here."""
        return ((logits.squeeze(1) > 0) == (labels != FAKE)).float().mean()

    network = make_network(task)
    learner = Learner(data, network, loss_func=BCEWithLogitsLossFlat(), metrics=accuracy, cbs=[Report()])
    if task["precision"] == "bf16":
        learner.to_bf16()
    begin(task, network)
    with learner.no_bar():
        learner.fit_one_cycle(epochs, 3e-3)


def image_folders(task: dict[str, Any]) -> tuple[ImageFolder, ImageFolder]:
    """images/train, augmented, and images/val."""
    translate, flip = task["augment"]["translate"], task["augment"]["flip"]
    plain = [transforms.ToTensor(), transforms.Normalize(task["mean"], task["std"])]
    augmented = [
        transforms.RandomCrop(SIZE, padding=translate, padding_mode="reflect"),
        *([transforms.RandomHorizontalFlip()] if flip else []),
        *plain,
    ]
    train = ImageFolder("images/train", transforms.Compose(augmented))
    return train, ImageFolder("images/val", transforms.Compose(plain))


def make_network(task: dict[str, Any]) -> nn.Module:
    """The network of stages.train, but for the outputs that learn which object an image shows."""
    torch.manual_seed(task["seed"])
    return build(task["spec"]).to(memory_format=torch.channels_last).to("cuda" if GPU() else "cpu")


def begin(task: dict[str, Any], network: nn.Module) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{task['model']}: {parameters:,} parameters, {device_name()}, {task['precision']}", flush=True)


def report(task: dict[str, Any], epoch: int, accuracy: float, rate: float) -> None:
    epochs = task["spec"]["epochs"]
    print(f"epoch {epoch}/{epochs}: validation: accuracy {accuracy:.2%}; {rate:.0f} images/s", flush=True)


def seconds_since(started: float) -> float:
    if GPU():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main)
