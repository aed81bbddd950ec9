"""Build the page that answers in the browser itself: a folder for any static host.

    python -m tools.browser [FOLDER]          build/browser; make docs puts it into the site

It is the service's page (app/static) with another engine (browser/): one released model, small enough to be fetched,
onnxruntime and libjpeg as WebAssembly, and a service worker that keeps all of it for the next visit. npm fetches the
WebAssembly, as browser/package-lock.json pins it; its `overrides` leave out the test runner that lcms-wasm names as a
dependency.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from detector.detector import Detector
from detector.errors import UserError, run
from detector.files import atomic_write
from detector.released import DEFAULT
from detector.sources import MAX_BYTES, MAX_PIXELS
from tools.small_model import MOST_BYTES, shrink

MODEL = Path(DEFAULT)
SOURCE, STATIC = Path("browser"), Path("app/static")
PACKAGES = SOURCE / "node_modules"
VENDOR = (
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "@jsquash/jpeg/codec/dec/mozjpeg_dec.js",
    "@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm",
    "lcms-wasm/dist/lcms.js",
    "lcms-wasm/dist/lcms.wasm",
)
LICENSES = ("@jsquash/jpeg/LICENSE", "@jsquash/jpeg/codec/LICENSE.codec.md", "lcms-wasm/LICENSE.md")
# All that a build holds. Whatever is not exactly that may be somebody's own.
BUILT = {
    *("index.html", "static", "engine", "manifest.webmanifest", "service-worker.js"),
    *("model.json", "model.onnx", "model.safetensors", "README.md", "LICENSE"),
}
# A static host sends no headers. WebAssembly takes 'wasm-unsafe-eval'; blob: and data: are the page's own.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
HEAD = f"""<meta charset="utf-8">
  <meta http-equiv="Content-Security-Policy" content="{POLICY}">
  <meta name="referrer" content="no-referrer">
  <link rel="manifest" href="manifest.webmanifest">"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.browser", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default="build/browser", help="default: %(default)s")
    folder = parser.parse_args().folder
    build(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{folder}/index.html: {size / 1e6:.1f} MB; `python -m http.server -d {folder}` serves it, as any static host"
    )


def build(folder: Path) -> None:
    """Write the page's folder, whole. Raises UserError where the model or npm is missing, and where something else is
    in the folder's place."""
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or held not in (set(), BUILT):
        raise UserError(
            f"{folder} is neither empty nor an earlier build of the page: name another folder, or remove it"
        )
    fetch_packages()
    model = shrink(MODEL)
    if (size := sum(map(len, model))) > MOST_BYTES:
        raise UserError(f"{MODEL} takes {size / 1e6:.1f} MB as int8: choose a smaller model for the browser")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as new:
        shutil.copytree(STATIC, new / "static", ignore=shutil.ignore_patterns("index.html", "README.md"))
        shutil.copy(SOURCE / "engine.js", new / "static/engine.js")
        shutil.copytree(SOURCE / "engine", new / "engine")
        (new / "engine/vendor").mkdir()
        for name in VENDOR:
            shutil.copy(PACKAGES / name, new / "engine/vendor")
        licenses = [f"{name}\n\n{(PACKAGES / name).read_text()}" for name in LICENSES]
        (new / "engine/vendor/LICENSES.txt").write_text("\n\n".join(licenses))
        shutil.copy(SOURCE / "manifest.webmanifest", new)
        (new / "index.html").write_text(static_page((STATIC / "index.html").read_text()))
        (new / "model.onnx").write_bytes(model.graph)
        (new / "model.safetensors").write_bytes(model.weights)
        (new / "model.json").write_text(json.dumps(about_model()))
        (new / "service-worker.js").write_text(service_worker(new))
        for name in ("README.md", "../LICENSE"):
            shutil.copy(SOURCE / name, new)


def fetch_packages() -> None:
    """Have npm fetch what package-lock.json pins, unless it is there."""
    wanted = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    wanted.pop("")
    installed = PACKAGES / ".package-lock.json"
    if installed.is_file() and json.loads(installed.read_text())["packages"] == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("there is no npm: install Node.js 20 or newer, which brings it")
    done = subprocess.run([npm, "ci"], cwd=SOURCE, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
        raise UserError(f"`npm ci` in {SOURCE} failed ({lines[0]}): is there a network?")


def static_page(page: str) -> str:
    """Return the service's page as one that answers by itself: without what is between its service marks, with what is
    between its static marks."""
    page = re.sub(r"[ \t]*<!-- service -->.*?<!-- /service -->\n?", "", page, flags=re.DOTALL)
    page = re.sub(r"<!-- static\n(.*?)/static -->", r"\1", page, flags=re.DOTALL)
    return page.replace('<meta charset="utf-8">', HEAD, 1)


def about_model() -> dict[str, Any]:
    """Return what the engine says of the model, as /v1/models does, and the record by which it answers."""
    detector = Detector.load(MODEL)
    record = detector.record
    if record.reencode is not None or record.adapted is not None:
        raise UserError(f"{MODEL} is adapted, or encodes its input as JPEG: the browser's engine does neither")
    summary = {
        "name": MODEL.name,
        "title": detector.title,
        "model_sha256": detector.sha256,
        "trained_on": record.dataset,
        "input_size": record.input_size,
        "abstention_band": record.abstention_band,
        "scale": detector.scale,
        "limit": detector.limit,
        "test": record.test,
        "drift": None,
    }
    needed = {"input_size", "fit", "flip_tta_margin", "temperature", "abstention_band", "out_of_distribution"}
    return {
        "summary": summary,
        "limits": {"max_bytes": MAX_BYTES, "max_files": 1, "max_pixels": MAX_PIXELS},
        "limit": detector.limit,
        "record": record.model_dump(include=needed),
    }


def service_worker(folder: Path) -> str:
    """Return the service worker with the names of all of a built folder's files, and a version of their contents."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    digest = hashlib.sha256()
    for name, path in zip(names, files, strict=True):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    text = (SOURCE / "service-worker.js").read_text()
    text = text.replace("const FILES = [];", f"const FILES = {json.dumps(['./', *names])};")
    return text.replace('const VERSION = "";', f'const VERSION = "ai-art-detector:{digest.hexdigest()[:16]}";')


if __name__ == "__main__":
    run(main)
