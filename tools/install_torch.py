"""Install torch and torchvision: the build without CUDA where no NVIDIA GPU is and PyTorch's index answers.

    python -m tools.install_torch

The Python Package Index has for Linux the builds with CUDA alone, 2.9 GB to download. PyTorch's own index has them
without; TORCH_CPU_INDEX names a mirror of it. The versions are those of requirements-torch.txt. What is installed
already stays. Only the standard library is used: this runs before anything else is installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINS = Path("requirements-torch.txt")
CPU_INDEX = os.environ.get("TORCH_CPU_INDEX") or "https://download.pytorch.org/whl/cpu"
SECONDS = 5  # for the index to answer
SIZE = "2.9 GB to download, 5.2 GB on disk"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def main() -> int:
    argparse.ArgumentParser(prog="python -m tools.install_torch", description=__doc__.partition("\n")[0]).parse_args()
    pins = dict(re.findall(r"^(torch|torchvision)==([\d.]+)", PINS.read_text(), re.MULTILINE))
    if all(installed(name) == pin for name, pin in pins.items()):
        return 0
    if sys.platform == "linux":
        if has_nvidia_gpu():
            print(f"installing PyTorch with CUDA for the GPU here, {SIZE}", flush=True)
        elif cpu_build_is_offered(pins["torch"]):
            print("no NVIDIA GPU here: installing PyTorch without CUDA", flush=True)
            return install("--index-url", CPU_INDEX, *(f"{name}=={pin}+cpu" for name, pin in pins.items()))
        else:
            print(
                f"no NVIDIA GPU here, but no PyTorch without CUDA at {CPU_INDEX} within {SECONDS} s: installing the "
                f"build with CUDA, {SIZE}",
                flush=True,
            )
    return install("-r", str(PINS))


def installed(name: str) -> str | None:
    """Return the version of an installed package without the name of its build, as in 2.14.1 for 2.14.1+cpu."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def cpu_build_is_offered(pin: str) -> bool:
    """Ask the index, through pip, which knows the proxies, certificates and the wheels that fit this Python."""
    question = (*PIP, "index", "versions", "torch", "--index-url", CPU_INDEX, "--retries", "0")
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return f"{pin}+cpu" in re.split(r"[\s,()]+", answer.stdout)


def install(*what: str) -> int:
    return subprocess.run([*PIP, "install", "--no-deps", *what]).returncode


if __name__ == "__main__":
    sys.exit(main())
