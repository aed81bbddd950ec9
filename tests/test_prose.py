"""Numbers in sentences are those of published records and committed measurements: a new run makes stale ones fail."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from detector.released import DEFAULT
from tests.conftest import ROOT
from tools.record import PUBLISHED, RunRecord

RELEASED = [name for name in json.loads((ROOT / "detector/released.json").read_text()) if name != "pretrained"]


def prose(path: str) -> str:
    """A document as one line, without emphasis."""
    return " ".join((ROOT / path).read_text().replace("**", "").split())


def said(path: str, pattern: str) -> tuple[str, ...]:
    """The groups of the one place where a document says this."""
    found = list(re.finditer(pattern, prose(path)))
    assert len(found) == 1, f"{path} says {len(found)} times: {pattern}"
    return found[0].groups()


def cells(path: str, first: str) -> list[str]:
    """The cells of the one row of a table whose first cell is this."""
    lines = (ROOT / path).read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (found,) = (row for row in rows if row[0] == first)
    return found


def records() -> list[RunRecord]:
    """Of the released models, seed 0."""
    return [RunRecord.read(ROOT / PUBLISHED / f"{name}-seed0.json") for name in RELEASED]


def elsewhere(key: str, *sources: str) -> list[float]:
    """A number of the stage `external`, of each released model and each of these sources."""
    found: list[float] = []
    for record in records():
        rows: dict[str, Any] = {row["source"]: row for row in record.metrics.external_sources or []}
        found += [rows[source][key][0] for source in sources]
    assert len(found) == len(RELEASED) * len(sources)
    return found


def of_the_sample(key: str, kind: str) -> list[float]:
    """A number of the sample's images of one class, of each released model."""
    rows = [row for record in records() for row in record.metrics.external_sources or []]
    return [row[key][0] for row in rows if (row["dataset"], row["class"]) == ("sample", kind)]


def span(values: list[float], digits: int = 0, scale: int = 100) -> tuple[str, str]:
    """The lowest and the highest, as written."""
    return f"{scale * min(values):.{digits}f}", f"{scale * max(values):.{digits}f}"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("README.md", r"Of 1,000 fakes of two other generators the released models catch none"),
        ("docs/explanation/limits.md", r"of 500 fakes each, the released models catch none"),
        ("docs/how-to/library.md", r"of 1,000 fakes of two other generators they catch none"),
        ("app/static/index.html", r"of 1,000 fakes of two others they catch none"),
    ],
)
def test_what_is_caught_of_other_generators(path: str, pattern: str) -> None:
    said(path, pattern)
    assert set(elsewhere("caught", "flow", "gan")) == {0.0}


def test_what_is_confidently_wrong_elsewhere() -> None:
    limits = "docs/explanation/limits.md"
    wrong = elsewhere("confidently_wrong", "flow", "gan")
    assert said(limits, r"(\d+) to (\d+) % are called REAL without a warning, \*confidently wrong\*") == span(wrong)
    auroc = elsewhere("auroc", "flow", "gan")
    assert said(limits, r"AUROC against CIFAR-10's photographs is (0\.\d+) to (0\.\d+),") == span(auroc, 2, 1)
    fakes = of_the_sample("confidently_wrong", "FAKE")
    assert said(limits, r"small sample fare little better: (\d+) (?:and|to) (\d+) % are confidently wrong") == span(
        fakes
    )


def test_what_is_called_out_of_distribution() -> None:
    enlarged = [record.metrics.export["ood_enlarged"] for record in records()]
    pattern = r"That catches .*? plain colours and (\d+) to (\d+) % of strong enlargements"
    assert said("docs/how-to/ask.md", pattern) == span(enlarged)
    noise = [record.metrics.export["ood_noise"] for record in records()]
    assert said("docs/how-to/ask.md", r"That catches (\d+) to (\d+) % of pure noise") == span(noise)
    photographs = of_the_sample("out_of_distribution", "REAL")
    pattern = r"It catches (\d+) to (\d+) % of the sample's photographs"
    assert said("docs/how-to/ask.md", pattern) == span(photographs)


def test_what_prepare_found_in_cifake() -> None:
    page, found = "docs/explanation/cifake.md", json.loads((ROOT / "metrics/prepare.json").read_text())
    names = ("duplicates", "duplicates_train", "duplicates_test", "duplicates_across")
    pattern = r"([\d,]+) pairs of FAKE images are identical: (\d+) within the train split, (\d+) within test, (\d+) ac"
    assert said(page, pattern) == tuple(f"{found[name]:,}" for name in names)
    near = ("near_duplicates", "near_duplicates_across", "near_leaked")
    pattern = r"(\d+) more pairs are near-duplicates, (\d+) of them across train and test: (\d+) further test images"
    assert said(page, pattern) == tuple(str(found[name]) for name in near)
    assert said(page, r"mean (\w+): alone it has an AUROC of ([\d.]+)") == (
        found["shortcut"],
        f"{found['shortcut_auroc']:.2f}",
    )
    assert said("README.md", r"(\d+) test images that are also in the train split") == (str(found["leaked"]),)


