"""The embedded sample: nothing but the generator's traces may tell its two classes apart."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from detector.labels import FAKE, REAL, is_answered, probability
from stages.data import load_split
from stages.model import load_model, predict_logits
from tests.conftest import ROOT, Project, the_error

SAMPLE = ROOT / "data" / "sample"
PER_CLASS = {"train": 1200, "test": 300}

Rows = dict[str, list[dict[str, Any]]]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return {name: pq.read_table(SAMPLE / f"{name}.parquet").to_pylist() for name in PER_CLASS}


@pytest.fixture(scope="module")
def images(rows: Rows) -> Arrays:
    """uint8 (N, 32, 32, 3) a split."""
    return {name: np.stack([np.asarray(opened(row)) for row in rows[name]]) for name in rows}


@pytest.fixture(scope="module")
def labels(rows: Rows) -> Arrays:
    return {name: np.array([row["label"] for row in rows[name]]) for name in rows}


def opened(row: dict[str, Any]) -> JpegImageFile:
    return JpegImageFile(io.BytesIO(row["image"]["bytes"]))


def test_the_sample_is_small_enough_for_git() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.glob("*.parquet")) < 3_000_000
    assert (SAMPLE / "preview.png").stat().st_size < 150_000


@pytest.mark.parametrize("split", PER_CLASS)
def test_both_classes_have_the_same_number_of_images(labels: Arrays, split: str) -> None:
    assert np.bincount(labels[split]).tolist() == [PER_CLASS[split]] * 2


@pytest.mark.parametrize("split", PER_CLASS)
def test_paths_name_the_class_and_nothing_else(rows: Rows, split: str) -> None:
    for label, name in ((FAKE, "FAKE"), (REAL, "REAL")):
        paths = [row["image"]["path"] for row in rows[split] if row["label"] == label]
        assert paths == [f"{name}/{number:04}.jpg" for number in range(1, PER_CLASS[split] + 1)]


def test_every_image_is_a_jpeg_with_the_same_settings(rows: Rows) -> None:
    # Pillow's quality 75 with chroma 4:2:0, the settings of CIFAKE
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    buffer.seek(0)
    expected = JpegImageFile(buffer).quantization
    for row in (row for split in rows.values() for row in split):
        image = opened(row)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert image.quantization == expected
        assert get_sampling(image) == 2  # 4:2:0
        assert "exif" not in image.info
        assert "comment" not in image.info


def test_no_image_appears_twice(images: Arrays) -> None:
    everything = [image.tobytes() for split in images.values() for image in split]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("split", PER_CLASS)
def test_brightness_and_contrast_are_alike(images: Arrays, labels: Arrays, split: str) -> None:
    fake, real = (images[split][labels[split] == label].astype(float) for label in (FAKE, REAL))
    np.testing.assert_allclose(fake.mean((0, 1, 2)), real.mean((0, 1, 2)), atol=8)
    np.testing.assert_allclose(fake.std((0, 1, 2)), real.std((0, 1, 2)), atol=8)
    contrast = [x.std((1, 2)).mean() for x in (fake, real)]  # of the mean image, not of the set
    assert abs(contrast[0] - contrast[1]) < 4


def test_colour_statistics_do_not_give_the_answer_away(images: Arrays, labels: Arrays) -> None:
    def statistics(split: str) -> np.ndarray:
        return np.concatenate([images[split].mean((1, 2)), images[split].std((1, 2))], 1)

    classifier = make_pipeline(StandardScaler(), LogisticRegression())
    classifier.fit(statistics("train"), labels["train"])
    assert classifier.score(statistics("test"), labels["test"]) < 0.65


def test_datasets_reads_images_and_class_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = {name: str(SAMPLE / f"{name}.parquet") for name in PER_CLASS}
    sample = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert sample["test"].features["label"].names == ["FAKE", "REAL"]
    assert sample["test"][0]["image"].size == (32, 32)
    assert sample.num_rows == {name: 2 * count for name, count in PER_CLASS.items()}


@pytest.mark.long
def test_what_make_demo_trains_is_right_on_more_than_90_percent_of_the_test_split(
    project: Project, train_here: Callable[[], str]
) -> None:
    found = re.search(r"^DEMO \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    for name, value in re.findall(r"-S (\S+?)=(\S+)", found[1]):
        project.set(**{name.replace(".", "__"): YAML(typ="safe").load(value)})
    train_here()
    network, record = load_model(project.path / "models/trained")
    assert record.stem == "residual"
    test = load_split(project.path / "data/test")
    logits = predict_logits(network, test.images, record.mean, record.std, record.flip_tta_margin)
    p_fake, is_fake = probability(logits, record.temperature), test.labels == FAKE
    accuracy = 100 * ((p_fake >= record.threshold) == is_fake).mean()
    assert accuracy > 90
    published = re.search(r"is right on ([\d.]+) ± [\d.]+ % of the test split", (SAMPLE / "README.md").read_text())
    assert published
    assert abs(accuracy - float(published[1])) < 2, "data/sample/README.md says what another machine measured"
    answered = is_answered(p_fake, record.abstention_band)
    assert answered.mean() > 0.8, "what is UNSURE shows nothing"
    assert ((p_fake > 0.5) == is_fake)[answered].mean() > 0.9


def test_the_demo_ends_with_its_accuracy_in_words_and_three_answers_as_a_picture(here: Project) -> None:
    here.run("dvc", "exp", "save", "--name", "demo")
    said = here.tool("demo").stdout
    right = round(600 * json.loads((here.path / "metrics/test.json").read_text())["accuracy"])
    assert f"is right on {right} of 600 test images" in said
    assert "dvc_plots/demo.png" in said
    with Image.open(here.path / "dvc_plots/demo.png") as sheet:
        assert sheet.height > 1.5 * sheet.width  # three, one below the other
        assert np.asarray(sheet).std() > 30
    here.run("git", "commit", "-q", "--allow-empty", "-m", "later")
    assert "this commit has no experiment demo: `make demo` runs one" in the_error(here.tool("demo", ok=False))


def test_an_experiment_whose_model_is_elsewhere_is_named(here: Project) -> None:
    """As after `git fetch` of somebody else's experiment, and after `dvc gc`."""
    here.run("dvc", "exp", "save", "--name", "mine")
    shutil.rmtree(here.path / ".dvc/cache")
    said = the_error(here.tool("demo", "mine", ok=False))
    assert "the model of mine is not here: `dvc exp pull` fetches it, or run it again" in said
    assert not (here.path / "dvc_plots").exists()
