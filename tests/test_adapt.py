"""`python -m detector adapt`: a released model, fitted to a few dozen pictures of one's own."""

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from detector import Detector
from detector.__main__ import main
from detector.adapt import adapt
from detector.adapt_report import report
from detector.calibration import choose_abstention_band
from detector.errors import UserError
from detector.features import GRAPH, write_extractor
from detector.fitting import auroc_interval, independent
from detector.head import Head
from detector.labels import probability
from detector.record import ExportedRecord
from detector.released import DEFAULT
from detector.session import open_session, score
from tests.conftest import ROOT
from tests.models import exported
from tests.serving import Server
from tools import unpack
from tools.features import graph_bytes

NAME = Path(DEFAULT).name
FITTED, OTHERS = 40, 100  # pictures of each class: adapted to, and asked about


def of_source(name: str) -> list[bytes]:
    """500 JPEGs of 32x32: `gan`, or `cifar10`, the photographs that it was trained on."""
    rows = pq.read_table(ROOT / "data/elsewhere/test.parquet").to_pylist()
    return [row["image"]["bytes"] for row in rows if row["source"] == name]


FAKES, PHOTOGRAPHS = of_source("gan"), of_source("cifar10")


def write(folder: Path, pictures: list[bytes]) -> Path:
    folder.mkdir(parents=True)
    for number, data in enumerate(pictures):
        (folder / f"{number:03}.jpg").write_bytes(data)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/, as a clone has it."""
    path = tmp_path_factory.mktemp("place")
    (path / "released").symlink_to(ROOT / "released")
    (path / "models").mkdir()
    for tracker in (ROOT / "models").glob("*.dvc"):
        shutil.copy(tracker, path / "models")
    with contextlib.chdir(path), contextlib.redirect_stdout(io.StringIO()):
        unpack.main([])
    return path


@pytest.fixture
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@dataclass
class Adapted:
    folder: Path
    said: str
    complained: str
    base_before: dict[str, str]


@pytest.fixture(scope="module")
def adapted(place: Path) -> Adapted:
    """The released model, adapted to 40 photographs and 40 fakes, some of them twice, and a file that is no picture."""
    write(place / "holidays", PHOTOGRAPHS[:FITTED])
    fakes = write(place / "generated", FAKES[:FITTED])
    brighter = Image.open(io.BytesIO(FAKES[0])).point(lambda value: min(255, value + 6))
    brighter.save(fakes / "another.png")
    Image.open(io.BytesIO(FAKES[1])).rotate(90).save(fakes / "001_turned.png")
    (fakes / "broken.jpg").write_bytes(FAKES[2][:300])
    before = digests(place / DEFAULT)
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        main(["adapt", "--real", "holidays", "--fake", "generated"])
    return Adapted(place / "models/adapted", said.getvalue(), complained.getvalue(), before)


def test_a_few_dozen_pictures_are_enough_for_a_weak_generator(adapted: Adapted) -> None:
    others = [*PHOTOGRAPHS[-OTHERS:], *FAKES[-OTHERS:]]
    is_fake = np.repeat([False, True], OTHERS)
    before, after = (
        Detector.load(folder).predict(others) for folder in (adapted.folder.with_name(NAME), adapted.folder)
    )
    assert np.mean([one.verdict == "FAKE" for one in before[OTHERS:]]) < 0.1
    assert np.mean((np.array([one.p_fake for one in after]) >= 0.5) == is_fake) >= 0.9
    answered = [
        (one.verdict == "FAKE") == fake for one, fake in zip(after, is_fake, strict=True) if one.verdict[0] != "U"
    ]
    assert np.mean(answered) >= 0.9
    assert len(answered) > OTHERS


def test_what_it_was_adapted_to_is_said_and_recorded(adapted: Adapted) -> None:
    record = ExportedRecord.read(adapted.folder)
    done = record.adapted
    assert done is not None
    assert (done.base, done.real_folder, done.fake_folder) == (NAME, "holidays", "generated")
    assert (done.real, done.fake, done.groups) == (FITTED, FITTED + 2, 2 * FITTED), "a copy counts once"
    assert [row.pictures for row in done.cross_validation] == pytest.approx([16, 32, 65], abs=2)
    for row in done.cross_validation:
        assert row.accuracy_interval[0] < row.accuracy < row.accuracy_interval[1] <= 1
        assert row.auroc_interval[0] < row.auroc <= row.auroc_interval[1] <= 1
        assert f"{row.pictures} pictures | {100 * row.accuracy:.1f} %" in adapted.said
    assert "skipped: generated/broken.jpg: broken picture" in adapted.complained
    assert "1 of 43 skipped in generated" in adapted.complained
    detector = Detector.load(adapted.folder)
    assert detector.title.startswith(f"{NAME}, adapted, ")
    assert detector.limit.startswith("Adapted to 40 photographs and 42 fakes of yours at 32x32")
    card = (adapted.folder / "README.md").read_text()
    assert detector.limit in card
    (index,) = ModelCard(card).data.to_dict()["model-index"]  # what the Hugging Face hub shows
    (result,) = index["results"]
    said = [round(value, 6) for value in (record.validation.accuracy, record.validation.auroc)]
    assert [metric["value"] for metric in result["metrics"]] == said
    everything = "".join((adapted.folder / name).read_text() for name in ("README.md", "model.json")) + adapted.said
    assert str(adapted.folder.parent) not in everything, "whoever gets the folder need not know where the pictures are"


def test_the_base_is_untouched_and_the_same_pictures_give_the_same_bytes(
    in_place: Path, adapted: Adapted, tmp_path: Path
) -> None:
    adapt(Path("holidays"), Path("generated"), Path(DEFAULT), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(adapted.folder)
    assert digests(in_place / DEFAULT) == adapted.base_before
    assert sum(path.stat().st_size for path in adapted.folder.glob("*features*")) < 6_000_000


def test_shell_http_and_python_answer_alike(
    adapted: Adapted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = [PHOTOGRAPHS[-1], FAKES[-1]]
    detector = Detector.load(adapted.folder)
    expected = detector.predict(pictures)
    files = sorted(map(str, write(tmp_path / "pictures", pictures).iterdir()))
    main([*files, "--model", str(adapted.folder), "--json"])
    rows = json.loads(capsys.readouterr().out)
    with Server(adapted.folder) as server:
        answer = server.ask(*pictures).json()
        assert server.client.get("/v1/models").json()["models"][0]["title"] == detector.title
        assert server.client.get("/readyz").status_code == 200
    assert answer["limit"] == detector.limit
    for got in (rows, answer["predictions"]):
        assert [row["p_fake"] for row in got] == pytest.approx([one.p_fake for one in expected], abs=1e-4)
        assert [row["verdict"] for row in got] == [one.verdict for one in expected]
    explanation = detector.explain(pictures[1])
    assert explanation.occlusion_map.shape == (8, 8)
    assert np.abs(explanation.occlusion_map).max() > 0
    assert explanation.prediction.p_fake == pytest.approx(expected[1].p_fake, abs=1e-4)


def test_the_report_says_where_no_answer_can_be_promised() -> None:
    row = {"pictures": 40, "accuracy": 0.8, "accuracy_interval": (0.7, 0.9), "auroc": 0.9, "auroc_interval": (0.8, 1.0)}
    adaptation: dict[str, Any] = {
        "base": NAME,
        "base_sha256": "0" * 64,
        "real_folder": "real",
        "fake_folder": "fake",
    }
    adaptation |= {"real": 20, "fake": 20, "groups": 40, "selective_accuracy": 0.95, "cross_validation": (row,)}
    adaptation |= {"gain": 0.02, "gain_error": 0.03}
    unsure, sure = (
        report(exported(adapted=adaptation, abstention_band=band))[-1] for band in ((0.0, 1.0), (0.25, 0.75))
    )
    assert unsure.startswith("Every answer will be UNSURE: 95 % right answers cannot be promised")
    assert sure == "UNSURE is answered for P(FAKE) from 0.25 to 0.75; outside, 95 % right answers can be promised."


def test_other_kinds_of_pictures_are_out_of_distribution(adapted: Adapted) -> None:
    detector = Detector.load(adapted.folder)
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    plain = np.full((1, 32, 32, 3), 90, np.uint8)
    far = detector.predict(np.concatenate([noise, plain]))
    assert all(one.out_of_distribution for one in far)
    assert "far from the pictures it was adapted to" in far[0].notes[-1]


def test_the_head_sees_the_base_models_logit_of_each_picture(in_place: Path, adapted: Adapted) -> None:
    """Of more pictures than are computed at a time, without a progress bar."""
    base = Detector.load(in_place / DEFAULT)
    files = [*sorted((in_place / "holidays").iterdir()), *sorted((in_place / "generated").iterdir())]
    files = [file for file in files if file.name != "broken.jpg"]
    pixels = np.stack([base.preprocess(file).pixels for file in files])
    logits, *_ = score(base.session, pixels, base.record.flip_tta_margin)
    assert len(files) == 2 * FITTED + 2
    assert Head.read(adapted.folder).center[-1] == pytest.approx(logits.mean(), rel=1e-4)


def test_to_answer_takes_neither_scikit_learn_nor_torch(adapted: Adapted) -> None:
    code = f"""
