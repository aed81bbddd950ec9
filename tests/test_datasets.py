"""Any pictures: an entry of `datasets`, `python -m stages.fingerprint` and `python -m stages.prepare`."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detector import Detector
from detector.labels import FAKE
from detector.pictures import preprocess
from stages.data import Split, load_split
from stages.params import DATASET_DEFAULTS
from tests.conftest import BIN, ROOT, Project, copy_project, the_error
from tests.test_prepare import picture

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    """A project whose data set is `mine`, pictures in the folder `pictures`, of 40 px."""
    copy_project(tmp_path / "project")
    project = Project(tmp_path / "project")
    entry = {"path": "pictures", "labels": {"FAKE": ["flux", "sd"], "REAL": "photos"}, "image_size": 40}
    project.set(dataset="mine", datasets__mine=entry)
    return project


def fill(project: Project, count: int = 20) -> Path:
    """So many pictures of each source, in all formats, of mixed sizes."""
    folder = project.path / "pictures"
    seed = 0
    for source in ("flux", "sd", "photos/\u4e2d\u6587", "photos/flickr"):
        (folder / source).mkdir(parents=True)
        for number in range(count):
            kind, size = FORMATS[number % len(FORMATS)], (40 + 7 * (number % 4), 40 + 5 * (number % 3))
            picture(seed := seed + 1, size).save(folder / source / f"{number}.{kind.lower()}", kind)
    return folder


def splits(project: Project) -> dict[str, Split]:
    return {name: load_split(project.path / f"data/{name}") for name in ("train", "val", "test")}


def report(project: Project) -> dict[str, Any]:
    return json.loads((project.path / "metrics/prepare.json").read_text())


def test_folders_of_any_pictures_become_splits_with_their_sources(mine: Project) -> None:
    folder = fill(mine)
    (folder / "flux/0.json").write_text('{"prompt": "a ship"}')
    (folder / "flux/.hidden.png").write_bytes(b"no picture")
    mine.stage("prepare")
    found = splits(mine)
    assert sum(map(len, found.values())) == 80
    assert [len(found["test"]), len(found["val"])] == [16, 6]
    assert found["train"].images.shape[1:] == (40, 40, 3)
    assert found["train"].info["sources"] == ["flickr", "flux", "sd", "\u4e2d\u6587"]
    assert report(mine)["sources"] == 4
    # each is what the detector makes of it when it is asked, with its label
    pictures = [file for file in folder.rglob("[0-9]*.*") if file.suffix != ".json"]
    expected = {preprocess(file, 40).pixels.tobytes(): file for file in pictures}
    for split in found.values():
        for image, label, source in zip(split.images[:], split.labels, split.source, strict=True):
            folder_name = expected[image.tobytes()].parent.name
            assert split.info["sources"][source] == folder_name
            assert (folder_name in ("flux", "sd")) == (label == FAKE)
    with (mine.path / "plots/data/counts.csv").open() as file:
        assert sum(int(row["images"]) for row in csv.DictReader(file) if row["source"] == "flux") == 20


@pytest.mark.parametrize(("fit", "size"), [("crop", (30, 50)), ("resize", (30, 50)), ("stretch", (41, 40))])
def test_a_picture_of_another_size_is_fitted_as_the_entry_says(fit: str, size: tuple[int, int], mine: Project) -> None:
    folder = fill(mine, 6)
    picture(99, size).save(folder / "photos/flickr/odd.png")
    mine.set(datasets__mine__fit=fit)
    mine.stage("prepare")
    ways = {way: preprocess(folder / "photos/flickr/odd.png", 40, way).pixels.tobytes() for way in ("crop", "stretch")}
    images = {image.tobytes() for split in splits(mine).values() for image in split.images[:]}
    assert ways["stretch" if fit == "stretch" else "crop"] in images  # too small a picture is resized in either way
    assert splits(mine)["train"].info["fit"] == fit


def test_copies_near_copies_and_groups_are_on_one_side(mine: Project) -> None:
    folder = fill(mine)
    for number in range(0, 20, 2):
        with Image.open(folder / f"flux/{number}.{FORMATS[number % 6].lower()}") as image:
            image.convert("RGB").save(folder / f"sd/again{number}.jpg", quality=80)
    rows = [(str(file.relative_to(folder)), file.parent.name) for file in sorted(folder.rglob("*.*"))]
    with (folder / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("file_name", "label", "prompt"), *((*row, f"p{i % 30}") for i, row in enumerate(rows))]
        )
    labels = {"FAKE": ["flux", "sd"], "REAL": ["flickr", "\u4e2d\u6587"]}
    mine.set(datasets__mine__labels=labels, datasets__mine__source="label", datasets__mine__group="prompt")
    mine.stage("prepare")
    side = {image.tobytes(): name for name, split in splits(mine).items() for image in split.images[:]}
    of_group: dict[int, set[str]] = {}
    for number, (name, _) in enumerate(rows):
        of_group.setdefault(number % 30, set()).add(side[preprocess(folder / name, 40).pixels.tobytes()])
    assert {len(sides) for sides in of_group.values()} == {1}
    assert report(mine)["near_duplicates"] >= 8
    assert report(mine)["near_leaked"] == 0


def test_damaged_pictures_are_named_or_left_out(mine: Project) -> None:
    folder = fill(mine)
    for number in range(12):
        (folder / f"photos/flickr/torn{number}.jpg").write_bytes(b"\xff\xd8torn")
    line = the_error(mine.stage("prepare", ok=False))
    assert line.count("torn") == 10
    assert "-S prepare.skip_damaged=true" in line
    for file in (folder / "sd").iterdir():
        file.write_bytes(b"torn")
    (folder / "flux").rename(folder / "photos/flux")
    mine.set(prepare__skip_damaged=True, datasets__mine__labels={"FAKE": "sd", "REAL": "photos"})
    assert "all FAKE are damaged: " in the_error(mine.stage("prepare", ok=False))
    (folder / "photos/flux").rename(folder / "flux")
    mine.set(datasets__mine__labels={"FAKE": ["flux"], "REAL": "photos"})
    shutil.rmtree(folder / "sd")
    said = mine.stage("prepare").stderr
    assert "12 damaged pictures are left out" in said
    assert report(mine)["damaged"] == 12
    assert sum(map(len, splits(mine).values())) == 60


def test_unusual_pictures_are_taken_and_told(mine: Project) -> None:
    folder = fill(mine)
    picture(1, (1, 1)).save(folder / "flux/dot.png")
    picture(2, (50, 50), "L").save(folder / "flux/grey.jpg")
    picture(3, (50, 50), "RGBA").save(folder / "photos/flickr/alpha.png")
    said = mine.stage("prepare").stderr
    assert "warning: pictures that the detector would note something of: " in said
    assert "grey made RGB (1)" in said
    assert sum(map(len, splits(mine).values())) == 83


def test_splits_are_told_by_any_folder_and_by_the_names_of_tables(mine: Project) -> None:
    folder = fill(mine, 12)
    for source in ("flux", "photos/flickr"):
        (folder / source / "testing").mkdir()
        for number in range(4):
            file = next((folder / source).glob(f"{number}.*"))
            file.rename(folder / source / "testing" / file.name)
    mine.stage("prepare")
    assert [len(splits(mine)[name]) for name in ("test", "val")] == [8, 4]
    assert splits(mine)["test"].info["sources"] == ["flickr", "flux", "sd", "\u4e2d\u6587"]


def test_a_test_split_shares_no_group_with_a_validation_split_that_is_given(mine: Project) -> None:
    folder = fill(mine)
    files = [str(file.relative_to(folder)) for file in sorted(folder.rglob("[0-9]*.*"))]
    for split, part in (("train", files[:60]), ("val", files[60:])):
        with (folder / f"{split}_list.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("file_name", "label", "scene"))
            for i, name in enumerate(part):
                table.writerow((name, "FAKE" if i % 2 else "REAL", f"scene{i % 40}" if i % 3 else ""))
    mine.set(datasets__mine__labels={"FAKE": "FAKE", "REAL": "REAL"}, datasets__mine__group="scene")
    mine.stage("prepare")
    found = splits(mine)
    assert len(found["val"]) == 20
    assert len(found["test"]) > 5
    scene_of = {}
    for split in ("train", "val"):
        for row in csv.DictReader((folder / f"{split}_list.csv").open()):
            scene_of[preprocess(folder / row["file_name"], 40).pixels.tobytes()] = row["scene"]
    scenes_of = {name: {scene_of[image.tobytes()] for image in split.images[:]} - {""} for name, split in found.items()}
    assert not scenes_of["test"] & (scenes_of["val"] | scenes_of["train"])


def wrong(mine: Project, **entry: Any) -> str:
    mine.set(**{f"datasets__mine__{key}": value for key, value in entry.items()})
    return the_error(mine.stage("prepare", ok=False))


@pytest.mark.long
def test_what_an_entry_cannot_say_ends_in_one_line(mine: Project) -> None:
    fill(mine, 3)
    assert "did you mean image_size?" in wrong(mine, image_sice=64)
    shutil.rmtree(mine.path / "pictures/sd")
    mine.set(dataset="mine", datasets__mine={"path": "pictures", "labels": {"FAKE": "flux", "REAL": "photos"}})
    assert "even number from 32 to 512" in wrong(mine, image_size=33)
    assert "stretch or resize or crop" in wrong(mine, image_size=32, fit="pad")
    assert "FAKE in gan" in wrong(mine, fit="crop", labels={"FAKE": "gan", "REAL": "photos"})
    assert "one class for each name, photos has two" in wrong(mine, labels={"FAKE": "photos", "REAL": "photos"})
    assert "has no FAKE images" in wrong(mine, labels={"FAKE": "none", "REAL": ["photos", "flux"]})
    assert "leaves one of the two sides without any" in wrong(mine, labels={"FAKE": "flux", "REAL": "photos"})
    (mine.path / "pictures/metadata.csv").write_text("file_name,prompt\nflux/0.jpeg,a ship\n")
    said = wrong(mine, labels={"FAKE": "flux", "REAL": "photos"})
    assert "lacks the column label" in said
    assert "metadata.csv was taken for the list of the pictures" in said
    assert "move it away" in said
    (mine.path / "pictures/metadata.csv").write_text("file_name,label\nflux/0.jpeg,flux\n../0.jpeg,photos\n")
    assert "names ../0.jpeg: pictures must lie below pictures" in wrong(mine, path="pictures/metadata.csv")
    assert "are not here: put them at nowhere" in the_fingerprint(mine, path="nowhere")
    assert "are not here: put them at nowhere" in the_error(mine.stage("prepare", ok=False)), "and asks no hub"
    mine.set(datasets__mine="pictures")
    assert "must be an entry, with path and labels" in the_error(mine.stage("prepare", ok=False))
    mine.set(dataset="mime")
    assert "params.yaml has cifake, sample, elsewhere, several, mine" in the_error(mine.stage("prepare", ok=False))


def the_fingerprint(mine: Project, **entry: Any) -> str:
    mine.set(**{f"datasets__mine__{key}": value for key, value in entry.items()})
    return the_error(mine.stage("fingerprint", ok=False))


def test_the_fingerprint_changes_with_the_data_and_stays_without_them(mine: Project) -> None:
    folder = fill(mine, 3)
    file = mine.path / "data/fingerprint.json"

    def now() -> dict[str, Any]:
        mine.stage("fingerprint")
        return json.loads(file.read_text())

    first = now()
    assert (first["dataset"], first["files"]) == ("mine", 12)
    assert str(mine.path) not in file.read_text()
    assert now() == first
    picture(77).save(folder / "flux/0.jpeg", "JPEG")
    second = now()
    assert second["digest"] != first["digest"]
    # what is known of a file by its size and time is not read again
    os.utime(folder / "sd/0.jpeg", ns=(1, 1))
    before = (folder / "sd/1.png").stat()
    (folder / "sd/1.png").write_bytes(b"x" * before.st_size)
    os.utime(folder / "sd/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert now() == second
    shutil.rmtree(folder)
    assert now() == second, "what is not here cannot have changed"


def test_the_fingerprint_of_a_table_counts_the_pictures_that_it_names(mine: Project) -> None:
    folder = fill(mine, 3)
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("[0-9]*.*"))]
    table = pa.table({"image": names, "label": [name.partition("/")[0] for name in names]})
    pq.write_table(table, folder / "train.parquet")
    mine.set(datasets__mine__path="pictures/train.parquet")
    file = mine.path / "data/fingerprint.json"
    mine.stage("fingerprint")
    first = json.loads(file.read_text())
    picture(77).save(folder / names[0], "JPEG")
    mine.stage("fingerprint")
    assert json.loads(file.read_text())["digest"] != first["digest"]


@pytest.mark.long
def test_each_prompt_may_be_a_source(mine: Project) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(33_000):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "BMP")
        image = {"bytes": file.getvalue(), "path": None}
        rows.append({"image": image, "label": number % 2, "prompt": f"prompt {number}"})
    (mine.path / "pictures").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), mine.path / "pictures/all.parquet")
    labels = {"FAKE": 0, "REAL": 1}
    mine.set(datasets__mine__image_size=32, datasets__mine__labels=labels, datasets__mine__source="prompt")
    mine.stage("prepare")
    for split in splits(mine).values():
        assert split.source.min() >= 0
        assert len(set(split.source.tolist())) == len(split)


def test_reencoding_treats_training_and_question_alike(mine: Project) -> None:
    folder = fill(mine)
    mine.set(datasets__mine__reencode=60)
    mine.stage("prepare")
    images = {image.tobytes() for split in splits(mine).values() for image in split.images[:]}
    once = preprocess(folder / "flux/1.png", 40, "stretch", 60).pixels
    assert once.tobytes() in images
    assert (once != preprocess(folder / "flux/1.png", 40).pixels).any()


def test_every_key_of_an_entry_is_documented() -> None:
    documented = (ROOT / "docs/reference/params.md").read_text()
    assert [key for key in DATASET_DEFAULTS if f"`{key}`" not in documented] == []


@pytest.mark.slow
def test_the_how_to_on_your_own_pictures_word_for_word(tmp_path: Path) -> None:
    text = (ROOT / "docs/how-to/own-pictures.md").read_text()
    project = Project(tmp_path / "clone")
    project.path.mkdir()
    project.run("git", "clone", "-q", str(ROOT), ".")
    (project.path / ".venv").symlink_to(BIN.parent)
    (entry,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    params = (project.path / "params.yaml").read_text()
    (project.path / "params.yaml").write_text(params.replace("\ndatasets:\n", f"\ndatasets:\n{entry}"))
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        lines = [line for line in block.splitlines() if not line.startswith("make .venv")]
        for line in lines:
            project.run("bash", "-c", line.replace("make restore", "make -o .venv/.run-time restore"))
            if "--explain" in line:
                metrics = json.loads((project.path / "metrics/test.json").read_text())
                assert metrics["accuracy"] > 0.9, "on photographs that training never saw"
                assert report(project)["alarms"] == 0, "the report is quiet on honest pictures"
                with Image.open(project.path / "evidence.png") as drawing:
                    assert drawing.width > 600
                assert "the data set mine at 128x128" in Detector.load(project.path / "models/exported").limit
    assert project.run("git", "status", "--short", "--untracked-files=no").stdout == ""
