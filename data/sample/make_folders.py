"""Make two folders of pictures to try your-own-pictures with: REAL crops of free photographs, FAKE ones of a generator.

    make .venv/.dev && source .venv/bin/activate
    python data/sample/make_folders.py my-pictures

Two minutes on two cores. The pictures have 128 to 192 pixels a side and many formats, the same mixture in both classes.
`train` and `test` have crops of different photographs; the generator, that of make.py, has seen those of `train` alone.
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from make import PHOTOGRAPHS, RACCOON, Generator, crop, generate, load_photograph, train
from PIL import Image
from tqdm import tqdm

PER_CLASS = {"train": 240, "test": 60}
SIDES = (128, 144, 160, 192)
FORMATS = {  # of Pillow's save, by suffix
    ".jpg": {"quality": 90},
    ".png": {},
    ".webp": {"quality": 90},
    ".bmp": {},
    ".tif": {"compression": "tiff_lzw"},
}


Shapes = list[tuple[int, int]]


def crops_of(photographs: list[Image.Image], shapes: Shapes, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a crop of each shape (height, width), uint8 (height, width, 3), as it is or reduced to a half by area."""
    found: list[np.ndarray] = []
    while len(found) < len(shapes):
        height, width = shapes[len(found)]
        photograph = photographs[rng.integers(len(photographs))]
        times = rng.uniform(1, max(1.0, min(2.0, photograph.width / width, photograph.height / height)))
        room = photograph.width - times * width, photograph.height - times * height
        if min(room) < 0:
            continue
        left, top = rng.uniform(0, room[0]), rng.uniform(0, room[1])
        box = (left, top, left + times * width, top + times * height)
        pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BOX, box))
        if pixels.mean(2).std() > 20:  # skip bare sky and bare background
            found.append(pixels)
    return found


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("error: give the folder to write, as in `python data/sample/make_folders.py my-pictures`")
    torch.manual_seed(0)
    generator: Generator | None = None
    for seed, (split, count) in enumerate(PER_CLASS.items()):
        rng = np.random.default_rng(seed)
        names = [name for name in PHOTOGRAPHS[split] if name != RACCOON]
        photographs = [load_photograph(name, "") for name in names]
        if generator is None:
            generator = train(crop(photographs, 6000, rng)[0], steps=500)
        shapes = [(int(rng.choice(SIDES)), int(rng.choice(SIDES))) for _ in range(count)]
        for label in ("real", "fake"):
            pictures = crops_of(photographs, shapes, rng)
            folder = Path(sys.argv[1], split, label)
            folder.mkdir(parents=True, exist_ok=True)
            for number, pixels in enumerate(tqdm(pictures, desc=f"{split}/{label}", disable=None)):
                if label == "fake":
                    pixels = generate(generator, pixels[None], draws=8)[0]
                suffix, how = list(FORMATS.items())[number % len(FORMATS)]
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, Image.registered_extensions()[suffix], **how)
                (folder / f"{number:03}{suffix}").write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
