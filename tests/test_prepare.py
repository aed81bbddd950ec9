"""CIFAKE in, packed splits out: `python -m stages.prepare` on small copies of CIFAKE in all its layouts."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from detector.errors import UserError
from detector.images import decode
from detector.labels import CLASSES, FAKE, REAL
from stages.data import Split, load_split, write_split

ROOT = Path(__file__).parent.parent
OUTS = ("data/train", "data/val", "data/test", "plots/data", "metrics/prepare.json")
HUB_DATASET = "dragonintelligence/CIFAKE-image-dataset"

Files = dict[str, bytes]  # "train/FAKE/12 (3).jpg" -> JPEG


def picture(seed: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    """A colourful picture with edges and noise, of `size` (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse) + rng.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def jpeg(seed: int, **how: Any) -> bytes:
    return encoded(picture(seed), **{"quality": 75, "subsampling": 2} | how)


def cifake(train: int = 4, test: int = 2, **fake_jpeg: Any) -> Files:
    """A small CIFAKE: so many images by split, class and object class, named as in the Kaggle archive.

    Duplicates among the FAKE images: one pair inside train, one inside test, one across.
    """
    files: Files = {}
    for split, count in (("train", train), ("test", test)):
        for group in CLASSES:
            for number in range(count):
                for suffix in ("", *(f" ({k})" for k in range(2, 11))):
                    how = fake_jpeg if group == "FAKE" else {}
                    files[f"{split}/{group}/{number:04}{suffix}.jpg"] = jpeg(len(files), **how)
    files["train/FAKE/0001 (4).jpg"] = files["train/FAKE/0000 (4).jpg"]
    files["test/FAKE/0001 (6).jpg"] = files["test/FAKE/0000 (6).jpg"]
    files["test/FAKE/0000 (9).jpg"] = files["train/FAKE/0000 (9).jpg"]
    return files


def as_folder(files: Files, path: Path) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(files: Files, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def as_parquet(files: Files, path: Path, names: list[str] | None = None) -> Path:
    """The hub's layout. `names`: the order of the classes as the metadata tell it."""
    path.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": names or CLASSES, "_type": "ClassLabel"}}
    for split in ("train", "test"):
        rows = [(name.partition("/")[2], data) for name, data in files.items() if name.startswith(split)]
        table = pa.table(
            {
                "image": pa.array(
                    [{"bytes": data, "path": name} for name, data in rows],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                ),
                "label": pa.array([CLASSES.index(name.partition("/")[0]) for name, _ in rows], pa.int64()),
            }
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path / f"{split}.parquet")
    return path


def start(project: Path, source: Path | str | None = None, **options: Any) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("CIFAKE_SOURCE", "DVC_ROOT")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(project.parent / "hf")} | options.pop("env", {})
    if source is not None:
        env["CIFAKE_SOURCE"] = str(source)
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "stages.prepare"]
    return subprocess.Popen(command, cwd=project, env=env, stdout=pipe, stderr=pipe, text=True, **options)


