"""The images, without Docker: what dockerfiles/ says, in an environment with nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import BIN, ROOT, somebody_without_a_name


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows each, without comments and continued lines."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_dvc_runs_in_the_training_image_as_a_user_that_it_does_not_know(tmp_path: Path) -> None:
    set_there = dict(
        pair.split("=")
        for word, rest in instructions(ROOT / "dockerfiles/train.Dockerfile")
        if word == "ENV"
        for pair in rest.split()
    )
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo one > one, outs: [one]}}\n")
    for command in (("git", "init", "-q"), ("dvc", "init", "-q"), ("dvc", "repro", "-q")):
        subprocess.run(
            [*somebody_without_a_name(), *command],
            cwd=tmp_path,
            env=set_there | {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path)},
            check=True,
        )
    assert (tmp_path / "one").read_text() == "one\n"


@pytest.mark.long  # half a minute: it downloads 55 MB
def test_the_steps_of_the_image_make_a_service_that_answers_and_writes_nothing(tmp_path: Path) -> None:
    clone, image = tmp_path / "clone", tmp_path / "image"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True, umask=0o077)  # of somebody who lets nobody read
    subprocess.run([sys.executable, "-m", "tools.unpack"], cwd=clone, check=True, umask=0o077)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    image.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "PYTHON"))}
    environment |= {"PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    command = ""
    for word, rest in instructions(ROOT / "dockerfiles/api.Dockerfile"):
        if word == "COPY":
            *options, source, target = rest.split()
            copied = shutil.copytree if (clone / source).is_dir() else shutil.copy
            copied(clone / source, image / target)
            for mode in (option.removeprefix("--chmod=") for option in options):
                subprocess.run(["chmod", "-R", mode, image / target], check=True)
        elif word == "RUN":
            subprocess.run(["sh", "-c", rest], cwd=image, env=environment, check=True, stdout=subprocess.DEVNULL)
        elif word == "ENV":
            environment |= dict(pair.split("=") for pair in rest.split())
        elif word == "CMD":
            command = rest
    before = sorted(image.rglob("*"))
    may_read = [path for path in before if path.name == "requirements-api.txt" or path.stat().st_mode & 0o004]
    assert may_read == before, "the image's user is another one than whose clone it was"
    service = subprocess.Popen(
        re.findall(r'"(.*?)"', command),
        cwd=image,
        env=environment | {"SERVE_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        (port,) = next(found for line in service.stdout if (found := re.findall(r"^http://127\.0\.0\.1:(\d+)", line)))
        names = ("ship.png", "cat.jpg")
        pictures = [("files", (name, (ROOT / "app/static/examples" / name).read_bytes())) for name in names]
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", files=pictures, timeout=30, trust_env=False).json()
        assert [one["verdict"] for one in answer["predictions"]] == ["FAKE", "REAL"]
    finally:
        service.terminate()
        assert service.wait(40) == 0
    assert sorted(image.rglob("*")) == before
    assert not (tmp_path / "home").exists()
