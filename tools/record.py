"""The record of a published run, metrics/published/<name>.json."""

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from detector.errors import UserError
from detector.record import Share, Strict, TestMetrics, reason
from stages.intervals import images_behind, wilson_interval

PUBLISHED = Path("metrics/published")
Metrics = dict[str, Any]


class AllMetrics(Strict):
    """The files metrics/<name>.json. Runs that were published before they were measured elsewhere lack the last two."""

    prepare: Metrics
    train: Metrics
    test: TestMetrics
    robustness: list[Metrics]
    export: Metrics
    external: dict[str, Share] | None = None
    external_sources: list[Metrics] | None = None


class RunRecord(Strict):
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]  # whose code ran
    code: str = ""  # a digest of it (tools/lockfile.py), the same in runs that can be compared; older ones lack it
    machine: str
    versions: dict[str, str]
    params: dict[str, Any]  # params.yaml, of `models` only the one that was trained
    metrics: AllMetrics
    mistakes: list[int]  # indices of the test images that the detector got wrong

    @property
    def model(self) -> str:
        return str(self.params["model"])

    @property
    def seed(self) -> int:
        return int(self.params["seed"])

    @model_validator(mode="after")
    def _mistakes_are_those_of_the_accuracy(self) -> Self:
        images = self.metrics.prepare["test_fake"] + self.metrics.prepare["test_real"]
        expected = round((1 - self.test("accuracy")) * images)
        if len(self.mistakes) != expected:
            raise ValueError(
                f"{len(self.mistakes)} mistakes, but its accuracy says {expected}: they are of another run"
            )
        return self

    def test(self, name: str) -> float:
        """Return a number of metrics/test.json. Raises KeyError where it was not measured."""
        value = self.metrics.test[name]
        assert isinstance(value, int | float), name
        return float(value)

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a number of metrics/test.json, None where it has none: of the drawing of the test
        images, not of training. By Wilson, of AUROC by DeLong. That of `tpr_at_1_fpr` would be too narrow: its
        threshold is read off test images too, whose spread Wilson's does not know."""
        test, images = self.metrics.test, images_behind(self.metrics.prepare, self.metrics.test)
        if name == "auroc" and "auroc_low" in test:
            return self.test("auroc_low"), self.test("auroc_high")
        if name in images and name in test and name != "tpr_at_1_fpr":
            return wilson_interval(round(self.test(name) * images[name]), images[name])
        return None

    @property
    def recipe(self) -> str:
        """All parameters but for the seed and the data sets that it was not trained on, as a key."""
        datasets = {name: entry for name, entry in self.params["datasets"].items() if name == self.params["dataset"]}
        return json.dumps({**self.params, "datasets": datasets, "seed": None}, sort_keys=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record. Raises UserError where it is not valid."""
        try:
            return cls.model_validate_json(path.read_text())
        except ValidationError as error:
            raise UserError(f"{path} is not valid: {reason(error)}. `make publish` writes it anew") from None
