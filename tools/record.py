"""The record of a published run, metrics/published/<name>.json."""

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError

from detector.errors import UserError
from detector.record import Share, Strict, TestMetrics, reason

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

    def test(self, name: str) -> float:
        """Return a number of metrics/test.json. Raises KeyError where it was not measured."""
        value = self.metrics.test[name]
        assert isinstance(value, int | float), name
        return float(value)

    @property
    def recipe(self) -> str:
        """All parameters but for the seed, as a key."""
        return json.dumps({name: value for name, value in self.params.items() if name != "seed"}, sort_keys=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record. Raises UserError where it is not valid."""
        try:
            return cls.model_validate_json(path.read_text())
        except ValidationError as error:
            raise UserError(f"{path} is not valid: {reason(error)}. `make publish` writes it anew") from None
