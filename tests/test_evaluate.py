"""`dvc repro evaluate`: numbers, scores and plots of a small model on a small test split."""

import contextlib
import csv
import json
import math
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from tqdm import tqdm

from detector.errors import UserError
from detector.explain import occlusion_maps
from detector.labels import FAKE, REAL, probability
from stages.data import load_split
from stages.data import write_split as pack_split
from stages.evaluate.__main__ import evaluation_metrics, main, source_metrics
from stages.evaluate.corruptions import check_corruptions
from stages.evaluate.deletion import deletion_test
from stages.evaluate.threads import Advance, in_threads
from stages.model import build, load_model, predict_logits, save_model
from tests.models import trained

ROOT = Path(__file__).parent.parent
TEST = "data/test"
N = 400
TEMPERATURE = 2.0


def write_split(path: Path, labels: np.ndarray, object_class: np.ndarray, leaked: np.ndarray) -> None:
    """FAKE images are a little brighter than REAL ones, so that an untrained network tells some apart."""
    random = np.random.default_rng(0)
    images = random.integers(0, 160, (len(labels), 32, 32, 3), dtype=np.uint8)
    images += (random.integers(0, 40, len(labels)) + 25 * (labels == 0)).astype(np.uint8)[:, None, None, None]
    info = {"dataset": "sample", "name": "test", "classes": ["FAKE", "REAL"], "digest": "0"}
    columns: dict[str, np.ndarray] = {
        "labels": labels.astype(np.int64),
        "object_class": object_class.astype(np.int8),
        "leaked": leaked.astype(np.uint8),
    }
    shutil.rmtree(path, ignore_errors=True)
    pack_split(path, images.shape, lambda start, stop: images[start:stop], columns, info)


def write_model(folder: Path) -> None:
    """An untrained network whose threshold calls half of the test images FAKE."""
    torch.manual_seed(1)
    record = trained(mean=(0.35,) * 3, std=(0.2,) * 3, temperature=TEMPERATURE)
    network = build(record.model_dump())
    images = load_split(folder / TEST).images
    margin = float(np.quantile(np.abs(predict_logits(network, images, record.mean, record.std)), 0.3))
    p_fake = probability(predict_logits(network, images, record.mean, record.std, margin), TEMPERATURE)
    low, high = np.quantile(p_fake, [0.4, 0.6]).tolist()
    threshold = float(np.median(p_fake))
    chosen = {"flip_tta_margin": margin, "threshold": threshold, "abstention_band": (low, high)}
    save_model(folder / "models/trained", network, record.model_copy(update=chosen))


def evaluate(folder: Path) -> None:
    """In this process, which saves the seconds that importing torch takes."""
    with contextlib.chdir(folder):
        main()


def lay_out(folder: Path, labels: np.ndarray, object_class: np.ndarray, leaked: np.ndarray) -> None:
    """A project as `dvc repro train` leaves it."""
    for name in ("stages", "detector"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    params = (ROOT / "params.yaml").read_text()
    assert "explained: 500" in params
    (folder / "params.yaml").write_text(params.replace("explained: 500", "explained: 10"))
    write_split(folder / TEST, labels, object_class, leaked)
    write_model(folder)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    numbers = np.arange(N)
    # the leaked images are all of one kind, so that leaving them out changes the accuracy
    lay_out(folder, numbers % 2, numbers // 2 % 10, (numbers % 2 == 0) & (numbers < 80))
    evaluate(folder)
    return folder


def model_card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "models/trained/model.json").read_text())


