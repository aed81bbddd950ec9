"""What each epoch of a training was worth, and its curves."""

import shutil
from pathlib import Path

import numpy as np
import torch
from dvclive import Live
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from detector.errors import UserError
from detector.labels import FAKE
from stages.data import Split

History = list[dict[str, float]]  # of each finished epoch


def validation_metrics(logits: np.ndarray, split: Split) -> dict[str, float]:
    """Loss, accuracy and AUROC of logits (N) on a split, before temperature and threshold."""
    is_fake = split.labels == FAKE
    y, target = torch.from_numpy(logits), torch.from_numpy(is_fake).float()
    return {
        "loss": F.binary_cross_entropy_with_logits(y, target).item(),
        "accuracy": float(np.mean((logits > 0) == is_fake)),
        "auroc": float(roc_auc_score(is_fake, logits)),
    }


def check_finite(loss: torch.Tensor, epoch: int) -> None:
    if not loss.isfinite():
        raise UserError(
            f"the loss is not finite in epoch {epoch + 1}: lower this model's learning_rate, or set train.gradient_clip"
            " or train.precision=fp32; earlier outputs are untouched"
        )


def best_epoch(history: History) -> int:
    """Return the epoch, counted from 1, of the highest validation accuracy, of equal ones the lowest loss."""
    return 1 + max(range(len(history)), key=lambda i: (history[i]["val/accuracy"], -history[i]["val/loss"]))


def write_curves(history: History, folder: Path, plots: Path) -> None:
    """Write plots/training: the dvclive log of the whole run, whether it was resumed or not. It is made in `folder`."""
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:
        for live.step, result in enumerate(history, start=1):
            for name, value in result.items():
                live.log_metric(name, value)
    shutil.copytree(folder, plots)
