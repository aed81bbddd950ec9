"""Drift of what the service is asked: a rolling window of the last answers' features, compared with the reference.

The window holds numbers, never pictures: 16 features, 7 scalars and a flag for each of the last 1,000 answers.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge

from detector.detector import Detector, Prediction
from detector.pictures import Preprocessed
from detector.reference import FILE, SCALARS, Reference
from detector.two_sample import Rows, TwoSampleResult, TwoSampleTest, concatenate

WINDOW = 1000  # answers that are compared
FIRST = 200  # while there are fewer than WINDOW, the last so many are compared
STEP = 100  # new answers, before the window is compared again
SECONDS = 60.0  # from one comparison to the next, at least: the first takes 0.3 s of a core, others 0.02 s
# A window is compared over and over: at the shell's 5 % one comparison in twenty would be a false alarm. At this level
# one in a thousand is, one or two a day if each minute brings new answers. The smallest p-value of the test is 0.0005.
LEVEL = 0.001
TESTS = ("features", *SCALARS, "out_of_distribution")

logger = logging.getLogger("app")


@dataclass(frozen=True)
class Comparison:
    """The last comparison: of how many answers, their share out of distribution, and the tests."""

    answers: int
    out_of_distribution: float
    result: TwoSampleResult


@dataclass(frozen=True)
class Answer:
    """A prediction, and its row for the window; None where the model has no reference."""

    prediction: Prediction
    row: Rows | None


class Watch:
    """The window of one model, and what the last comparison found. Its methods run in the event loop's thread, but for
    `predict_batch`."""

    def __init__(self, folder: Path, detector: Detector) -> None:
        """Raises UserError where the model's reference is not the one that it was exported with."""
        self.detector = detector
        is_there = FILE in detector.record.sha256  # older releases and adapted models have none
        self.reference = Reference.read(folder, detector.record) if is_there else None
        self.window: deque[Rows] = deque(maxlen=WINDOW)
        self.new = 0  # answers since the last comparison
        self.next = 0.0  # when another one may begin
        self.last: Comparison | None = None
        self.thread = ThreadPoolExecutor(1, "drift")
        self.test: TwoSampleTest | None = None  # made in that thread

    def predict_batch(self, batch: Sequence[Preprocessed]) -> list[Answer]:
        """Answer as `Detector.predict_batch` does."""
        pixels = np.stack([one.pixels for one in batch])
        scores = self.detector.score(pixels)
        predictions = self.detector.predictions(scores, batch)
        if self.reference is None:
            return [Answer(prediction, None) for prediction in predictions]
        rows = self.reference.rows_of(pixels, scores)
        return [Answer(prediction, rows.take([place])) for place, prediction in enumerate(predictions)]

    def noted(self, answer: Answer) -> Prediction:
        """Put an answer that goes out into the window, and return its prediction."""
        if answer.row is not None:
            self.window.append(answer.row)
            self.new += 1
            self.compare()
        return answer.prediction

    def compare(self) -> None:
        """Begin to compare the window, in a thread, where that is due."""
        if len(self.window) < FIRST or self.new < STEP or time.monotonic() < self.next:
            return
        self.new, self.next = 0, time.monotonic() + SECONDS
        sample = list(self.window)[-(WINDOW if len(self.window) == WINDOW else FIRST) :]
        self.thread.submit(self._compare, sample)

    def _compare(self, sample: list[Rows]) -> None:
        try:
            if self.test is None:
                assert self.reference is not None
                self.test = TwoSampleTest(self.reference.rows)
            rows = concatenate(sample)
            self.last = Comparison(len(rows), float(rows.flagged.mean()), self.test(rows))
        except Exception:  # nobody waits for this thread
            logger.exception("drift")

    def shown(self, number: Callable[[Comparison], float]) -> Callable[[], float]:
        """Return a function of a number in the last comparison."""

        def shown() -> float:
            self.compare()
            return math.nan if self.last is None else number(self.last)

        return shown

    def summary(self) -> dict[str, Any] | None:
        """Return what /v1/models says of the last comparison."""
        self.compare()
        if self.last is None:
            return None
        return {
            "answers": self.last.answers,
            "found": self.last.result.p_value <= LEVEL,
            "p_value": self.last.result.p_value,
            "out_of_distribution": self.last.out_of_distribution,
        }


def watch_models(
    folders: Sequence[Path], detectors: dict[str, Detector], registry: CollectorRegistry
) -> dict[str, Watch]:
    """Return a watch for each model, and show what it finds as Prometheus metrics.

    Before the first comparison values are NaN: no rule compares true with it.
    """
    answers, p_value, share = (
        Gauge(f"detector_drift_{name}", meaning, ["model"], registry=registry)
        for name, meaning in (
            ("answers", "Answers in the last comparison with the validation split"),
            ("p_value", "P-value of all tests together"),
            ("out_of_distribution", "Share of these answers that is out of distribution"),
        )
    )
    distance = Gauge("detector_drift_distance", "Distance by test", ["model", "test"], registry=registry)
    watches = {}
    for folder, (name, detector) in zip(folders, detectors.items(), strict=True):
        watch = watches[name] = Watch(folder, detector)
        answers.labels(name).set_function(watch.shown(lambda last: last.answers))
        p_value.labels(name).set_function(watch.shown(lambda last: last.result.p_value))
        share.labels(name).set_function(watch.shown(lambda last: last.out_of_distribution))
        for place, test in enumerate(TESTS):
            number = watch.shown(lambda last, place=place: float(last.result.distances[place]))  # type: ignore[misc]
            distance.labels(name, test).set_function(number)
    return watches