def prepare(project: Path, source: Path | str | None = None, **options: Any) -> tuple[int, str, str]:
    """Run the stage. Returns exit status, stdout and stderr."""
    process = start(project, source, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def succeed(project: Path, source: Path | str | None = None, **options: Any) -> dict[str, Any]:
    status, _, err = prepare(project, source, **options)
    assert status == 0, err
    return json.loads((project / "metrics/prepare.json").read_text())


def outputs(project: Path) -> dict[str, bytes]:
    """All that lies in the folders of the outs, hidden files too."""
    files = [
        file for folder in ("data", "metrics", "plots") for file in (project / folder).rglob("*") if file.is_file()
    ]
    names = {file: file.relative_to(project).as_posix() for file in files}
    return {name: file.read_bytes() for file, name in names.items() if not name.startswith("data/sample/")}


def splits(project: Path) -> dict[str, Split]:
    return {name: load_split(project / f"data/{name}") for name in ("train", "val", "test")}


PLACES = {"val_fraction": ["prepare"], "seed": ["prepare"], "skip_damaged": ["prepare"], "dataset": [], "datasets": []}


def choose(project: Path, **choices: Any) -> None:
    """Change params.yaml: `dataset`, what `prepare` has, or a key of the entry of CIFAKE."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    for name, value in choices.items():
        section = params
        for part in PLACES.get(name, ["datasets", "cifake"]):
            section = section[part]
        section[name] = value
    yaml.dump(params, project / "params.yaml")


def copy_of_the_project(path: Path) -> Path:
    for folder in ("stages", "detector", "data/sample"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_of_the_project(tmp_path / "project")


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = copy_of_the_project(tmp_path_factory.mktemp("done") / "project")
    succeed(path, as_folder(cifake(), path.parent / "cifake"))
    return path


@pytest.fixture
def prepared(done_once: Path, tmp_path: Path) -> Path:
    """A project with the outputs of an earlier run on `cifake()`."""
    return shutil.copytree(done_once, tmp_path / "prepared")


# Sources


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda files, path: as_folder(files, path / "deep/archive").parent, id="folder in a folder"),
        pytest.param(lambda files, path: as_zip(files, path / "archive.zip"), id="Kaggle zip"),
        pytest.param(lambda files, path: as_zip(files, path / "archive.zip", "CIFAKE/"), id="zip with a top folder"),
        pytest.param(lambda files, path: as_parquet(files, path / "parquet"), id="parquet"),
        pytest.param(
            lambda files, path: as_parquet(dict(reversed(files.items())), path / "parquet"), id="rows in another order"
        ),
    ],
)
def test_the_layout_of_the_source_does_not_change_a_byte(
    layout: Callable[[Files, Path], Path], project: Path, prepared: Path, tmp_path: Path
) -> None:
    succeed(project, layout(cifake(), tmp_path))
    assert outputs(project) == outputs(prepared)
    assert {name.split("/")[1] for name in outputs(project)} == {Path(out).name for out in OUTS}


def test_without_a_source_the_data_set_of_the_hub_is_loaded(project: Path, prepared: Path) -> None:
    # `datasets` takes a folder of the name before it asks the hub: the whole path but for the transfer
    as_parquet(cifake(), project / HUB_DATASET / "data")
    choose(project, revision=None)
    succeed(project)
    assert outputs(project) == outputs(prepared)


def test_without_a_network_one_line_names_the_three_ways_out(project: Path) -> None:
    began = time.monotonic()
    status, _, err = prepare(project, env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(r"cannot be fetched from the Hugging Face hub \(\w*Error: .*refused", err)
    assert "CIFAKE_SOURCE" in err
    assert "dvc pull" in err
    assert "dataset=sample" in err
    assert time.monotonic() - began < 30


def test_a_relative_source_means_the_repository_also_in_a_queued_run(project: Path, tmp_path: Path) -> None:
    as_folder(cifake(), tmp_path / "downloads/cifake")
    succeed(project, "../downloads/cifake")
    queued = copy_of_the_project(project / ".dvc/tmp/exps/run")
    succeed(queued, "../downloads/cifake", env={"DVC_ROOT": str(project)})
    assert outputs(queued) == outputs(project)


def test_the_sample_needs_no_source(project: Path) -> None:
    choose(project, dataset="sample")
    status, out, err = prepare(project)
    assert status == 0, err
    report = json.loads((project / "metrics/prepare.json").read_text())
    assert report["dataset"] == "sample"
    counts = [[name, str(report[f"{name}_fake"]), str(report[f"{name}_real"])] for name in ("train", "val", "test")]
    assert [line.split() for line in out.splitlines()][1:5] == [["split", "FAKE", "REAL"], *counts]
    assert report["encoder_difference"] == 0
    for name, split in splits(project).items():
        assert set(split.labels.tolist()) == {FAKE, REAL}, name
        assert split.images.shape == (len(split), 32, 32, 3)
        assert set(split.object_class.tolist()) == {-1}  # its names tell nothing, although they are numbers


# What comes out


def test_every_image_arrives_with_its_label_and_object_class(prepared: Path) -> None:
    expected = sorted(
        (
            np.asarray(Image.open(io.BytesIO(data))).tobytes(),
            CLASSES.index(name.split("/")[1]),
            int(name.partition("(")[2].partition(")")[0] or 1) - 1,
        )
        for name, data in cifake().items()
    )
    packed = splits(prepared).values()
    found = sorted(
        (image.tobytes(), int(label), int(object_class))
        for split in packed
        for image, label, object_class in zip(split.images[:], split.labels, split.object_class, strict=True)
    )
    assert found == expected
    assert [split.info["name"] for split in packed] == ["train", "val", "test"]


def test_the_report_counts_images_duplicates_and_leaks(prepared: Path) -> None:
    report = json.loads((prepared / "metrics/prepare.json").read_text())
    assert [report[f"{name}_fake"] for name in ("train", "val", "test")] == [36, 4, 20]
    assert [report[f"{name}_real"] for name in ("train", "val", "test")] == [36, 4, 20]
    assert report["duplicates"] == 3
    assert [report[f"duplicates_{where}"] for where in ("train", "test", "across")] == [1, 1, 1]
    assert report["leaked"] == 1
    images = np.stack([decode(data) for name, data in cifake().items() if name.startswith("train")])
    for channel, name in enumerate(("red", "green", "blue")):
        assert report[f"mean_{name}"] == pytest.approx(images[..., channel].mean(), abs=0.006)
        assert report[f"std_{name}"] == pytest.approx(images[..., channel].std(), abs=0.006)
    split = splits(prepared)["test"]
    (leaked,) = np.flatnonzero(split.leaked).tolist()
    assert (split.images[leaked] == decode(cifake()["train/FAKE/0000 (9).jpg"])).all()


def test_validation_is_stratified_and_keeps_copies_on_one_side(project: Path, tmp_path: Path) -> None:
    files = cifake(train=10)
    for number in range(0, 10, 2):  # half of the FAKE birds in pairs, a third of them threefold
        files[f"train/FAKE/{number + 1:04} (3).jpg"] = files[f"train/FAKE/{number:04} (3).jpg"]
    files["train/FAKE/0004 (3).jpg"] = files["train/FAKE/0000 (3).jpg"]
    source = as_folder(files, tmp_path / "cifake")
    choose(project, val_fraction=0.3)
    succeed(project, source)
    first = splits(project)
    for label in (FAKE, REAL):
        counts = np.bincount(first["val"].object_class[first["val"].labels == label], minlength=10)
        assert counts.sum() == 30
        assert np.abs(counts - 3).max() <= 2
    assert not pictures(first["train"]) & pictures(first["val"])

    choose(project, seed=1)
    succeed(project, source)
    second = splits(project)
    assert pictures(second["val"]) != pictures(first["val"])
    assert not pictures(second["train"]) & pictures(second["val"])
    assert (second["test"].images[:] == first["test"].images[:]).all()
    assert first["val"].info["digest"] != second["val"].info["digest"]


def pictures(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images[:]}


@pytest.mark.parametrize(
    ("fake_jpeg", "said"),
    [
        (
            {"quality": 90},
            "encoder alone tells the classes apart (AUROC 1.00): FAKE is all quality 90, REAL all quality 75",
        ),
        ({"subsampling": 0}, "chroma alone tells the classes apart (AUROC 1.00): FAKE is all 4:4:4, REAL all 4:2:0"),
        ({}, None),
    ],
)
def test_an_alarm_when_the_classes_were_encoded_differently(
    fake_jpeg: dict[str, int], said: str | None, project: Path, tmp_path: Path
) -> None:
    status, _, err = prepare(project, as_folder(cifake(**fake_jpeg), tmp_path / "cifake"))
    assert status == 0
    alarms = [line for line in err.splitlines() if "learns how the files were made" in line]
    report = json.loads((project / "metrics/prepare.json").read_text())
    if said is None:
        assert alarms == []
        assert report["encoder_difference"] == 0
    else:
        (alarm,) = alarms
        assert alarm.startswith("warning: ")
        assert said in alarm
        assert "datasets.cifake.reencode" in alarm
        assert report["encoder_difference"] > 0.9
        assert report["alarms"] >= 1


def test_another_cifake_than_the_published_one_is_told(project: Path, tmp_path: Path) -> None:
    files = cifake()
    _, _, err = prepare(project, as_folder(files, tmp_path / "cifake"))
    assert "warning: these are not the published images and labels of cifake" in err
    first = json.loads((project / "metrics/prepare.json").read_text())
    assert first["matches_published"] is False
    files["test/REAL/0000.jpg"], files["test/FAKE/0000.jpg"] = files["test/FAKE/0000.jpg"], files["test/REAL/0000.jpg"]
    second = succeed(project, as_folder(files, tmp_path / "cifake"))
    assert second["digest"] != first["digest"]  # two labels swapped


@pytest.mark.slow
@pytest.mark.skipif("CIFAKE_SOURCE" not in os.environ, reason="needs a copy of CIFAKE")
def test_all_of_cifake(project: Path) -> None:
    report = succeed(project, Path(os.environ["CIFAKE_SOURCE"]).resolve())
    assert report["matches_published"]
    assert [report[f"{name}_{label}"] for name in ("train", "val", "test") for label in ("fake", "real")] == (
        [45_000] * 2 + [5_000] * 2 + [10_000] * 2
    )
    assert [report["duplicates"]] + [report[f"duplicates_{where}"] for where in ("train", "test", "across")] == [
        1336,
        920,
        38,
        378,
    ]
    assert report["leaked"] == 378
    assert not pictures(splits(project)["train"]) & pictures(splits(project)["val"])
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1.5e6  # kB


# Bad input


def spoil(files: Files, name: str, data: bytes | None) -> Files:
    """`files` with one of them replaced, or with a folder's worth of them removed (data None)."""
    kept = {key: value for key, value in files.items() if not key.startswith(name)}
    return kept if data is None else kept | {name: data}


BAD = "train/REAL/0002 (5).jpg"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        pytest.param(BAD, jpeg(1)[:-150], (BAD, "broken"), id="truncated"),
        pytest.param(BAD, jpeg(1)[:100], (BAD, "broken"), id="truncated in its header"),
        pytest.param(BAD, jpeg(1)[:-2] + bytes(9) + jpeg(1)[-2:], (BAD, "damaged file"), id="libjpeg warns"),
        pytest.param(BAD, b"", (BAD, "not a picture"), id="an empty file"),
        pytest.param(BAD, encoded(picture(1, (33, 32))), (BAD, "33x32", "32x32"), id="33x32"),
        pytest.param(BAD, encoded(picture(1, mode="L")), (BAD, "grey", "RGB"), id="grey"),
        pytest.param(BAD, encoded(picture(1, mode="CMYK")), (BAD, "CMYK"), id="CMYK"),
        pytest.param(BAD, encoded(picture(1, mode="RGBA"), "PNG"), (BAD, "PNG image"), id="RGBA"),
        pytest.param("test/FAKE/", None, ("test split", "no FAKE images"), id="a class folder is missing"),
        pytest.param("test/", None, ("no test split",), id="a split is missing"),
        pytest.param("train/OTHER/1.jpg", jpeg(1), ("FAKE in FAKE", "train/OTHER (1)", "labels"), id="a third class"),
    ],
)
def test_a_bad_image_or_folder_is_one_line_and_nothing_lost(
    name: str, data: bytes | None, said: tuple[str, ...], prepared: Path, tmp_path: Path
) -> None:
    refuse(prepared, as_folder(spoil(cifake(), name, data), tmp_path / "cifake"), said)


