"""The numbers themselves: by hand, and against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from detector.calibration import choose_abstention_band, choose_threshold, fit_offset, fit_temperature
from detector.errors import UserError
from detector.labels import probability
from stages.metrics import calibration_bins, classification_metrics, expected_calibration_error
from tools.metrics_report import MEANING, report


def calibrated(n: int = 50_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that say exactly how likely FAKE is, and which images turned out FAKE."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, n)
    return logits, random.random(n) < 1 / (1 + np.exp(-logits))


def flags(text: str) -> np.ndarray:
    return np.array([letter == "F" for letter in text])


@pytest.mark.parametrize("factor", [0.2, 1.0, 4.0])
def test_temperature_undoes_an_overconfident_scale(factor: float) -> None:
    logits, is_fake = calibrated()
    assert fit_temperature((logits * factor).astype(np.float32), is_fake) == pytest.approx(factor, rel=0.03)


def test_temperature_lowers_the_error_of_calibration() -> None:
    logits, is_fake = calibrated()
    overconfident = logits * 4
    temperature = fit_temperature(overconfident[::2], is_fake[::2])
    before = expected_calibration_error(probability(overconfident[1::2], 1.0), is_fake[1::2])
    after = expected_calibration_error(probability(overconfident[1::2], temperature), is_fake[1::2])
    assert after < 0.01 < 0.05 < before


def test_temperature_stays_finite_when_no_image_is_mistaken() -> None:
    logits, is_fake = np.array([9.0, 7.0, -7.0, -9.0]), flags("FFRR")
    temperature = fit_temperature(logits, is_fake)
    assert 0.1 < temperature < 100
    # four images are no proof of more than about 3 to 1 for each side (Platt's targets)
    assert probability(logits, temperature)[0] == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("worst", [np.zeros(4), np.array([-5.0, -5, 5, 5])])
def test_temperature_of_useless_scores_means_one_half(worst: np.ndarray) -> None:
    temperature = fit_temperature(worst, flags("FFRR"))
    assert probability(worst, temperature) == pytest.approx(np.full(4, 0.5), abs=0.02)


@pytest.mark.parametrize("lean", [-4.0, 0.0, 0.5, 20.0])
@pytest.mark.parametrize("factor", [0.2, 1.0, 4.0])
def test_offset_undoes_a_lean_to_one_class(lean: float, factor: float) -> None:
    logits, is_fake = calibrated()
    leaning = ((logits + lean) * factor).astype(np.float32)
    assert fit_offset(leaning, is_fake) == pytest.approx(-lean * factor, abs=0.05 * factor)


def test_offset_lowers_the_error_of_calibration_that_a_temperature_leaves() -> None:
    logits, is_fake = calibrated()
    leaning = logits + 3
    errors = []
    for offset in (0.0, fit_offset(leaning[::2], is_fake[::2])):
        temperature = fit_temperature(leaning[::2] + offset, is_fake[::2])
        p_fake = probability(leaning[1::2] + offset, temperature)
        errors.append(expected_calibration_error(p_fake, is_fake[1::2]))
    assert errors[1] < 0.015 < 0.05 < errors[0]


@pytest.mark.parametrize("logits", [[9.0, 7, -7, -9], [5.0, 4, 3, 2], [-5.0, -5, 5, 5], [0.0, 0, 0, 0], [2.0, 2, 2, 2]])
def test_offset_puts_the_boundary_among_the_logits(logits: list[float]) -> None:
    offset = fit_offset(np.array(logits), flags("FFRR"))
    assert min(logits) <= -offset <= max(logits)


def test_probabilities_of_very_confident_logits_still_differ() -> None:
    p = probability(np.array([18, 19, 20], np.float32), 1.0)
    assert p[0] < p[1] < p[2] < 1


@pytest.mark.parametrize(
    ("p_fake", "kinds", "threshold"),
    [
        ([0.1, 0.2, 0.8, 0.9], "RRFF", 0.5),  # separable: half way
        ([0.90, 0.92, 0.96, 0.98], "RRFF", 0.94),  # separable, badly calibrated
        ([0.1, 0.3, 0.6, 0.9], "RFRF", 0.75),  # 0.2 is as accurate, but farther from 0.5
        ([0.2, 0.4], "FF", 0.1),  # all FAKE
        ([0.6, 0.8], "RR", 0.9),  # all REAL
        ([0.5, 0.5, 0.5], "FFR", 0.25),  # one score: the larger class
        ([0.0, 0.0, 1.0, 1.0], "RRFF", 0.5),  # saturated
        ([0.7, 0.1, 0.4], "FRR", 0.55),  # any order
    ],
)
def test_threshold_by_hand(p_fake: list[float], kinds: str, threshold: float) -> None:
    assert choose_threshold(np.array(p_fake), flags(kinds)) == pytest.approx(threshold)


def test_threshold_is_the_most_accurate_of_all() -> None:
    logits, is_fake = calibrated(400)
    p = probability(logits - 1.5, 1.0)  # shifted, so that 0.5 is not the best
    chosen = choose_threshold(p, is_fake)
    candidates = np.concatenate([p, [0, 1.1]])
    best = max(np.mean((p >= candidate) == is_fake) for candidate in candidates)
    assert np.mean((p >= chosen) == is_fake) == best > np.mean((p >= 0.5) == is_fake)
    assert chosen not in p


def test_metrics_agree_with_scikit_learn() -> None:
    logits, is_fake = calibrated(5_000)
    p = np.round(probability(logits, 1.0), 2)  # with ties
    said_fake = p >= 0.4
    assert classification_metrics(is_fake, p, 0.4) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(is_fake, said_fake),
            "auroc": sk.roc_auc_score(is_fake, p),
            "average_precision": sk.average_precision_score(is_fake, p),
            "f1": sk.f1_score(is_fake, said_fake),
            "fake_recall": sk.recall_score(is_fake, said_fake),
            "real_recall": sk.recall_score(is_fake, said_fake, pos_label=0),
            "tpr_at_1_fpr": max(np.mean(p[is_fake] >= t) for t in p if np.mean(p[~is_fake] >= t) <= 0.01),
            "ece": expected_calibration_error(p, is_fake),
        }
    )


def test_fake_is_the_positive_class() -> None:
    result = classification_metrics(flags("FFFR"), np.array([0.9, 0.9, 0.1, 0.1]), 0.5)
    assert result["fake_recall"] == pytest.approx(2 / 3)
    assert result["real_recall"] == 1
    assert result["f1"] == pytest.approx(0.8)


def test_nothing_called_fake_is_no_crash() -> None:
    result = classification_metrics(flags("FFRR"), np.full(4, 0.2), 0.5)
    assert (result["f1"], result["fake_recall"], result["real_recall"]) == (0, 0, 1)
    assert result["auroc"] == 0.5


@pytest.mark.parametrize("kinds", ["FFF", "RRR"])
def test_one_class_alone_is_refused(kinds: str) -> None:
    with pytest.raises(UserError, match="FAKE and REAL"):
        classification_metrics(flags(kinds), np.array([0.1, 0.5, 0.9]), 0.5)


def test_calibration_error_by_hand() -> None:
    # two bins: said 0.2 and none was FAKE, said 0.9 and half were
    p, is_fake = np.array([0.9, 0.2, 0.9, 0.2]), flags("FRRR")
    assert expected_calibration_error(p, is_fake, bins=2) == pytest.approx((0.2 + 0.4) / 2)


def test_calibration_error_of_honest_probabilities_is_almost_zero() -> None:
    logits, is_fake = calibrated(200_000)
    assert expected_calibration_error(probability(logits, 1.0), is_fake) < 0.003
    assert expected_calibration_error(probability(logits * 3, 1.0), is_fake) > 0.05


def test_calibration_error_does_not_depend_on_the_order_of_equal_scores() -> None:
    p = np.full(100, 0.5)
    assert expected_calibration_error(p, np.arange(100) < 50) == pytest.approx(0)
    assert expected_calibration_error(p, np.arange(100) % 2 == 0) == pytest.approx(0)


def test_calibration_bins_hold_equally_many_images() -> None:
    logits, is_fake = calibrated(100)
    mean_p, share, count = calibration_bins(probability(logits, 1.0), is_fake, bins=15)
    assert count.sum() == 100
    assert count.max() - count.min() <= 1
    assert (np.diff(mean_p) > 0).all()
    assert np.average(share, weights=count) == pytest.approx(is_fake.mean())
    assert len(calibration_bins(np.array([0.1, 0.9]), flags("RF"))[0]) == 2  # fewer images than bins


def scores_of_a_good_detector(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """About 97 % right, and calibrated."""
    logits = random.normal(0, 1, n) + random.choice([-6, 6], n)
    logits[: n // 10] /= 4
    return probability(logits, 1.0), random.random(n) < probability(logits, 1.0)


def test_few_images_can_promise_something_too() -> None:
    """Of 60, the 40 that are furthest from 0.5 are right: 90 % can be promised of them, not of all."""
    p_fake = np.linspace(0.01, 0.99, 60)
    is_fake = p_fake > 0.5
    is_fake[20:40] = ~is_fake[20:40]
    low, high = choose_abstention_band(p_fake, is_fake, 0.9)
    assert p_fake[19] < low < high < p_fake[40]
    assert choose_abstention_band(p_fake, ~is_fake, 0.9) == (0, 1)


def test_answers_outside_the_abstention_band_are_right_as_often_as_promised() -> None:
    """With 95 % confidence: in at least about 95 of 100 choices (91 allows for chance, three standard deviations)."""
    random = np.random.default_rng(0)
    kept = 0
    for _ in range(100):
        low, high = choose_abstention_band(*scores_of_a_good_detector(random, 10_000), 0.995)
        assert 0 < low < 0.5 < high < 1
        p_fake, is_fake = scores_of_a_good_detector(random, 50_000)
        answered = (p_fake < low) | (p_fake > high)
        assert answered.mean() > 0.5
        kept += ((p_fake > high) == is_fake)[answered].mean() >= 0.995
    assert kept >= 91


def test_the_abstention_band_vanishes_for_a_perfect_detector_and_is_all_where_nothing_is_proven() -> None:
    perfect = np.concatenate([np.linspace(0.01, 0.2, 1000), np.linspace(0.8, 0.99, 1000)])
    low, high = choose_abstention_band(perfect, perfect > 0.5, 0.995)
    assert (low, high) == pytest.approx((0.35, 0.65))
    assert not ((perfect >= low) & (perfect <= high)).any()
    assert choose_abstention_band(perfect[990:1010], perfect[990:1010] > 0.5, 0.995) == (0, 1)  # too few images
    assert choose_abstention_band(1 - perfect, perfect > 0.5, 0.995) == (0, 1)  # always wrong


def test_tpr_at_1_percent_fpr_by_hand() -> None:
    real, fake = np.linspace(0, 0.5, 200), np.array([0.1, 0.499, 0.6, 0.7])
    is_fake = np.arange(204) >= 200
    found = classification_metrics(is_fake, np.concatenate([real, fake]), 0.5)
    assert found["tpr_at_1_fpr"] == 0.75  # two of 200 REAL are above 0.4975


def test_the_report_of_a_change_knows_unit_and_direction_of_every_published_metric() -> None:
    for record in Path("metrics/published").glob("*.json"):
        metrics = json.loads(record.read_text())["metrics"]
        for file in ("train", "test", "export", "external"):
            numbers = {key for key, value in metrics.get(file, {}).items() if isinstance(value, int | float)}
            assert numbers <= set(MEANING), record
    changes = {"metrics/test.json": {"ece": {"old": 0.005, "new": 0.004}, "coverage": {"old": 0.96, "new": 0.95}}}
    assert report(changes).splitlines()[4:] == [
        "| ece | 0.50 % | 0.40 % | -0.10 pp | lower | better |",
        "| coverage | 96.00 % | 95.00 % | -1.00 pp | higher | worse |",
    ]
    assert report({}) == "No metric changes.\n"