def outputs(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("metrics/*"), *folder.glob("plots/test/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def rows_of_robustness(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "metrics/robustness.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def deletion_of_the_first_answers(folder: Path) -> dict[str, float]:
    """What the metrics must say of explanations, from the images without corruption alone."""
    network, record = load_model(folder / "models/trained")
    images = load_split(folder / TEST).images[np.linspace(0, N - 1, 10).astype(int)]

    def score(of: np.ndarray, margin: float = record.flip_tta_margin) -> np.ndarray:
        return predict_logits(network, of, record.mean, record.std, margin)

    maps = occlusion_maps(partial(score, margin=math.inf), images)
    said_fake = probability(score(images), TEMPERATURE) >= record.threshold
    return deletion_test(score, images, score(images), maps, said_fake, TEMPERATURE)


def test_a_condition_that_fails_ends_the_others_at_once() -> None:
    threads, finished = torch.get_num_threads(), []

    def score(number: int, advance: Advance) -> np.ndarray:
        if number == 1:
            raise UserError("scores that are not finite")
        for _ in range(100):
            time.sleep(0.01)
            advance(1)
        finished.append(number)
        return np.zeros(1)

    with pytest.raises(UserError, match="not finite"), tqdm(disable=True) as bar:
        in_threads(score, [1, 2, 3, 4, 5, 6], bar)
    assert not finished
    assert torch.get_num_threads() == threads


def test_recall_is_given_by_source() -> None:
    scores = {
        "label": np.array([0, 0, 0, 0, 1, 1]),
        "p_fake": np.array([0.9, 0.9, 0.1, 0.7, 0.2, 0.8]),
        "source": np.array([0, 0, 0, 2, 1, 1]),
    }
    found = source_metrics(scores, ["flux", "photos", "sd"], threshold=0.5)
    assert list(found) == ["flux", "photos", "sd"]
    assert found["flux"] == {"images": 3, "recall": 0.666667, "low": 0.207660, "high": 0.938508, "auroc": 0.666667}
    assert (found["photos"]["recall"], found["sd"]["recall"]) == (0.5, 1.0)
    assert "auroc" not in found["photos"]


def error_of_hanley_and_mcneil(auroc: float, of_each: int) -> float:
    """The standard error of an AUROC by their formula of 1982, which is close to DeLong's."""
    one, two = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = auroc * (1 - auroc) + (of_each - 1) * (one + two - 2 * auroc**2)
    return math.sqrt(spread) / of_each


def test_metrics_are_those_of_the_scores(evaluated: Path) -> None:
    scores = pq.read_table(evaluated / "metrics/test_scores.parquet").to_pydict()
    is_fake = np.array(scores["label"]) == 0
    p_fake = np.array(scores["p_fake"])
    said_fake = p_fake >= model_card(evaluated)["threshold"]
    kept = ~np.array(scores["leaked"])
    result = json.loads((evaluated / "metrics/test.json").read_text())
    for name in ("ece", "tpr_at_1_fpr"):  # tests/test_metrics.py
        assert 0 < result.pop(name) < 1
    falls = {name: result.pop(name) for name in ("deletion_important", "deletion_random")}
    low, high = result.pop("auroc_low"), result.pop("auroc_high")
    assert low < result["auroc"] < high
    assert high - low == pytest.approx(2 * 1.96 * error_of_hanley_and_mcneil(result["auroc"], N // 2), rel=0.1)
    assert falls == pytest.approx(deletion_of_the_first_answers(evaluated), abs=1e-4)
    robust = rows_of_robustness(evaluated)
    fifteen = [row["accuracy"] for row in robust if row["corruption"] in ("noise", "blur", "jpeg")]
    assert len(fifteen) == 15
    rescaled = [row["accuracy"] for row in robust if row["corruption"] == "rescale"]
    low, high = model_card(evaluated)["abstention_band"]
    answered = (p_fake < low) | (p_fake > high)
    assert answered.mean() == pytest.approx(0.8, abs=0.01)
    by_class = {
        row["object_class"]: float(row["accuracy"]) for row in rows(evaluated / "plots/test/object_classes.csv")
    }
    worst = min(by_class, key=lambda name: by_class[name])
    assert result.pop("worst_class") == worst
    assert result == pytest.approx(
        {
            "accuracy": sk.accuracy_score(is_fake, said_fake),
            "auroc": sk.roc_auc_score(is_fake, p_fake),
            "average_precision": sk.average_precision_score(is_fake, p_fake),
            "f1": sk.f1_score(is_fake, said_fake),
            "fake_recall": sk.recall_score(is_fake, said_fake),
            "real_recall": sk.recall_score(~is_fake, ~said_fake),
            "accuracy_without_leaked": sk.accuracy_score(is_fake[kept], said_fake[kept]),
            "coverage": answered.mean(),
            "selective_accuracy": sk.accuracy_score(is_fake[answered], (p_fake > high)[answered]),
            "worst_accuracy": by_class[worst],
            "corrupted_accuracy": np.mean(fifteen),
            "rescaled_accuracy": np.mean(rescaled),
        },
        abs=2e-6,
    )
    # otherwise this test would compare nothing with nothing
    assert 0.02 < abs(result["auroc"] - 0.5) < 0.5
    assert 0 < result["fake_recall"] < 1
    assert 0 < result["real_recall"] < 1
    assert abs(result["accuracy"] - result["accuracy_without_leaked"]) > 1e-3


def test_robustness_has_a_row_for_every_condition(evaluated: Path) -> None:
    robust = rows_of_robustness(evaluated)
    result = json.loads((evaluated / "metrics/test.json").read_text())
    assert robust[0]["accuracy"] == result["accuracy"]
    assert [row["corruption"] for row in robust] == [
        "none",
        *["noise"] * 5,
        *["blur"] * 5,
        *["jpeg"] * 5,
        *["rescale"] * 3,
    ]
    assert [row["strength"] for row in robust[-3:]] == [24, 16, 12]
    for row in robust:
        assert {"accuracy", "auroc", "fake_recall", "real_recall"} <= row.keys()
        assert row["accuracy"] == pytest.approx((row["fake_recall"] + row["real_recall"]) / 2, abs=1e-5)
    # noise of growing strength changes the scores more and more
    assert len({row["auroc"] for row in robust}) == 19


def test_mistakes_can_be_compared_with_those_of_another_run(evaluated: Path) -> None:
    scores = pq.read_table(evaluated / "metrics/test_scores.parquet").to_pydict()
    threshold = model_card(evaluated)["threshold"]
    wrong = [i for i in range(N) if (scores["p_fake"][i] >= threshold) != (scores["label"][i] == 0)]
    listed = rows(evaluated / "plots/test/mistakes.csv")
    assert [int(row["index"]) for row in listed] == wrong
    assert [row["actual"] for row in listed] == [["FAKE", "REAL"][scores["label"][i]] for i in wrong]


def test_every_test_image_has_one_score(evaluated: Path) -> None:
    table = pq.read_table(evaluated / "metrics/test_scores.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "index": "int32",
        "label": "int8",
        "object_class": "int8",
        "leaked": "bool",
        "source": "dictionary<values=string, indices=int16, ordered=0>",
        "logit": "float",
        "p_fake": "double",
    }
    scores = table.to_pydict()
    assert scores["index"] == list(range(N))
    assert scores["label"] == [i % 2 for i in range(N)]
    assert sum(scores["leaked"]) == 40
    expected = [1 / (1 + math.exp(-logit / TEMPERATURE)) for logit in scores["logit"]]
    assert scores["p_fake"] == pytest.approx(expected)


def test_confusion_matrix_counts_every_image_once(evaluated: Path) -> None:
    result = json.loads((evaluated / "metrics/test.json").read_text())
    matrix = rows(evaluated / "plots/test/confusion.csv")
    count = {(row["actual"], row["predicted"]): int(row["count"]) for row in matrix}
    assert set(count) == {(a, b) for a in ("FAKE", "REAL") for b in ("FAKE", "REAL")}
    assert sum(count.values()) == N
    assert count["FAKE", "FAKE"] / (N / 2) == pytest.approx(result["fake_recall"])
    assert count["REAL", "REAL"] / (N / 2) == pytest.approx(result["real_recall"])


def test_thinned_curves_keep_their_ends_and_area(evaluated: Path) -> None:
    result = json.loads((evaluated / "metrics/test.json").read_text())
    roc = rows(evaluated / "plots/test/roc.csv")
    x = [float(row["false_positive_rate"]) for row in roc]
    y = [float(row["true_positive_rate"]) for row in roc]
    assert ((x[0], y[0]), (x[-1], y[-1])) == ((0, 0), (1, 1))
    assert sk.auc(x, y) == pytest.approx(result["auroc"], abs=0.01)
    curve = rows(evaluated / "plots/test/precision_recall.csv")
    recall = [float(row["recall"]) for row in curve]
    precision = [float(row["precision"]) for row in curve]
    assert (recall[0], recall[-1], precision[-1]) == (0, 1, 0.5)
    assert sk.auc(recall, precision) == pytest.approx(result["average_precision"], abs=0.02)
    assert max(len(roc), len(curve)) <= 300


def test_accuracy_by_object_class(evaluated: Path) -> None:
    result = json.loads((evaluated / "metrics/test.json").read_text())
    classes = rows(evaluated / "plots/test/object_classes.csv")
    assert [row["object_class"] for row in classes] == [
        *"airplane automobile bird cat deer dog frog horse ship truck".split(),
        "all",
    ]
    assert float(classes[-1]["accuracy"]) == pytest.approx(result["accuracy"])
    assert np.mean([float(row["accuracy"]) for row in classes[:-1]]) == pytest.approx(result["accuracy"], abs=1e-4)


def test_contact_sheet_is_a_small_picture(evaluated: Path) -> None:
    path = evaluated / "plots/test/mistakes.png"
    assert path.stat().st_size < 300_000
    with Image.open(path) as sheet:
        assert sheet.width == 1024
        assert not sheet.info  # no date, no software: the same mistakes give the same bytes


def test_same_model_and_data_give_the_same_bytes(evaluated: Path) -> None:
    before = outputs(evaluated)
    evaluate(evaluated)
    assert outputs(evaluated) == before


def test_every_plot_of_dvc_yaml_shows_something(tmp_path: Path) -> None:
    """Also for a data set without object classes, such as the sample."""
    lay_out(tmp_path, np.arange(60) % 2, np.full(60, -1), np.zeros(60))
    evaluate(tmp_path)
    classes = rows(tmp_path / "plots/test/object_classes.csv")
    assert [row["object_class"] for row in classes] == ["all"]
    shutil.copytree(ROOT / "plots/data", tmp_path / "plots/data")
    (tmp_path / "plots/external").mkdir()
    (tmp_path / "plots/external/sources.csv").write_text("source,confidently_wrong,low,high\nweb: flux,0.5,0.4,0.6\n")
    for split in ("train", "val"):
        for metric in ("loss", "accuracy"):
            path = tmp_path / f"plots/training/plots/metrics/{split}/{metric}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"step\t{metric}\n0\t0.7\n1\t0.6\n")

    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q", "-f"], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    shown = subprocess.run([*dvc, "plots", "show", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    plots = json.loads(shown.stdout)
    assert not plots.get("errors")
    assert len(plots["data"]) == 15
    for name, (plot,) in plots["data"].items():
        if name.endswith(".png"):
            assert plot["type"] == "image"
        else:
            assert plot["content"]["data"]["values"], name
            assert "<DVC_METRIC" not in json.dumps(plot["content"]), name


def test_a_missing_model_ends_in_one_line(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(evaluated, folder)
    before = outputs(folder)
    shutil.rmtree(folder / "models/trained")
    done = subprocess.run([sys.executable, "-m", "stages.evaluate"], cwd=folder, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert re.match("error: no model in models/trained .*`dvc repro train`.*`dvc pull train`", line)
    assert outputs(folder) == before


def test_the_worst_object_class_may_be_the_first() -> None:
    kind = np.repeat([0, 1, -1], 20)  # no class: -1
    is_fake = np.arange(60) % 2 == 0
    p_fake = np.where(is_fake, 0.9, 0.1)
    p_fake[:4] = 1 - p_fake[:4]
    p_fake[40:] = 1 - p_fake[40:]
    scores = {"label": np.where(is_fake, FAKE, REAL), "p_fake": p_fake, "object_class": kind, "leaked": kind > 9}
    metrics = evaluation_metrics(scores, trained(mean=(0.35,) * 3, std=(0.2,) * 3, temperature=1.0))
    assert (metrics["worst_class"], metrics["worst_accuracy"]) == ("airplane", 0.8)


@pytest.mark.parametrize("corruptions", [["jpeg"], {"fog": [1]}])
def test_corruptions_that_there_are_not_are_refused(corruptions: Any) -> None:
    with pytest.raises(UserError, match=r"takes lists of strengths, of noise, blur, jpeg, rescale$"):
        check_corruptions(corruptions)


def test_what_does_not_fit_is_refused(evaluated: Path, tmp_path: Path) -> None:
    changed_cards: dict[str, dict[str, Any]] = {
        "the model takes 64x64 RGB images, data/test has 32x32x3": {"input_size": 64},
        "models/trained/model.json is not valid: classes.0 is 'REAL'": {"classes": ["REAL", "FAKE"]},
        "models/trained/model.json is not valid: it lacks threshold": {"threshold": None},
    }
    no_list = "evaluate.corruptions.jpeg is 50 in params.yaml: a list of numbers from 1 to 95"
    no_number = "evaluate.mistakes is None in params.yaml: 1 or more"
    expected = [*changed_cards, no_number, no_list, "data/test is missing", "need FAKE and REAL images"]
    folders = [tmp_path / str(number) for number in range(len(expected))]
    for folder in folders:
        shutil.copytree(evaluated, folder)
    before = outputs(evaluated)
    for folder, change in zip(folders, changed_cards.values(), strict=False):
        kept = {name: value for name, value in model_card(folder).items() if change.get(name, value) == value}
        kept |= {name: value for name, value in change.items() if value is not None}
        (folder / "models/trained/model.json").write_text(json.dumps(kept))
    params = folders[-3] / "params.yaml"
    params.write_text(params.read_text().replace("jpeg: [80, 65, 58, 50, 40]", "jpeg: 50"))
    params = folders[-4] / "params.yaml"
    params.write_text(re.sub(r"mistakes: \d+", "mistakes: null", params.read_text()))
    shutil.rmtree(folders[-2] / TEST)
    write_split(folders[-1] / TEST, np.zeros(20), np.zeros(20), np.zeros(20))

    for folder, words in zip(folders, expected, strict=True):
        with pytest.raises(UserError) as told:
            evaluate(folder)
        assert words in str(told.value)
        assert outputs(folder) == before
