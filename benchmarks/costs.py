"""What decoding costs: for each format, a picture of as many pixels as may be, in memory and processor time.

    python -m benchmarks.costs > benchmarks/results/costs.md

Each picture is smooth noise with, where the format has it, transparency; it is decoded in a process of its own, by the
code of the decoding workers. Memory is the growth of the address space, which is what bounds a worker; its file comes
on top.
"""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.heading import heading
from detector.colours import SRGB_PRIMARIES, matrix_profile
from detector.errors import run
from detector.pool import MEGABYTES, SECONDS
from detector.sources import MAX_PIXELS

CODE = """
import json, os, re, resource, sys
from pathlib import Path
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from detector.worker import import_decoders
import_decoders()
from detector.pictures import preprocess
data = sys.stdin.buffer.read()
def megabytes(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
before, began = megabytes("VmSize"), sum(os.times()[:2])
notes = preprocess(data, 32).notes
result = {"peak": megabytes("VmPeak") - before, "kept": megabytes("VmSize") - before}
print(json.dumps(result | {"seconds": sum(os.times()[:2]) - began}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=MAX_PIXELS / 1e6, help="(default: %(default)s)")
    megapixels = parser.parse_args().megapixels

    print(heading("What decoding costs", versions=("pillow", "simplejpeg")))
    print(f"A worker may take {MEGABYTES} MB and {SECONDS:g} s for a file.\n")
    print("| Picture | megapixels | file, MB | memory, MB | bytes a pixel | kept, MB | processor time, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, save in tqdm(PICTURES.items(), disable=None):
        number = megapixels * (2 if name.startswith("JPEG") else 1)
        side = int((number * 1e6) ** 0.5)
        file = io.BytesIO()
        save(side, file)
        cost = decode(file.getvalue())
        numbers = [f"{number:g}", f"{file.tell() / 1e6:.1f}", f"{cost['peak']:.0f}", f"{cost['peak'] / number:.1f}"]
        print(f"| {name} | {' | '.join(numbers)} | {cost['kept']:.0f} | {cost['seconds']:.1f} |", flush=True)


def decode(data: bytes) -> Any:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, input=data, check=True, capture_output=True)
    return json.loads(done.stdout)


def picture(side: int, mode: str) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8))
    large = small.resize((side, side), Image.Resampling.BILINEAR)
    return large if mode == "RGBA" else large.convert("RGB").convert(mode)


def saving(mode: str, form: str, **options: Any) -> Callable[[int, BinaryIO], None]:
    return lambda side, file: picture(side, mode).save(file, form, **options)


def save_16_bits(side: int, file: BinaryIO) -> None:
    Image.fromarray(np.asarray(picture(side, "L")).astype(np.uint16) * 257).save(file, "PNG", compress_level=1)


LINEAR = matrix_profile(SRGB_PRIMARIES, (0, 1.0))
TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES: dict[str, Callable[[int, BinaryIO], None]] = {
    "JPEG": saving("RGB", "JPEG"),
    "JPEG, progressive, 4:2:0": saving("RGB", "JPEG", progressive=True),
    "JPEG, progressive, 4:4:4": saving("RGB", "JPEG", progressive=True, subsampling=0),
    "JPEG, progressive, with a profile": saving("RGB", "JPEG", progressive=True, subsampling=0, icc_profile=LINEAR),
    "JPEG, progressive, CMYK": saving("CMYK", "JPEG", progressive=True),
    "PNG": saving("RGB", "PNG", compress_level=1),
    "PNG, transparent": saving("RGBA", "PNG", compress_level=1),
    "PNG, transparent, turned": saving("RGBA", "PNG", compress_level=1, exif=TURNED),
    "PNG, transparent, with a profile": saving("RGBA", "PNG", compress_level=1, icc_profile=LINEAR),
    "PNG, grey and transparent": saving("LA", "PNG", compress_level=1),
    "PNG, 16 bits": save_16_bits,
    "PNG, palette, transparent": saving("P", "PNG", transparency=3),
    "GIF": saving("P", "GIF"),
    "GIF, transparent": saving("P", "GIF", transparency=3),
    "WebP": saving("RGB", "WEBP", method=0),
    "WebP, transparent": saving("RGBA", "WEBP", method=0),
    "WebP, lossless, transparent": saving("RGBA", "WEBP", lossless=True, quality=0, method=0),
    "WebP, transparent, with a profile": saving("RGBA", "WEBP", method=0, icc_profile=LINEAR),
    "BMP": saving("RGB", "BMP"),
    "TIFF": saving("RGB", "TIFF"),
    "TIFF, deflate, transparent": saving("RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, deflate, CMYK": saving("CMYK", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": saving("RGB", "TIFF", compression="jpeg"),
    "AVIF, 4:2:0": saving("RGB", "AVIF", speed=10),
    "AVIF, 4:4:4": saving("RGB", "AVIF", speed=10, subsampling="4:4:4"),
    "AVIF, 4:4:4, transparent": saving("RGBA", "AVIF", speed=10, subsampling="4:4:4"),
    "AVIF, 4:4:4, transparent, turned": saving("RGBA", "AVIF", speed=10, subsampling="4:4:4", exif=TURNED),
}


if __name__ == "__main__":
    run(main)