def refuse(prepared: Path, source: Path | str | None, said: tuple[str, ...], **options: Any) -> None:
    """The stage says one line with the words `said`, exits with 1 and leaves the earlier outputs, and nothing else."""
    before = outputs(prepared)
    status, out, err = prepare(prepared, source, **options)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [word for word in said if word not in err] == [], err
    assert outputs(prepared) == before


def test_labels_in_the_wrong_order_are_refused(prepared: Path, tmp_path: Path) -> None:
    swapped = as_parquet(cifake(), tmp_path / "named", names=["REAL", "FAKE"])
    refuse(prepared, swapped, ("train.parquet FAKE/0000.jpg", "wrong label order"))

    contradicting = as_parquet(cifake(), tmp_path / "paths")
    table = pq.read_table(contradicting / "test.parquet")
    flipped = pa.array([1 - label for label in table["label"].to_pylist()], pa.int64())
    pq.write_table(table.set_column(1, "label", flipped), contradicting / "test.parquet")
    refuse(prepared, contradicting, ("test.parquet", "FAKE/0000.jpg", "wrong label order"))


@pytest.mark.long
def test_an_incomplete_or_broken_parquet_source_is_refused(prepared: Path, tmp_path: Path) -> None:
    source = as_parquet(cifake(), tmp_path / "source")
    whole = (source / "test.parquet").read_bytes()
    pq.write_table(pq.read_table(source / "test.parquet").slice(0, 0), source / "test.parquet")
    refuse(prepared, source, ("test.parquet is broken",))
    (source / "test.parquet").write_bytes(whole[:-100])
    refuse(prepared, source, ("test.parquet is broken",))
    pq.write_table(pq.read_table(io.BytesIO(whole)).drop_columns("label"), source / "test.parquet")
    refuse(prepared, source, ("test.parquet", "lacks", "label"))
    (source / "test.parquet").unlink()
    refuse(prepared, source, ("test.parquet is missing",))


