"""Write the locks: every package that requirements*.in need, by version and hash; torch and CUDA by version alone.

    python -m tools.lock            what `make requirements` runs; a version changes only where it has to
    python -m tools.lock --check    change nothing, and exit with 1 where a lock is not what this would write

The settings of `uv pip compile` are in pyproject.toml, [tool.uv.pip], so that Dependabot has them, too.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from detector.errors import UserError, run
from detector.files import atomic_write

# In this order: the versions of the first are those of the next.
LOCKS = ("requirements-api.txt", "requirements.txt", "requirements-dev.txt")
TORCH = "requirements-torch.txt"
TORCH_HEADER = """\
# What `make requirements` leaves out of requirements.txt, since its builds differ: by version, without hashes.
# On Linux these are the builds with CUDA. `python -m tools.install_torch` has the smaller one where no GPU is.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare only")
    check = arguments.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        locks = compile_locks(Path(folder))
    stale = [name for name, text in locks.items() if not Path(name).exists() or Path(name).read_text() != text]
    if check and stale:
        raise UserError(f"{', '.join(stale)}: not what requirements*.in give; run `make requirements` and commit")
    for name in stale:
        with atomic_write(Path(name)) as new:
            new.write_text(locks[name])
    print("\n".join(f"{name} is written" for name in stale) or "the locks are up to date")


def compile_locks(folder: Path) -> dict[str, str]:
    """Return the text of each lock, compiled in a copy, with the versions of the present ones where they still fit."""
    for path in [*Path().glob("requirements*"), Path("pyproject.toml")]:
        shutil.copy(path, folder)
    for name in LOCKS:
        uv(folder, name.replace(".txt", ".in"), "-o", name, "--quiet")
    everything = uv(folder, "requirements.in", "-c", "requirements.txt", "-c", TORCH, "--no-config", "--universal",
                    "--python-version", settings()["python-version"], "--no-annotate", "--no-header")  # fmt: skip
    left_out = set(settings()["no-emit-package"])
    torch = [line for line in everything.splitlines() if re.split(r"\W*=", line)[0] in left_out]
    locks = {name: (folder / name).read_text() for name in LOCKS}
    return locks | {TORCH: TORCH_HEADER + "\n".join(torch) + "\n"}


def settings() -> dict:
    return tomllib.loads(Path("pyproject.toml").read_text())["tool"]["uv"]["pip"]


def uv(folder: Path, *arguments: str) -> str:
    """Return what `uv pip compile` prints. Raises UserError with its last line where it fails."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"uv pip compile {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


if __name__ == "__main__":
    run(main)
