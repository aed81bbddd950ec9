"""How training corrupts images: noise, blur, JPEG and rescaling of whole batches, on the device that trains.

These are quick approximations of what `evaluate` measures with the libraries that people's images go through
(stages/evaluate/corruptions.py): blur and rescaling are products with small matrices, and JPEG is its cosine transform
rounded, without the lossless part of the format. Blur and rescaling grow with the side of the images.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from detector.errors import UserError
from detector.sizes import REFERENCE_SIDE

# Strengths, drawn evenly between the two ends.
NOISE = (0.02, 0.12)  # standard deviation, of 1
BLUR = (0.3, 1.1)  # sigma in pixels of an image of 32 px
JPEG = (35, 90)  # quality
RESCALE = (0.35, 0.9)  # of the size, and back
LEVELS = 17  # of blur, and of rescaling at most: each is a matrix of size x size

# Annex K of the JPEG standard (ITU T.81), for quality 50; rows of eight.
LUMA = [
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
]
CHROMA = [
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *([99] * 32),
]
TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
FROM_YCC = torch.linalg.inv(TO_YCC)


Share = tuple[int, slice]  # how many images there are in all processes, and which of them this one has
Corruption = Callable[..., torch.Tensor]


def corruptions_for(size: int, device: torch.device) -> list[Corruption]:
    """Return the ways in which images lose quality on the web, each float32 (N, 3, size, size), 0 to 255, to the same.

    Each takes the images, a generator or None, and a share where several processes have the images: random numbers are
    drawn for all of them, and those of the share are used. Raises UserError for an odd size.
    """
    if size % 2:
        raise UserError(
            f"train.augment.corruption needs images of an even side (JPEG halves their colours), these have {size} px: "
            "prepare them at another size, or set it to 0"
        )
    sigmas = [sigma * size / REFERENCE_SIDE for sigma in torch.linspace(*BLUR, LEVELS).tolist()]
    blurs = torch.stack([blur_matrix(size, sigma) for sigma in sigmas]).to(device)
    low, high = math.ceil(RESCALE[0] * size), math.floor(RESCALE[1] * size)
    sizes = torch.linspace(low, high, min(LEVELS, high - low + 1)).round().int().tolist()
    rescales = torch.stack([rescale_matrix(size, smaller) for smaller in sizes]).to(device)
    cosines, to_ycc, from_ycc = (matrix.to(device) for matrix in (cosine_transform(), TO_YCC, FROM_YCC))
    tables = torch.tensor([LUMA, CHROMA, CHROMA], device=device).view(3, 1, 8, 1, 8)

    def noise(x: torch.Tensor, generator: torch.Generator | None, share: Share | None = None) -> torch.Tensor:
        sd = uniform(*NOISE, x, generator, share).view(-1, 1, 1, 1)
        count, mine = share or all_of(x)
        return x + 255 * sd * torch.randn((count, *x.shape[1:]), generator=generator, device=x.device)[mine]

    def blur(x: torch.Tensor, generator: torch.Generator | None, share: Share | None = None) -> torch.Tensor:
        return along_both_sides(x, pick(blurs, x, generator, share))

    def rescale(x: torch.Tensor, generator: torch.Generator | None, share: Share | None = None) -> torch.Tensor:
        return along_both_sides(x, pick(rescales, x, generator, share))

    def jpeg(x: torch.Tensor, generator: torch.Generator | None, share: Share | None = None) -> torch.Tensor:
        return jpeg_roundtrip(x, uniform(*JPEG, x, generator, share).round(), cosines, tables, to_ycc, from_ycc)

    return [noise, blur, jpeg, rescale]


def all_of(x: torch.Tensor) -> Share:
    """Return the share of one process alone."""
    return len(x), slice(None)


def uniform(
    low: float, high: float, x: torch.Tensor, generator: torch.Generator | None, share: Share | None
) -> torch.Tensor:
    """Return a random number for each image of x."""
    count, mine = share or all_of(x)
    return low + (high - low) * torch.rand(count, generator=generator, device=x.device)[mine]


def pick(
    matrices: torch.Tensor, x: torch.Tensor, generator: torch.Generator | None, share: Share | None
) -> torch.Tensor:
    """Return one of the matrices for each image of x."""
    count, mine = share or all_of(x)
    return matrices[torch.randint(len(matrices), (count,), generator=generator, device=x.device)[mine]]


def along_both_sides(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Multiply each image (N, 3, H, H) with its matrix (N, H, H), along its columns and along its rows."""
    matrices = matrices[:, None]
    return matrices @ x @ matrices.mT


def blur_matrix(size: int, sigma: float) -> torch.Tensor:
    """(size, size): a Gaussian along one side, the image reflected at its border, over and over where the Gaussian is
    wider than the image."""
    place = torch.arange(size)
    reach = math.ceil(4 * sigma)
    matrix = torch.zeros(size, size)
    weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
        source = (place + offset) % (2 * size)  # the image and its mirror image take turns
        source = torch.where(source >= size, 2 * size - 1 - source, source)
        matrix[place, source] += weight
    return matrix


def rescale_matrix(size: int, smaller: int) -> torch.Tensor:
    """(size, size): bicubic resampling along one side, to `smaller` pixels and back."""
    image = torch.eye(size)[None, None]  # its columns are the unit impulses
    for height in (smaller, size):
        image = F.interpolate(image, (height, size), mode="bicubic", antialias=True)
    return image[0, 0]


def cosine_transform() -> torch.Tensor:
    """(8, 8): the orthonormal DCT-II of JPEG's blocks."""
    k = torch.arange(8)
    matrix = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def jpeg_roundtrip(
    x: torch.Tensor,
    quality: torch.Tensor,
    cosines: torch.Tensor,
    tables: torch.Tensor,
    to_ycc: torch.Tensor,
    from_ycc: torch.Tensor,
) -> torch.Tensor:
    """Return images (N, 3, H, W), H and W even, as libjpeg with 4:2:0 chroma leaves them at qualities (N), but for its
    integer rounding."""
    height, width = x.shape[2:]
    if height % 16 or width % 16:  # whole blocks of colour, by repeating the border as libjpeg does
        x = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = ((tables[None] * scale.view(-1, 1, 1, 1, 1, 1) + 50) / 100).floor().clamp(1, 255)
    planes = torch.einsum("cd,ndhw->nchw", to_ycc, x)
    luma = planes[:, :1] - 128
    chroma = F.avg_pool2d(planes[:, 1:], 2)
    luma, chroma = quantize(luma, steps[:, :1], cosines) + 128, quantize(chroma, steps[:, 1:], cosines)
    luma, chroma = luma[..., :height, :width], chroma[..., : height // 2, : width // 2]
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")  # libjpeg's "fancy upsampling"
    return torch.einsum("cd,ndhw->nchw", from_ycc, torch.cat([luma, chroma], 1))


def quantize(planes: torch.Tensor, steps: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """Round the cosine transforms of the 8x8 blocks of planes (N, C, H, W) to steps (N, C, 1, 8, 1, 8)."""
    n, c, h, w = planes.shape
    blocks = planes.view(n, c, h // 8, 8, w // 8, 8)
    coefficients = torch.einsum("ki,lj,ncyixj->ncykxl", cosines, cosines, blocks)
    rounded = (coefficients / steps).round() * steps
    return torch.einsum("ki,lj,ncykxl->ncyixj", cosines, cosines, rounded).reshape(n, c, h, w)
