"""Make the embedded sample: REAL crops of free photographs, FAKE images of a small generator.

    make .venv/.dev && source .venv/bin/activate
    pip download scipy==1.10.1 --no-deps --python-version 3.11 --only-binary :all: -d /tmp/scipy
    python data/sample/make.py /tmp/scipy/scipy-1.10.1-*.whl

(That old SciPy wheel has the raccoon; it is read, not installed.) Three minutes of one CPU core; the
same torch on the same kind of CPU gives the same bytes.

The generator learns what a photograph adds to its own 4x4 thumbnail by flow matching (Lipman et
al., 2023, arXiv:2210.02747). It is trained on crops of the training photographs, and makes the FAKE
images of both splits, as one generator made those of CIFAKE: each from noise, guided by the thumbnail
of a crop that is itself neither in the sample nor among those that it was trained on.
"""

import bz2
import io
import json
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

HERE = Path(__file__).parent
POOL, STEPS, BATCH, DRAWS = 12_000, 1000, 32, 20
RACCOON = "scipy/misc/face.dat"
PHOTOGRAPHS = {  # package and path inside it; whole photographs are split, not their crops
    "train": [
        "skimage/data/astronaut.png",
        "skimage/data/chelsea.png",
        "sklearn/datasets/images/china.jpg",
        "skimage/data/coffee.png",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/retina.jpg",
    ],
    "test": ["sklearn/datasets/images/flower.jpg", RACCOON, "skimage/data/rocket.jpg"],
}
PER_CLASS = {"train": 1200, "test": 300}


def load_photograph(photograph: str, scipy_wheel: str) -> Image.Image:
    """A photograph, RGB, from inside the installed package; the raccoon from inside the wheel."""
    if photograph == RACCOON:
        data = zipfile.ZipFile(scipy_wheel).read(RACCOON)
        return Image.frombytes("RGB", (1024, 768), bz2.decompress(data))
    package, _, path = photograph.partition("/")
    return Image.open(str(files(package) / path)).convert("RGB")


