"""What the benchmarks print, and what they say where a library is missing. That they are fast is not tested."""

import io
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import dvc_overhead, load, trainers
from benchmarks.ask import report
from benchmarks.damage import ask_about_copies, picture
from benchmarks.drift import Kind, alarms, table_row
from benchmarks.strangers import SIZE, Turn, many_scans, mutants
from benchmarks.strangers import report as strangers_report
from benchmarks.train_step import operations_per_image, tensor_bytes
from benchmarks.trainers import BEGIN, EPOCH, Training, table
from detector import Detector
from detector.errors import UserError
from detector.two_sample import Rows, TwoSampleTest
from stages.train.network import make_network
from tests.conftest import ROOT, TINY
from tests.serving import make_model

OURS = "epoch 2/8: loss 0.4127; validation: loss 0.3021, accuracy 91.30%, AUROC 0.9712; 402 images/s"
OTHERS = "epoch 2/8: validation: accuracy 90.00%; 201 images/s"


def test_lines_of_every_trainer_are_understood() -> None:
    found = [EPOCH.search(line) for line in (OURS, OTHERS)]
    assert [match and match.groups() for match in found] == [("91.30", "402"), ("90.00", "201")]
    begins = BEGIN.search("quick: 11,170,753 parameters, AMD EPYC, 2 threads, AVX2, fp32\n")
    assert begins
    assert begins.groups() == ("11,170,753", "AMD EPYC, 2 threads, AVX2, fp32")
    assert not EPOCH.search("resuming after epoch 2 of 8, from here")


def test_ratios_are_against_ours() -> None:
    ours = Training("", [10.0, 20.0], [0.85, 0.91], [100.0, 400.0], 30.0)
    slower = Training("", [20.0, 50.0], [0.80, 0.90], [100.0, 200.0], 60.0)
    never = Training("", [20.0, 50.0], [0.80, 0.89], [100.0, 800.0], 60.0)
    lines = table({"ours": ours, "folder": slower, "hf": never}, 0.9).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[1:5] for row in cells] == [
        ["400", "", "20", ""],
        ["200", "2.00 times as fast", "50", "2.50 times as fast"],
        ["800", "0.50 times as fast", "not in 2 epochs", "more than 2.50 times as fast"],
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").iterdir()), ids=lambda path: path.name)
def test_each_result_says_on_which_machine_it_was_measured_and_when(path: Path) -> None:
    text = path.read_text()
    if path.name == "gpu.md" and "*not measured*" in text:
        return
    if path.suffix == ".json":
        measured = json.loads(text)
        heads = [f"{measured['machine']}; {measured['date']}"]
    else:
        heads = re.findall(r"^# .+\n\n(.+)$", text, re.MULTILINE)
    assert heads
    for head in heads:
        assert re.search(r"\d threads?, (AMX|AVX512|AVX2)\b.*; 20\d\d-\d\d-\d\d", head), head


def test_the_readme_says_of_speed_what_was_measured() -> None:
    results = {path.stem: path.read_text() for path in (ROOT / "benchmarks/results").glob("*.md")}
    prose = " ".join((ROOT / "README.md").read_text().split())
    (asking,) = re.findall(r"resnet18_imagenet answers \[(\d+) pictures a second\]", prose)
    assert f"| `Detector.predict` | {asking} |" in results["ask"]
    assert ", resnet18_imagenet." in results["ask"]
    ((fewest, most),) = re.findall(r"over HTTP \[([\d.]+) to ([\d.]+) times the requests\]", prose)
    times = re.findall(r"\| ([\d.]+) times as many \|", results["load"])
    assert (fewest, most) == (min(times, key=float), max(times, key=float))
    quick = r"on two EPYC cores `quick` has ([\d.]+) % on validation after (\d+) seconds; .* "
    quick += r"([\d.]+) % after \[([\d.]+) times as long\]"
    ours, seconds, theirs, longer = re.search(quick, prose).groups()  # type: ignore[union-attr]
    rows = [[cell.strip() for cell in row.split("|")] for row in results["trainers"].splitlines()]
    (row,) = (row for row in rows if row[-4:-3] == [f"more than {longer} times as fast"])
    assert row[1].startswith("folder, ImageFolder, DataLoader")
    assert f"{float(row[-3].rstrip('%')):.1f}" == theirs
    ((_, best),) = {(row[-5], row[-3]) for row in rows if row[-5:-4] == [seconds]}
    assert f"{float(best.rstrip('%')):.1f}" == ours
    assert "AMD EPYC, 2 threads" in results["trainers"]


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "find_spec", lambda name: None if name == "fastai" else "there")
    monkeypatch.setattr(sys, "argv", ["trainers", "ours", "fastai"])
    with pytest.raises(UserError, match=r"^fastai not installed: pip install -r benchmarks/requirements\.txt$"):
        trainers.main()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143), UserError("folder failed")])
def test_what_ended_before_a_stop_is_still_printed(
    stop: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, *_: object) -> Training:
        if name == "folder":
            raise stop
        return Training("some CPU, fp32", [10.0], [0.9], [100.0], 20.0, 2_000_000)

    monkeypatch.delenv("CIFAKE_SOURCE", raising=False)
    monkeypatch.setattr(trainers, "train", train)
    monkeypatch.setattr(sys, "argv", ["trainers", "--images", "20", "ours", "folder"])
    with pytest.raises(type(stop)):
        trainers.main()
    printed = capsys.readouterr().out
    assert "| ours, this repository | 100 |" in printed
    assert "folder" not in printed


