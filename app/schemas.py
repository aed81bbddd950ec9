"""The bodies of answers, with real examples: what the model asked by default says of the page's example pictures."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.problems import MEDIA_TYPE
from detector.images import FORMATS
from detector.limit import LIMIT
from detector.released import DEFAULT

PHOTOGRAPH: dict[str, Any] = {
    "file": "coffee.jpg",
    "verdict": "UNSURE",
    "p_fake": 0.4839,
    "notes": [
        "300x200 made 32x32, proportions not kept",
        "9.38 times smaller: nearly all detail is lost, the answer says little",
    ],
    "out_of_distribution": False,
    "claims": [],
    "error": None,
}
BROKEN: dict[str, Any] = {
    "file": "torn.jpg",
    "verdict": None,
    "p_fake": None,
    "notes": [],
    "out_of_distribution": None,
    "claims": [],
    "error": "the file is empty",
}
OCCLUSION_MAP = [
    [0.28, 0.12, -0.5, -0.12, 0.55, 0.16, -0.11, -0.18],
    [0.05, 0.03, -0.41, -0.69, -0.19, 0.0, -0.18, -0.21],
    [0.01, 0.21, 0.23, 0.04, 0.32, 0.33, -0.14, -0.33],
    [0.13, 0.53, 1.15, 2.05, 2.19, 0.89, -0.13, -0.37],
    [0.07, 0.41, 1.15, 1.97, 1.87, 0.4, -0.34, -0.15],
    [0.58, 0.7, 0.83, 0.77, 0.66, -0.07, -0.3, 0.17],
    [0.96, 0.89, 0.63, 0.39, 0.6, 0.47, 0.23, 0.39],
    [0.85, 0.61, 0.36, 0.44, 0.8, 0.91, 0.6, 0.45],
]
SHA256 = "85783fd1ff6e3200eb4c0d575bf84c03934f01cda221602a72fcdb164d2beee9"
REFUSED = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "too many requests"}
EXAMPLES: dict[str, dict[str, Any]] = {  # by the names of the classes below
    "FileClaim": {"source": "EXIF Software", "says": "made with Midjourney", "signed": False},
    "FilePrediction": PHOTOGRAPH,
    "PredictResponse": {
        "model": Path(DEFAULT).name,
        "model_sha256": SHA256,
        "predictions": [PHOTOGRAPH, BROKEN],
        "limit": LIMIT,
    },
    "ExplainResponse": {
        "model": Path(DEFAULT).name,
        "model_sha256": SHA256,
        "prediction": PHOTOGRAPH,
        "occlusion_map": OCCLUSION_MAP,
        "seen_region": [0.0, 0.0, 1.0, 1.0],
        "limit": LIMIT,
    },
    "Refusal": REFUSED,
}


Digest = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 of the model's model.json, which holds those of its other files"
    ),
]


class FileClaim(BaseModel):
    source: str = Field(description="where in the file it stands, such as EXIF Software, PNG parameters or C2PA")
    says: str = Field(description="what it says, in one line")
    signed: bool = Field(
        description="part of Content Credentials whose signature fits the file; what is not signed, anyone can write"
    )


class FilePrediction(BaseModel):
    """The prediction for one file; `error` says why there is none."""

    file: str = Field(description="the file's name as it was sent")
    verdict: str | None = Field(
        default=None, description="FAKE, REAL, or UNSURE inside the abstention band that /v1/models gives"
    )
    p_fake: float | None = Field(default=None, description="probability of FAKE, among pictures like the training data")
    notes: list[str] = Field(default=[], description="what was done to the picture, and what that means for the answer")
    out_of_distribution: bool | None = Field(
        default=None, description="the picture is far from those that the model was trained on"
    )
    claims: list[FileClaim] = Field(
        default=[], description="what the file itself says of how it was made; no part of the answer, and no proof"
    )
    error: str | None = None


class PredictResponse(BaseModel):
    model: str
    model_sha256: Digest
    predictions: list[FilePrediction]
    limit: str = Field(description="what no answer can say")


class ExplainResponse(BaseModel):
    model: str
    model_sha256: Digest
    prediction: FilePrediction
    occlusion_map: list[list[float]] = Field(
        description="rows of the grid; positive speaks for FAKE, negative for REAL"
    )
    seen_region: tuple[float, float, float, float] = Field(
        description="where the grid lies, which is what the model saw: left, top, right, bottom, in shares of the "
        "upright picture's width and height"
    )
    limit: str


class Drift(BaseModel):
    answers: int = Field(description="how many of the last answers were compared with the model's validation split")
    found: bool = Field(description="they are not like it; docs/how-to/drift.md says what to do")
    p_value: float = Field(description="of all tests together")
    out_of_distribution: float = Field(description="share of these pictures that is out of distribution")


class Model(BaseModel):
    name: str
    title: str
    model_sha256: Digest
    trained_on: str = Field(description="dataset of params.yaml")
    input_size: int = Field(description="every picture is made so many pixels wide and high")
    abstention_band: tuple[float, float] = Field(description="between these P(FAKE) the verdict is UNSURE")
    scale: tuple[str, str] = Field(description="what a picture is like whose P(FAKE) is 0, and one whose P(FAKE) is 1")
    limit: str = Field(description="what no answer of this model can say")
    test: dict[str, Any] = Field(description="metrics on the test split, as in metrics/test.json")
    drift: Drift | None = Field(
        default=None, description="of what arrives; null until 200 pictures were answered, and without a reference"
    )


class Limits(BaseModel):
    max_bytes: int = Field(description="of a file")
    max_files: int = Field(description="in a request")
    max_pixels: int = Field(description="of a picture")


class Models(BaseModel):
    models: list[Model]
    limits: Limits
    limit: str = Field(description="of the model that answers where a request names none")


class Refusal(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="what is wrong and, where that is not plain, what to do")
    errors: list[dict[str, Any]] | None = Field(default=None, description="what is wrong with each of several")


REASONS = {
    403: "A page of another site asks",
    408: "The pictures did not arrive in time, or stopped arriving",
    413: "A file, the number of files, or every picture's pixels are over the limit",
    415: "The body is not multipart/form-data",
    421: "The service does not answer to the name in Host",
    422: "No picture that can be read, or no such model",
    503: "Too many requests at the moment, or not ready",
    504: "No answer in time",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/Refusal"}
    return {
        status: {"description": REASONS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def multipart(max_files: int) -> dict[str, Any]:
    """OpenAPI's description of the body, which app/uploads.py reads."""
    name = "file" if max_files == 1 else "files"
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    value = file if max_files == 1 else {"type": "array", "items": file, "minItems": 1, "maxItems": max_files}
    # Fields of other names may hold files as well, but a client that is generated from this needs no second name. Which
    # format a file has is told by its content, so that the types are for generators alone.
    schema = {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
    types = ", ".join(f"image/{kind.lower()}" for kind in FORMATS)
    content = {"multipart/form-data": {"schema": schema, "encoding": {name: {"contentType": types}}}}
    return {"requestBody": {"required": True, "content": content}}