import sys
from detector import Detector
Detector.load({str(adapted.folder)!r}).predict([sys.stdin.buffer.read()])
print({{"torch", "sklearn", "scipy", "onnx"}} & sys.modules.keys())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=FAKES[0], capture_output=True)
    assert (said.returncode, said.stdout) == (0, b"set()\n"), said.stderr


def test_a_broken_or_missing_file_of_an_adapted_model_is_told(adapted: Adapted, tmp_path: Path) -> None:
    for name in ("features.onnx", "features.safetensors", "head.safetensors"):
        copy = Path(shutil.copytree(adapted.folder, tmp_path / name))
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
        with pytest.raises(UserError, match="is not the file that model"):
            Detector.load(copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match="makes it anew"):
            Detector.load(copy)


def refuse(tmp_path: Path, **changes: Any) -> str:
    """Return the reason for which nothing is written."""
    real, fake = tmp_path / "real", tmp_path / "fake"
    for folder, pictures in ((real, PHOTOGRAPHS[:20]), (fake, FAKES[:20])):
        if not folder.exists():
            write(folder, pictures)
    out = tmp_path / "out/model"
    options: dict[str, Path] = {
        "real": real,
        "fake": fake,
        "base_folder": Path(DEFAULT),
        "out": out,
        **changes,
    }
    with pytest.raises(UserError) as refusal:
        adapt(**options)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    return str(refusal.value)