def test_asking_is_compared_only_where_the_answers_agree() -> None:
    results = {"ours": {"rate": 900.0, "p_fake": [0.1, 0.9]}, "64": {"rate": 300.0, "p_fake": [0.2, 0.8]}}
    assert (
        report("tiny", 0.0, 2, results).splitlines()[-1]
        == "| `pipeline`, batch size 64 | 300 | 3.0 times as fast | 100.0% |"
    )
    results["64"]["p_fake"] = [0.9, 0.8]
    with pytest.raises(UserError, match=r"gives other answers: only 50\.0% of P\(FAKE\) lie"):
        report("tiny", 0.0, 2, results)


def test_rates_and_times_under_load_are_medians_over_turns() -> None:
    ours = [[0.01] * 98 + [0.05] * 2, [0.01] * 300, [0.02] * 200]
    theirs = [[0.1] * 50] * 3
    line = load.table({("app", 8): ours, ("plain", 8): theirs}, [8], seconds=2).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["8", "100", "25", "4.0 times as many", "10.0 ms", "100.0 ms", "20.0 ms", "100.0 ms"]


def test_operations_of_a_step_are_those_of_forward_and_backward() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 2))
    forward = 2 * (16 * 3 * 9 * 8 + 8 * 16 * 2)  # a multiplication and an addition a weight and place
    backward = forward + 2 * 8 * 16 * 2  # to the weights, and on to the outputs of the convolution
    assert operations_per_image(network, torch.zeros(5, 3, 4, 4)) == forward + backward


def test_the_tensors_of_a_step_are_all_counted() -> None:
    spec = TINY | {"optimizer": "adamw", "input_size": None}
    options = {"auxiliary_loss": 0, "gradient_clip": 0}

    def peak(images: int) -> tuple[int, int]:
        network = make_network(spec, options, 32, torch.device("cpu"), "fp32")
        batch = torch.zeros(images, 3, 32, 32), torch.zeros(images, 2, dtype=torch.int64)
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        return tensor_bytes(network, spec, options, "fp32", itertools.repeat(batch)), weights

    (small, weights), (large, _) = peak(2), peak(34)
    assert small > 4 * weights, "themselves, their average and two moments"
    kept = 32 * 32 * 32 * 32 * 4  # what the first convolution gives, of 32 channels, for 32 images more
    assert kept < large - small < 20 * kept


def test_what_dvc_adds_is_measured_against_all_that_it_runs() -> None:
    stages = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])
    assert stages == dvc_overhead.SCRIPTS
    assert stages[stages.index("train") :] == dvc_overhead.RUN


def test_flipped_bits_are_told_apart_by_who_notices(tmp_path: Path) -> None:
    detector = Detector.load(make_model(tmp_path / "model"))
    found = {}
    for form in ("PNG", "BMP"):
        file = io.BytesIO()
        picture().resize((64, 48)).save(file, form)
        found[form] = ask_about_copies(detector, file.getvalue(), 20, seed=0)
    assert found["PNG"] == (20, 0, [])
    assert len(found["BMP"][2]) > 15, "a BMP has no checksum"


def test_good_requests_beside_strangers_are_compared_turn_by_turn() -> None:
    good = [Turn([(200, 0.010)] * 99 + [(200, seconds)], [(200, 0.002)]) for seconds in (0.02, 0.04, 0.05)]
    mutants = [Turn([(200, 0.012)] * 99 + [(200, seconds)], [(200, 0.004)]) for seconds in (0.03, 0.04, 0.10)]
    costly = [Turn([(200, 0.1), (504, 30.0), (0, 40.0)], [(200, 0.4), (0, 2.0)])]
    *_, first, second, third, _, ratio = strangers_report(
        {"good": good, "mutants": mutants, "costly": costly}
    ).splitlines()
    assert first == "| good | 300 | 0 | 10 ms | 40 ms | 50 ms | 2 ms |"
    assert second == "| mutants | 300 | 0 | 12 ms | 40 ms | 100 ms | 4 ms |"
    assert third == "| costly | 3 | 2 | 30,000 ms | 40,000 ms | 40,000 ms | never |"
    assert ratio.startswith("p99 beside mutants: 1.50 times")


def test_mutants_are_those_of_their_seed_and_costly_files_are_pictures() -> None:
    first, again, other = (list(itertools.islice(mutants(seed), 20)) for seed in (0, 0, 1))
    assert first == again != other
    jpeg = many_scans()
    assert SIZE * 0.9 < len(jpeg) <= SIZE
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (2000, 2000)


def test_drift_is_found_where_it_is_and_not_where_it_is_not() -> None:
    random = np.random.default_rng(0)

    def rows(shift: float) -> Rows:
        return Rows(random.normal(shift, 1, (600, 4)), random.normal(shift, 1, (600, 2)), np.zeros(600, bool))

    test = TwoSampleTest(rows(0))
    assert alarms(test, rows(0), size=30, count=40) <= 0.2
    assert alarms(test, rows(1), size=30, count=10) == 1


def test_drift_of_few_pictures_is_measured_on_smaller_samples() -> None:
    random = np.random.default_rng(0)
    rows = Rows(random.normal(0, 1, (250, 4)), random.normal(0, 1, (250, 2)), np.zeros(250, bool))
    test = TwoSampleTest(rows)
    for name in ("untouched", "truck only"):
        cells = table_row(test, Kind(name, rows, np.ones(250, bool)), count=2).split("|")[1:-1]
        assert [bool(cell.strip()) for cell in cells] == [True, True, True, True, False]