def test_what_one_flipped_bit_does() -> None:
    table, limits = "benchmarks/results/damage.md", "docs/explanation/limits.md"
    jpeg, avif = (cells(table, name) for name in ("JPEG, quality 90", "AVIF"))
    pattern = r"flipped bit, (\d+) % get an answer without a word, and (\d+) % one .* of an AVIF (\d+) and (\d+) %"
    assert said(limits, pattern) == tuple(
        f"{float(number.rstrip('%')):.0f}" for row in (jpeg, avif) for number in row[4:6]
    )
    heard = {
        name: f"{float(row[2].rstrip('%')) + float(row[3].rstrip('%')):.1f}"
        for name in ("WebP, quality 80", "TIFF, deflate", "AVIF", "JPEG, quality 90")
        for row in [cells(table, name)]
    }
    pattern = r"PNG all, WebP ([\d.]+) %, TIFF with deflate ([\d.]+) %, AVIF ([\d.]+) %, JPEG ([\d.]+) %"
    assert said("docs/reliability.md", pattern) == tuple(heard.values())


def test_what_costly_files_and_strangers_cost() -> None:
    page = "docs/reliability.md"
    costs = (ROOT / "benchmarks/results/costs.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in costs if line.startswith("|")][2:]
    memory, seconds = max(int(row[3]) for row in rows), max(float(row[6]) for row in rows)
    pattern = r"\| (\d+) MB at most, a lossless WebP of 25 megapixels; ([\d.]+) s at most"
    assert said(page, pattern) == (str(memory), str(seconds))
    (most,) = (row for row in rows if int(row[3]) == memory)
    assert most[0].startswith("WebP, lossless")
    strangers = "benchmarks/results/strangers.md"
    good, mutants, costly = (cells(strangers, name) for name in ("good", "mutants", "costly"))
    pattern = (
        r"good requests ([\d.]+) times .*? \((\d+) and (\d+) ms\); .*? within ([\d.]+) s, `/healthz` within (\d+) ms"
    )
    times, others, alone, slowest, health = said(page, pattern)
    assert said(strangers, r"p99 beside mutants: ([\d.]+) times") == (times,)
    assert [mutants[4], good[4]] == [f"{others} ms", f"{alone} ms"]
    assert 0 < int(costly[5].split()[0]) <= 1000 * float(slowest)
    assert 0 < int(costly[6].split()[0]) <= int(health)


def test_how_often_drift_is_found() -> None:
    page, table = "docs/reliability.md", "benchmarks/results/drift.md"
    untouched = cells(table, "untouched")[3]
    share, low, high = said(page, r"\| ([\d.]+) % called drift \(([\d.]+) to ([\d.]+)\)")
    assert untouched == f"**{share}** ({low} to {high})"
    lines = (ROOT / table).read_text().splitlines()
    rows = [line.split("|") for line in lines if re.match(r"\| [a-z]+.* \| +[\d.]+ \| [\d.]+ \|", line)]
    found = [float(row[4]) for row in rows]
    assert len(found) > 30
    assert said(page, r"found in (\d+) to (\d+) % of samples") == span(found, scale=1)


def test_what_the_page_in_the_browser_takes_and_how_far_its_answers_are_off() -> None:
    page, measured = "docs/how-to/browser.md", "benchmarks/results/browser.md"
    times = said(measured, r"First answer ([\d.]+) s .*? picture ([\d.]+) s, an occlusion map ([\d.]+) s")
    pattern = r"there ([\d.]+) s after .*? takes ([\d.]+) s, an occlusion map ([\d.]+) s"
    assert said(page, pattern) == tuple(f"{float(time):.2g}" for time in times)
    pattern = rf"\| {Path(DEFAULT).name} \| int8 where it must be (?:\| [\d.]+ )+\|"
    (row,) = re.findall(pattern, (ROOT / "benchmarks/results/small_model.md").read_text())
    assert said(page, r"differs by ([\d.]+) at most on 10,000 images") == (row.split()[-4],)


def test_how_many_mutants_are_noticed() -> None:
    row = cells("benchmarks/results/mutants.md", "all")
    count, noticed, share, others = said(
        "docs/reliability.md", r"(\d+) mutants of `stages` .*?\| (\d+) noticed \((\d+) %\); of the (\d+) others"
    )
    assert row == ["all", count, f"{noticed} ({share}%)"]
    assert int(others) == int(count) - int(noticed)
