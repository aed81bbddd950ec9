"""Augmentation: batches of flipped, translated, corrupted and cropped images, made on the device that trains.

No step handles one image at a time: flips and translations are other indices to gather from. How images are corrupted
stands in corruption.py.

Where several processes train together, random numbers are drawn for the whole batch in each of them, and each makes the
images that it has of it: number `rank` and every `size`-th from there on. So the batch does not depend on how many
processes there are, and each has its part of the corrupted images, which come first.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stages.data import MappedImages
from stages.train.corruption import corruptions_for

RESIDENT_SHARE = 0.5  # of a GPU's free memory that a split may take

Read = Callable[[Iterator[np.ndarray]], Iterator[torch.Tensor]]


def pack_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> int32 (N, H, W): a whole pixel is gathered as quickly as one of its colours."""
    return F.pad(images, (0, 1)).view(torch.int32).squeeze(3)


def on_device(images: MappedImages, device: torch.device) -> torch.Tensor:
    """Return a split's pixels on a device, int32 (N, H, W). It never has more of them than these and a block."""
    resident = torch.empty(images.shape[:3], dtype=torch.int32, device=device)
    start = 0
    for block in images.blocks():
        resident[start : start + len(block)] = pack_pixels(torch.from_numpy(block).to(device))
        start += len(block)
    return resident


def reader(images: MappedImages, device: torch.device) -> Read:
    """Return what reads batches of a split: rows, int64 (B) each, -> pixels on the device, int32 (B, H, W) each.

    A split that fits into a GPU's memory is moved there once. Any other is read from its memory map, one batch ahead,
    while the step before computes; so it may be larger than the memory.
    """
    if device.type == "cuda" and 4 / 3 * images.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        resident = on_device(images, device)
        return lambda batches: (resident[torch.from_numpy(rows).to(device)] for rows in batches)

    def read(batches: Iterator[np.ndarray]) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(images.__getitem__, rows) for rows in islice(batches, 1))
            while ahead:
                ahead.extend(thread.submit(images.__getitem__, rows) for rows in islice(batches, 1))
                yield pack_pixels(torch.from_numpy(ahead.popleft().result()).to(device))

    return read


def batches(
    read: Read,
    targets: torch.Tensor,
    size: int,
    batch_size: int,
    augment: dict[str, Any],
    generator: torch.Generator | None,
    crop: int | None = None,
    process: tuple[int, int] = (0, 1),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch of augmented images, uint8 (B, size, size, 3), and targets (B, ...), as `read_batches` does;
    for measurements and tests.

    With `crop` all images of a batch get the same crop of `crop` x `crop` pixels.
    """
    augmented = augmentation(size, batch_size, augment, generator, targets.device, crop, process)
    for pixels, y in read_batches(read, targets, batch_size, generator, process):
        yield augmented(pixels), y


def read_batches(
    read: Read,
    targets: torch.Tensor,
    batch_size: int,
    generator: torch.Generator | None,
    process: tuple[int, int] = (0, 1),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch in random order: pixels, int32 (B, S, S) as `pack_pixels` makes them, and targets (B, ...), on
    the device of all `targets`.

    Images left over after the last full batch wait for the next epoch. `process`: the number of this one, and how many
    share each batch of `batch_size`.
    """
    device = targets.device
    order = torch.randperm(len(targets), generator=generator, device=device)
    chosen_rows = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
    chosen_rows = chosen_rows[:, rows_of(process, 0, batch_size)]
    for chosen, pixels in zip(chosen_rows, read(iter(chosen_rows.cpu().numpy())), strict=True):
        yield pixels, targets[chosen]


def rows_of(process: tuple[int, int], start: int, stop: int) -> slice:
    """Return which of the images `start` to `stop` of a batch a process has, counted from `start`."""
    rank, size = process
    return slice((rank - start) % size, stop - start, size)


def augmentation(
    size: int,
    batch_size: int,
    augment: dict[str, Any],
    generator: torch.Generator | None,
    device: torch.device,
    crop: int | None,
    process: tuple[int, int] = (0, 1),
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what augments a batch: pixels, int32 (B, size, size) as `pack_pixels` makes them -> uint8 (B, S, S, 3), B
    the images that this process has of `batch_size`.

    The share `augment["corruption"]` of each batch is corrupted, an equal part of it in each way. No number is read
    back from the device: a GPU would have to wait. Without a generator, torch's own random numbers are taken; the place
    of a crop comes from those always.
    """
    translate = augment["translate"]
    mine = rows_of(process, 0, batch_size)
    count = len(range(batch_size)[mine])
    within = torch.arange(count, device=device)[:, None, None]
    place = torch.arange(size, device=device)
    cropped = torch.arange(crop or size, device=device)
    corruptions = corruptions_for(size, device) if augment["corruption"] else []
    kinds = max(1, len(corruptions))
    each = min(round(augment["corruption"] * batch_size / kinds), batch_size // kinds)
    shares = [rows_of(process, kind * each, (kind + 1) * each) for kind in range(len(corruptions))]
    counts = [len(range(each)[share]) for share in shares]
    corrupted = sum(counts)  # of the images that this process has

    def augmented(pixels: torch.Tensor) -> torch.Tensor:
        offsets = torch.randint(-translate, translate + 1, (2, batch_size, 1), generator=generator, device=device)
        places = place + offsets[:, mine]
        rows, columns = (size - 1) - ((size - 1) - places.abs()).abs()  # reflected at both ends
        if augment["flip"]:
            flip = torch.rand(batch_size, 1, generator=generator, device=device)[mine] < 0.5
            columns = torch.where(flip, columns.flip(1), columns)
        positions = (within * size + rows[:, :, None]) * size + columns[:, None, :]
        gathered = pixels.view(-1).index_select(0, positions.view(-1)).view(torch.uint8)
        images = gathered.view(count, size, size, 4)[..., :3]
        if each:
            # the order is random: the first images of a batch are as random as any
            parts = images[:corrupted].permute(0, 3, 1, 2).float().split(counts)
            changed = [
                corrupt(part, generator, (each, share))
                for corrupt, part, share in zip(corruptions, parts, shares, strict=True)
            ]
            images[:corrupted] = torch.cat(changed).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
        if crop:
            top, left = torch.randint(size - crop + 1, (2,), device=device)
            images = images.index_select(1, top + cropped).index_select(2, left + cropped)
        return images

    return augmented
