"""model.json: everything about a model but its weights, typed, and checked whenever it is read.

`train` writes a `ModelRecord`; `export` adds what an answer needs beyond it, an `ExportedRecord`. Nothing else in this
repository knows the keys of model.json.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detector.errors import UserError
from detector.files import file_sha256

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=8, le=4096)]  # width and height of an image
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FILE = "model.json"
# How a picture of another size becomes the input: the whole picture, its proportions not kept; its short side made the
# input's side, the rest cut off; or its middle alone, as it is.
Fit = Literal["stretch", "resize", "crop"]
FITS = get_args(Fit)
# metrics/test.json: numbers, the name of an object class, and `sources`, numbers by source
TestMetrics = dict[str, float | str | dict[str, dict[str, float]]]


class Strict(BaseModel):
    """Text is not converted to numbers, numbers are finite, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")

    @classmethod
    def make(cls, **fields: Any) -> Self:
        """Make a record. Raises UserError where a field is not valid."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UserError(f"the record would not be valid: {reason(error)}") from None


class Validation(Strict):
    """What the best epoch is worth on the validation split, with its offset and flip test-time augmentation, before
    temperature and threshold."""

    loss: Annotated[float, Field(ge=0)]
    accuracy: Share
    auroc: Share


class OutOfDistribution(Strict):
    """A picture whose OOD score is above `threshold` is called out of distribution."""

    threshold: Positive
    validation_share: Share  # of the validation images whose score is not above it


class ModelRecord(Strict):
    """A trained model."""

    model: str  # the entry of `models` in params.yaml
    seed: int
    timm: str  # name for timm.create_model
    args: dict[str, Any]  # its further arguments
    stem: str | None
    pretrained: bool | str
    input_size: Pixels  # of the pictures that the model takes
    enlarged_size: Pixels | None = None  # that the model enlarges them to before its network; None: it does not
    fit: Fit = "stretch"  # of pictures of another size
    reencode: Annotated[int, Field(ge=1, le=95)] | None = None  # JPEG quality at which each input is encoded, if any
    mean: tuple[Share, Share, Share]  # of the training images, or what pretrained weights want: RGB, 0 to 1
    std: tuple[Positive, Positive, Positive]
    classes: tuple[Literal["FAKE"], Literal["REAL"]]  # the names of the labels 0 and 1
    data_digest: str  # of the training images
    flip_tta_margin: Annotated[float, Field(ge=0)]  # |logit| below which the flipped image is scored as well
    temperature: Positive
    threshold: Share  # P(FAKE) from which an image counts as FAKE in the metrics
    abstention_band: tuple[Share, Share]  # P(FAKE) between which the verdict is UNSURE
    validation: Validation
    sha256: dict[str, Digest]  # of the files beside model.json

    @model_validator(mode="after")
    def _band_has_two_ends(self) -> Self:
        low, high = self.abstention_band
        if low > high:
            raise ValueError(f"abstention_band: its lower end {low} is above its upper end {high}")
        return self

    @model_validator(mode="after")
    def _is_not_made_smaller(self) -> Self:
        if self.network_size < self.input_size:
            raise ValueError(f"enlarged_size: {self.enlarged_size} is less than input_size, {self.input_size}")
        return self

    @property
    def network_size(self) -> int:
        """Pixels, width and height, of the images that the network sees."""
        return self.enlarged_size or self.input_size

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `folder`/model.json. Raises FileNotFoundError, and UserError where the content is not valid."""
        path = folder / FILE
        text = path.read_text(errors="replace")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"{path} is not valid: {reason(error)}. `dvc repro` makes it anew; an older release needs the code of "
                "its commit"
            ) from None

    def write(self, folder: Path) -> None:
        """Write `folder`/model.json, with the digests of the other files that are in the folder."""
        digests = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.name != FILE}
        content = {**self.model_dump(mode="json"), "sha256": digests}
        (folder / FILE).write_text(json.dumps(content, indent=2) + "\n")

    def check_files(self, folder: Path, *names: str) -> None:
        """Raises FileNotFoundError, and UserError where a file is not the one that the record was written for."""
        for name in names:
            if file_sha256(folder / name) != self.sha256.get(name):
                raise UserError(f"{folder / name} is not the file that {FILE} was written for: fetch or make both anew")


class CrossValidation(Strict):
    """What an adapted model is worth on pictures of the user's that it was not fitted to, where it was fitted to so
    many. The intervals have 95 %, and pictures that belong together count once in them."""

    pictures: Annotated[int, Field(ge=1)]
    accuracy: Share  # FAKE being P(FAKE) >= 0.5
    accuracy_interval: tuple[Share, Share]
    auroc: Share
    auroc_interval: tuple[Share, Share]


class Adaptation(Strict):
    """What a model was adapted to. The folders' names are without their paths."""

    base: str  # the folder of the model that it was made from
    base_sha256: Digest  # of that folder's model.json
    real_folder: str
    fake_folder: str
    real: Annotated[int, Field(ge=1)]  # pictures
    fake: Annotated[int, Field(ge=1)]
    groups: Annotated[int, Field(ge=1)]  # of pictures that belong together: copies of each other, or by their names
    selective_accuracy: Share  # for which the abstention band was chosen
    cross_validation: tuple[CrossValidation, ...]  # at a quarter, half and all of the pictures
    gain: Annotated[float, Field(ge=-1, le=1)]  # of accuracy, from half of the pictures to all
    gain_error: Annotated[float, Field(ge=0)]  # its standard error


class ExportedRecord(ModelRecord):
    """A model that can be asked."""

    dataset: str
    test: TestMetrics  # of an adapted model nothing
    out_of_distribution: OutOfDistribution
    adapted: Adaptation | None = None


def reason(error: ValidationError) -> str:
    """Return the first of the errors in words, and all missing keys."""
    errors = error.errors(include_url=False)
    if missing := [".".join(map(str, e["loc"])) for e in errors if e["type"] == "missing"]:
        return f"it lacks {', '.join(missing)}"
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("bool", "str", "float"))  # of a union
    given = f" is {first['input']!r}" if where and not isinstance(first["input"], dict) else ""
    return f"{where}{given}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")
