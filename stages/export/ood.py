"""Out-of-distribution detection: the exported graph with its OOD score, and pictures to try it on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.covariance import ledoit_wolf
from torch import nn

from stages.data import MappedImages
from stages.model import normalize

MAPS = [0, 1]  # the network's first intermediate maps, of which the OOD score is made
OTHER_PICTURES = 1000  # of each kind that no detector was trained on


class ExportGraph(nn.Module):
    """What model.onnx computes: uint8 (N, H, W, 3) -> logits of FAKE and OOD scores, each float32 (N), and the whitened
    features that the OOD score is the length of, float32 (N, F): principal components, the largest one last.

    The OOD score is the Mahalanobis distance of an image's features from those of training images, as root mean square
    over the dimensions (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples", but
    without classes). The features are the means and (logarithmic) standard deviations of the network's first maps. The
    features before the last layer say nothing: a network that is trained to tell two classes apart keeps there what
    FAKE and REAL need. They flagged 0.5 % of pure noise and 21 % of single colours; the first maps flag all of both
    (resnet18). Which maps, and the logarithm, were chosen by what they flag of `other_pictures` and of the test images
    of data/sample: of those, metrics/export.json and metrics/external.json show them at their best.
    """

    network: Any
    least: torch.Tensor
    center: torch.Tensor
    scale: torch.Tensor
    whitening: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], reference: Iterable[np.ndarray]
    ) -> None:
        """reference: batches of training images, uint8 (M, H, W, 3). mean and std: of the input."""
        super().__init__()
        self.network, self.mean, self.std = network, mean, std
        with torch.inference_mode():
            parts = [self.logits_and_maps(torch.from_numpy(batch))[1:] for batch in reference]
        means, deviations = (torch.cat(part) for part in zip(*parts, strict=True))
        # a deviation of 0 has no logarithm: that of a single colour, and of a channel that weight decay has silenced
        self.register_buffer("least", (1e-3 * deviations.mean(0)).clamp(min=1e-6))
        features = torch.cat([means, (deviations + self.least).log()], 1).numpy().astype(np.float64)
        center, scale = features.mean(0), features.std(0) + 1e-12
        scale[scale < 1e-6] = 1  # what never varies, but for rounding
        values, vectors = np.linalg.eigh(ledoit_wolf((features - center) / scale)[0])
        whitening = vectors / np.sqrt(values * len(center))
        for name, array in (("center", center), ("scale", scale)):
            self.register_buffer(name, torch.from_numpy(array).float())
        self.register_buffer("whitening", torch.from_numpy(whitening).half())

    def logits_and_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits (N), means and standard deviations of the first maps, each (N, channels of all)."""
        last, maps = self.network.forward_intermediates(normalize(images, self.mean, self.std), indices=MAPS)
        logit = self.network.forward_head(last).squeeze(1)
        means = torch.cat([one.mean((2, 3)) for one in maps], 1)
        deviations = torch.cat([one.std((2, 3), correction=0) for one in maps], 1)
        return logit, means, deviations

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logit, means, deviations = self.logits_and_maps(images)
        features = torch.cat([means, (deviations + self.least).log()], 1)
        whitened = (features - self.center) / self.scale @ self.whitening.float()
        return logit, torch.linalg.vector_norm(whitened, dim=1), whitened


def other_pictures(images: MappedImages) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kinds of pictures that are none of the data set's, and such pictures, uint8 (N, H, W, 3). Some are made of
    its test images; of a large side they take gigabytes, so one kind is there at a time."""
    random = np.random.default_rng(0)
    size = images.shape[1]
    shape = (OTHER_PICTURES, size, size, 3)
    source = images[np.linspace(0, len(images) - 1, OTHER_PICTURES).astype(int)]
    yield "noise", random.integers(0, 256, shape, np.uint8)
    yield "colour", np.broadcast_to(random.integers(0, 256, (OTHER_PICTURES, 1, 1, 3), np.uint8), shape)
    corner = (size - 8) // 2
    crops = [Image.fromarray(image[corner : corner + 8, corner : corner + 8]) for image in source]
    yield "enlarged", np.stack([np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)) for crop in crops])
    yield "inverted", 255 - source