@pytest.mark.usefixtures("in_place")
def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    few = write(tmp_path / "few", PHOTOGRAPHS[:12])
    assert f"12 photographs in {few}, copies counted once: adapting takes 20 at least" in refuse(tmp_path, real=few)
    copies = write(tmp_path / "copies", [*FAKES[:12], *FAKES[:12]])
    assert f"12 fakes in {copies}" in refuse(tmp_path, fake=copies)
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere} is no folder" in refuse(tmp_path, fake=nowhere)


@pytest.mark.usefixtures("in_place")
def test_a_picture_in_both_folders_is_refused(tmp_path: Path) -> None:
    both = write(tmp_path / "both", [*FAKES[:20], PHOTOGRAPHS[3]])
    assert f"{tmp_path}/real/003.jpg and {both}/020.jpg are the same picture" in refuse(tmp_path, fake=both)


@pytest.mark.usefixtures("in_place")
def test_two_folders_of_photographs_are_no_better_than_chance(tmp_path: Path) -> None:
    photographs = write(tmp_path / "fake", PHOTOGRAPHS[20:40])
    assert "no better than chance: AUROC 0." in refuse(tmp_path, fake=photographs)


def test_what_adapting_needs_is_told(
    in_place: Path, adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name another folder with --out" in str(refuse(tmp_path, out=adapted.folder))
    assert f"is adapted already: start from {NAME}" in refuse(tmp_path, base_folder=adapted.folder)
    base = in_place / DEFAULT
    monkeypatch.chdir(tmp_path)
    assert "`dvc pull models/pretrained` fetches it" in refuse(tmp_path, base_folder=base)
    pretrained = tmp_path / "models/pretrained"
    shutil.copytree(in_place / "models/pretrained", pretrained)
    (pretrained / "resnet18-imagenet.safetensors").write_bytes(b"cut off")
    assert "is broken" in refuse(tmp_path, base_folder=base)
    shutil.copy(base / "model.safetensors", pretrained / "resnet18-imagenet.safetensors")
    assert "is not the file that features.onnx reads" in refuse(tmp_path, base_folder=base)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert refuse(tmp_path, base_folder=base) == "adapting needs scikit-learn: `pip install scikit-learn`"


@pytest.mark.usefixtures("in_place")
def test_the_extractor_is_what_its_tool_writes() -> None:
    assert graph_bytes() == GRAPH.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("in_place")
def test_the_extractor_computes_what_timm_does(tmp_path: Path) -> None:
    import timm
    import torch

    write_extractor(tmp_path)
    session = open_session(tmp_path / "features.onnx")
    overlay = {"file": "models/pretrained/resnet18-imagenet.safetensors"}
    network: Any = timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0).eval()
    mean, std = (torch.tensor(network.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    for side in (32, 128, 160):
        pixels = np.random.default_rng(side).integers(0, 256, (2, side, side, 3), np.uint8)
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        if side < 128:
            images = torch.nn.functional.interpolate(images, (128, 128), mode="bicubic")
        with torch.inference_mode():
            maps = network.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
        means = [part.mean((2, 3)) for part in maps]
        deviations = [part.std((2, 3), correction=0) for part in maps]
        (features,) = session.run(None, {"images": pixels})
        np.testing.assert_allclose(features, torch.cat([*means, *deviations], 1).numpy(), atol=1e-4)


def test_the_interval_of_an_auroc_has_a_width_and_covers_it() -> None:
    assert auroc_interval(1, 20, 20) == pytest.approx((0.9, 1), abs=0.01)
    rng = np.random.default_rng(0)
    true, covered = 0.76, 0  # of two normal distributions, one standard deviation apart
    for _ in range(300):
        scores, others = rng.normal(1, size=25), rng.normal(size=25)
        low, high = auroc_interval(float((scores[:, None] > others).mean()), 25, 25)
        covered += low <= true <= high
    assert covered >= 0.92 * 300


def band_of(logits: np.ndarray, is_fake: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    counted = independent(is_fake, groups)
    return choose_abstention_band(probability(logits[counted], 1), is_fake[counted], 0.9)


def test_copies_of_pictures_promise_nothing() -> None:
    rng = np.random.default_rng(0)
    is_fake, groups = np.repeat([False, True], 40), np.arange(80)
    logits = rng.normal(np.where(is_fake, 1.5, -1.5), 1)
    copies = (np.repeat(numbers, 5) for numbers in (logits, is_fake, groups))
    assert band_of(*copies) == band_of(logits, is_fake, groups)


def test_what_is_promised_holds_for_the_rarer_class_as_well() -> None:
    rng = np.random.default_rng(0)
    several, is_one = np.repeat([2.5, -0.5], 50_000), np.repeat([True, False], 50_000)
    later = probability(rng.normal(several, 1), 1)  # of a head that leans to FAKE, of which it was shown more
    kept = []
    for _ in range(100):
        is_fake = np.repeat([True, False], [400, 60])
        low, high = band_of(rng.normal(np.where(is_fake, 2.5, -0.5), 1), is_fake, np.arange(460))
        answered = (later < low) | (later > high)
        if answered.any():
            kept.append(((later > 0.5) == is_one)[answered].mean() >= 0.9)
    assert len(kept) > 20
    assert np.mean(kept) > 0.9


@pytest.mark.usefixtures("in_place")
def test_a_folder_of_any_name_is_adapted_to_and_a_file_is_no_folder(tmp_path: Path) -> None:
    real = write(tmp_path / "fl\udcfcge", PHOTOGRAPHS[:FITTED])  # Latin-1
    fake = write(tmp_path / "generated", FAKES[:FITTED])
    with pytest.raises(UserError, match="is no folder: nothing can be written below it"):
        adapt(real, fake, Path(DEFAULT), fake / "000.jpg/out")
    record = adapt(real, fake, Path(DEFAULT), tmp_path / "out")
    assert record.adapted is not None
    assert record.adapted.real_folder == "fl\N{REPLACEMENT CHARACTER}ge"


def test_help_has_examples_and_comes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["adapt", "--help"])
    assert done.value.code == 0
    assert "python -m detector adapt --real photos/ --fake generated/" in capsys.readouterr().out