def test_a_broken_zip_is_refused(prepared: Path, tmp_path: Path) -> None:
    path = as_zip(cifake(), tmp_path / "archive.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # a download that stopped
    refuse(prepared, path, ("archive.zip", "not a folder, a table or a whole zip"))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        member = archive.getinfo(BAD)
    middle = member.header_offset + 30 + len(BAD) + member.compress_size // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    refuse(prepared, path, (BAD,))


def test_a_source_that_is_not_there_is_named(prepared: Path) -> None:
    refuse(prepared, "no/such/cifake", ("CIFAKE_SOURCE=no/such/cifake does not exist",))


@pytest.mark.parametrize(
    ("name", "value"), [("dataset", "cifar"), ("val_fraction", 1.5), ("val_fraction", 0.001), ("seed", -1)]
)
def test_a_choice_that_makes_no_sense_is_named(name: str, value: Any, prepared: Path) -> None:
    choose(prepared, **{name: value})
    refuse(prepared, prepared.parent / "none" if name == "dataset" else small(prepared), (name, str(value)))


def small(prepared: Path) -> Path:
    return as_folder(cifake(), prepared.parent / "small")


@pytest.mark.parametrize("system", ["Linux", "macOS"])
def test_a_full_disk_leaves_the_earlier_outputs(system: str, prepared: Path, tmp_path: Path) -> None:
    source = as_folder(cifake(test=5), tmp_path / "cifake")  # the last split is the largest: the others fit
    limit = 280_000  # bytes; the kernel refuses to let a file of this process grow beyond
    fits: dict[str, Any] = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    if system == "macOS":  # which lacks this function
        (tmp_path / "sitecustomize.py").write_text("import os\ndel os.posix_fallocate\n")
        fits["env"] = {"PYTHONPATH": str(tmp_path)}
    refuse(prepared, source, ("disk is full",), **fits)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_half_way_the_earlier_outputs_stay(
    sent: signal.Signals, status: int, prepared: Path, tmp_path: Path
) -> None:
    source = as_folder(spoil(cifake(), BAD, None), tmp_path / "cifake")
    os.mkfifo(source / BAD)  # an image that takes its time: the stage waits for it in the middle of its work
    before = outputs(prepared)
    process = start(prepared, source, start_new_session=True)
    with (source / BAD).open("wb"):  # opens when the stage reads it
        os.killpg(process.pid, sent)  # as a terminal does: to all its processes
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "earlier outputs are untouched" in err
    assert outputs(prepared) == before


# The decoder that all of the product shares


def test_decoding_gives_the_pixels_that_pillow_gives() -> None:
    rng = np.random.default_rng(0)
    for seed in range(400):
        size = (32, 32) if seed % 2 else (int(rng.integers(1, 80)), int(rng.integers(1, 80)))
        how: dict[str, Any] = {
            "quality": int(rng.integers(5, 100)),
            "subsampling": int(rng.integers(3)),
            "progressive": seed % 5 == 0,
        }
        data = encoded(picture(seed, size), **how)
        pixels = decode(data)
        assert pixels.dtype == np.uint8
        assert (pixels == np.asarray(Image.open(io.BytesIO(data)))).all(), (size, how)


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("GIF", "L")]
)
def test_other_pictures_become_rgb(kind: str, mode: str) -> None:
    data = encoded(picture(3, (40, 20), mode), kind)
    pixels = decode(data)
    assert pixels.shape == (20, 40, 3)
    assert (pixels == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_broken_pictures_are_refused_in_words() -> None:
    rng = np.random.default_rng(0)
    wholes = [encoded(picture(1, (40, 40)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    for data in [b"", b"hello", *(data[: len(data) // 2] for data in wholes)]:
        with pytest.raises(UserError, match="picture"):
            decode(data)
    said = []
    for number in range(400):  # whatever is broken: pixels or one line, never another error
        broken = bytearray(wholes[number % 4])
        for place in rng.integers(0, len(broken), 3):
            broken[place] = rng.integers(256)
        try:
            assert decode(bytes(broken)).ndim == 3
        except UserError as error:
            said.append(str(error))
    assert said
    assert not [line for line in said if "\n" in line]


@pytest.mark.parametrize("file", ["00000.safetensors", "index.safetensors"])
def test_one_byte_that_changed_on_the_way_is_noticed(prepared: Path, tmp_path: Path, file: str) -> None:
    rng = np.random.default_rng(0)
    split = shutil.copytree(prepared / "data/val", tmp_path / "val")
    whole = (split / file).read_bytes()
    for place in [0, 8, 100, *rng.integers(0, len(whole), 12), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (split / file).write_bytes(changed)
        with pytest.raises(UserError, match=r"is broken .* makes it again"):
            load_split(split)
    (split / file).write_bytes(whole)
    load_split(split)


def test_other_programs_read_every_shard_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    monkeypatch.setattr("stages.data.SHARD_BYTES", 2 * images[0].nbytes)
    write_split(tmp_path / "split", images.shape, lambda start, stop: images[start:stop], {"labels": np.zeros(5)}, {})
    shards = [load_file(path)["images"] for path in sorted((tmp_path / "split").glob("0*.safetensors"))]
    assert [len(shard) for shard in shards] == [2, 2, 1]
    assert (np.concatenate(shards) == images).all()


def test_a_split_with_a_shard_too_few_or_without_digests_is_refused(prepared: Path, tmp_path: Path) -> None:
    split = shutil.copytree(prepared / "data/val", tmp_path / "val")
    (split / "00000.safetensors").rename(split / "00001.safetensors")
    with pytest.raises(UserError, match="a shard is missing"):
        load_split(split)
    (split / "00001.safetensors").rename(split / "00000.safetensors")
    with safe_open(split / "index.safetensors", framework="numpy") as index:
        info = json.loads(index.metadata()["split"])
        columns = {name: index.get_tensor(name) for name in index.keys()}  # noqa: SIM118 (not a dict)
    del info["sha256"]
    save_file(columns, split / "index.safetensors", {"split": json.dumps(info)})
    with pytest.raises(UserError, match="an older program packed it, without digests"):
        load_split(split)