def crop(photographs: list[Image.Image], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random square crops, uint8 (count, 32, 32, 3), reduced 1.5 to 12 times by area, and the index of the photograph
    that each is from, int64 (count)."""
    crops: list[np.ndarray] = []
    while len(crops) < count:
        photograph = photographs[len(crops) % len(photographs)]
        largest = min(12.0, min(photograph.size) / 32)
        side = 32 * np.exp(rng.uniform(np.log(1.5), np.log(largest)))
        left, top = rng.uniform(0, np.array(photograph.size) - side)
        box = (left, top, left + side, top + side)
        pixels = np.asarray(photograph.resize((32, 32), Image.Resampling.BOX, box))
        if pixels.mean(2).std() > 10:  # skip bare sky and bare background
            crops.append(pixels[:, :: rng.choice([-1, 1])])
    order = rng.permutation(count)
    return np.stack(crops)[order], order % len(photographs)


def blurred(x: Tensor) -> Tensor:
    """What the thumbnail, an eighth of its size, still knows of x (N, 3, 8 h, 8 w)."""
    return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8.0, mode="bilinear")


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, c_in), nn.GroupNorm(8, c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.time = nn.Linear(64, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Generator(nn.Module):
    """A guess of the clean detail in x (N, 3, 32, 32), which is noise at time t = 0 and clean at 1.

    A U-Net, at 16 and 8 pixels for speed; so small a one can guess detail, but not noise (velocity).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.first = nn.Conv2d(24, width, 3, padding=1)
        self.down, self.shrink = Block(width, width), nn.Conv2d(width, 2 * width, 4, 2, 1)
        self.middle = nn.ModuleList([Block(2 * width, 2 * width) for _ in range(2)])
        self.grow, self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1), Block(2 * width, width)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor, thumbnail: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(torch.linspace(0, 5, 16))
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.first(F.pixel_unshuffle(torch.cat([x, thumbnail], 1), 2))
        x = self.shrink(skip := self.down(x, time))
        for block in self.middle:
            x = block(x, time)
        x = self.up(torch.cat([self.grow(x), skip], 1), time)
        return F.pixel_shuffle(self.last(F.silu(x)), 2)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(crops: np.ndarray, steps: int = STEPS) -> Generator:
    """The trained generator: it draws detail with a standard deviation of 1."""
    generator = Generator()
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(generator.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    pixels = as_tensor(crops)
    scale = (pixels - blurred(pixels)).std().item()
    for _ in (bar := trange(steps, desc="train generator", mininterval=5)):
        x = pixels[torch.randint(len(pixels), (BATCH,))]
        # colours in any order: other photographs than these have other colours
        x = x.gather(1, torch.rand(BATCH, 3).argsort(1)[:, :, None, None].expand_as(x))
        thumbnail = blurred(x)
        detail, noise = (x - thumbnail) / scale, torch.randn_like(x)
        mix = (t := torch.randn(BATCH).sigmoid())[:, None, None, None]
        guess = generator(mix * detail + (1 - mix) * noise, thumbnail, t)
        loss = ((guess - detail) / (1 - mix).clamp_min(0.1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(generator)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return average.module


@torch.no_grad()
def generate(generator: Generator, crops: np.ndarray, what: str = "", draws: int = DRAWS) -> np.ndarray:
    """One image for the thumbnail of each crop, uint8 (N, 8 h, 8 w, 3): Euler's method from noise."""
    pixels = as_tensor(crops)
    thumbnail = blurred(pixels)
    x = torch.randn_like(thumbnail)
    for step in trange(draws, desc=f"draw fakes ({what})", disable=not what):
        guess = generator(x, thumbnail, torch.full((len(x),), step / draws))
        x = x + (guess - x) / (draws - step)
    # as much detail as in the crop: contrast must not tell the classes apart
    detail = x * ((pixels - thumbnail).std((1, 2, 3)) / x.std((1, 2, 3))).view(-1, 1, 1, 1)
    fakes = (thumbnail + detail + 1) * 127.5
    return fakes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def write(fake: np.ndarray, real: np.ndarray, photographs: list[str], path: Path) -> None:
    """Parquet as `datasets` reads it, of JPEGs as in CIFAKE (Pillow's quality 75, chroma 4:2:0).

    photographs: which one each image comes from, or was guided by, those of fake first. Images of one are not
    independent of each other.
    """
    rows, labels = [], []
    for label, (name, images) in enumerate([("FAKE", fake), ("REAL", real)]):
        for number, pixels in enumerate(images, 1):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=75, subsampling="4:2:0")
            rows.append({"bytes": file.getvalue(), "path": f"{name}/{number:04}.jpg"})
            labels.append(label)
    label_type = {"names": ["FAKE", "REAL"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label_type, "photograph": {"_type": "Value", "dtype": "string"}}
    info = {"info": {"features": features}}
    table = pa.table({"image": rows, "label": labels, "photograph": photographs})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, compression="zstd", compression_level=19)


def contact_sheet(fake: np.ndarray, real: np.ndarray) -> Image.Image:
    """5x4 FAKE on the left, 5x4 REAL on the right, twice their size."""
    grids = (x[:20].reshape(4, 5, 32, 32, 3).swapaxes(1, 2) for x in (fake, real))
    left, right = (grid.reshape(128, 160, 3) for grid in grids)
    sheet = np.concatenate([left, np.full((128, 8, 3), 255, np.uint8), right], 1)
    return Image.fromarray(sheet.repeat(2, 0).repeat(2, 1))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("error: give the SciPy 1.10.1 wheel; the first lines of make.py say how to get it")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    crops, photographs = {}, {}
    for seed, (split, names) in enumerate(PHOTOGRAPHS.items()):
        rng = np.random.default_rng(seed)
        crops[split], of_crop = crop([load_photograph(name, sys.argv[1]) for name in names], POOL, rng)
        photographs[split] = [Path(names[number]).stem for number in of_crop]
    # one generator for both splits, as in CIFAKE; it has seen the training photographs alone
    n = PER_CLASS["train"]
    generator = train(crops["train"][2 * n :])
    for split, count in PER_CLASS.items():
        real, guides = crops[split][:count], crops[split][count : 2 * count]
        fake = generate(generator, guides, split)
        of_real, of_fake = photographs[split][:count], photographs[split][count : 2 * count]
        write(fake, real, of_fake + of_real, HERE / f"{split}.parquet")
    contact_sheet(fake, real).save(HERE / "preview.png", optimize=True)


if __name__ == "__main__":
    main()
