"""Augmentation: batches of flipped, translated, corrupted and cropped images, made on the device that trains.

No step handles one image at a time: flips and translations are other indices to gather from. How images are corrupted
stands in corruption.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from stages.train.corruption import corruptions_for


def pack_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> int32 (N, H, W): a whole pixel is gathered as quickly as one of its colours."""
    return F.pad(images, (0, 1)).view(torch.int32).squeeze(3)


def batches(
    pixels: torch.Tensor,
    targets: torch.Tensor,
    batch_size: int,
    augment: dict[str, Any],
    generator: torch.Generator,
    crop: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch in random order: uint8 (B, H, W, 3) and targets (B, ...), on the device of the packed `pixels`.

    The share `augment["corruption"]` of each batch is corrupted, an equal part of it in each way. With `crop`
    all images of a batch get the same crop of `crop` x `crop` pixels. Images left over after the last full batch
    wait for the next epoch.
    """
    size, device, translate = pixels.shape[1], pixels.device, augment["translate"]
    order = torch.randperm(len(pixels), generator=generator, device=device)
    place = torch.arange(size, device=device)
    corruptions = corruptions_for(size, device) if augment["corruption"] else []
    corrupted = len(corruptions) * round(augment["corruption"] * batch_size / max(1, len(corruptions)))
    for chosen in order[: len(order) // batch_size * batch_size].split(batch_size):
        offsets = torch.randint(-translate, translate + 1, (2, batch_size, 1), generator=generator, device=device)
        rows, columns = (size - 1) - ((size - 1) - (place + offsets).abs()).abs()  # reflected at both ends
        if augment["flip"]:
            flip = torch.rand(batch_size, 1, generator=generator, device=device) < 0.5
            columns = torch.where(flip, columns.flip(1), columns)
        positions = (chosen[:, None, None] * size + rows[:, :, None]) * size + columns[:, None, :]
        gathered = pixels.view(-1).index_select(0, positions.view(-1)).view(torch.uint8)
        images = gathered.view(batch_size, size, size, 4)[..., :3]
        if corrupted:
            # the order is random: the first images of a batch are as random as any
            parts = images[:corrupted].permute(0, 3, 1, 2).float().tensor_split(len(corruptions))
            changed = [corrupt(part, generator) for corrupt, part in zip(corruptions, parts, strict=True)]
            images[:corrupted] = torch.cat(changed).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
        if crop:
            top, left = torch.randint(size - crop + 1, (2,)).tolist()  # on the CPU: reading from a GPU waits for it
            images = images[:, top : top + crop, left : left + crop]
        yield images, targets[chosen]
