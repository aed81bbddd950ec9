"""Ask a trained detector about pictures.

    from detector import Detector

    detector = Detector.load("models/resnet18")
    for answer in detector.predict(["photo.jpg", "drawing.png"]):
        print(answer.verdict, answer.p_fake, answer.notes)

`python -m detector` is the same from the shell. The model is a folder that the stage `export` wrote; onnxruntime runs
it, so that nobody who only asks waits for torch, or needs it.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from detector.data import CLASSES
from detector.device import cores
from detector.errors import UserError
from detector.explain import draw, find_evidence, percent
from detector.pictures import Source, load

BATCH = 64  # pictures scored at a time

# Up to so many times the distance that 99 of 100 validation images keep, and what that means for the answer.
UNLIKE = (
    (1.5, "the answer is less sure than it looks"),
    (math.inf, "the answer says little"),
)


@dataclass(frozen=True)
class Looked:
    """A picture made ready: pixels, uint8 (input_size, input_size, 3), RGB, and the notes on what was done to it."""

    pixels: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class Answer:
    """What a detector says of one picture.

    p_fake: the probability that it is FAKE, 0 to 1, among pictures like those that the detector was trained on.
    verdict: FAKE, REAL, or UNSURE inside the band that was chosen on validation (detector.metrics.choose_unsure).
    notes: what was done to the picture before it was looked at, and what that and `unlike` mean for the answer.
    unlike: the picture lies further from the training data than 99 of 100 validation images do (stages/export.py).
    """

    p_fake: float
    verdict: str
    notes: list[str]
    unlike: bool


@dataclass(frozen=True)
class Explanation:
    """An answer, and where in the picture it comes from.

    evidence: float32 (8, 8), over the whole picture: by how much the logit falls where this part is hidden, positive
    for FAKE, negative for REAL. drawing: it is laid over the enlarged picture, with a legend.
    """

    answer: Answer
    evidence: np.ndarray
    drawing: Image.Image


class Detector:
    """A model folder, opened. Threads may share one."""

    def __init__(self, session: onnxruntime.InferenceSession, info: dict[str, Any]) -> None:
        """session: of model.onnx. info: model.json. Raises UserError where info lacks something, or has other
        classes."""
        needed = {"input_size", "classes", "mirror", "temperature", "unsure", "ood"}
        if missing := needed - info.keys():
            raise UserError(f"model.json lacks {', '.join(sorted(missing))}: `dvc repro export` makes it anew")
        if info["classes"] != CLASSES:
            raise UserError(f"the model has the classes {info['classes']}, expected {CLASSES}")
        self.session, self.info = session, info
        # a graph with both looks inside, of a release before these were apart, says True
        is_inside = info["mirror"] is True
        self.cut: float = 0.0 if is_inside else info["mirror"]
        self.every = 0.0 if is_inside else math.inf

    @classmethod
    def load(cls, folder: str | Path = "models/resnet18", threads: int | None = None) -> "Detector":
        """Read a model folder. threads: how many cores compute one batch; without it, OMP_NUM_THREADS or all.

        Raises UserError where the folder is missing, damaged or not exported.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / "model.json").read_text())
            session = open_session(folder / "model.onnx", threads)
        except FileNotFoundError:
            raise UserError(
                f"no model.onnx and model.json in {folder}: `dvc pull -r released models/resnet18` fetches a released "
                "model, `dvc repro export` puts one's own into models/exported"
            ) from None
        except ValueError as error:
            raise UserError(f"the model in {folder} is damaged: {error}") from None
        return cls(session, info)

    @property
    def title(self) -> str:
        """Which model this is: `resnet18, 97.64 % right on validation`."""
        accuracy = self.info.get("metrics", {}).get("accuracy")
        right = "accuracy not recorded" if accuracy is None else f"{100 * accuracy:.2f} % right on validation"
        return f"{self.info.get('model', self.info.get('timm'))}, {right}"

    def predict(self, images: Iterable[Source]) -> list[Answer]:
        """Answer for each picture, in order.

        images: any mixture of picture files' bytes, paths, open files, PIL images and arrays, uint8 (height, width, 3),
        RGB. Raises UserError, which names it, for the first that cannot be read; `stream` goes on.
        """
        is_one = isinstance(images, str | bytes | os.PathLike | Image.Image)
        if is_one or (isinstance(images, np.ndarray) and images.ndim != 4):
            raise UserError("predict takes several pictures: predict([picture])")
        names: list[str] = []

        def named() -> Iterator[Source]:
            for number, image in enumerate(images):
                names.append(str(image) if isinstance(image, str | os.PathLike) else f"picture {number}")
                yield image

        answers: list[Answer] = []
        for answer in self.stream(named()):
            if isinstance(answer, UserError):
                raise UserError(f"{names[len(answers)]}: {answer}")
            answers.append(answer)
        return answers

    def stream(self, pictures: Iterable[Source]) -> Iterator[Answer | UserError]:
        """Answer as `predict` does, one after the other; of one that cannot be read, its UserError.

        BATCH pictures are drawn and scored at a time, each reduced to the input's size at once: memory does not grow
        with their number.
        """
        remaining = iter(pictures)
        while batch := [self._look(picture) for picture in islice(remaining, BATCH)]:
            answers = iter(self.answer([looked for looked in batch if isinstance(looked, Looked)]))
            for looked in batch:
                yield next(answers) if isinstance(looked, Looked) else looked

    def look(self, picture: Source) -> Looked:
        """Make one picture ready for `answer`. Raises UserError where it cannot be read."""
        return Looked(*load(picture, self.info["input_size"]))

    def answer(self, pictures: Sequence[Looked]) -> list[Answer]:
        """Score all the pictures together. Raises UserError where the model's scores are not finite."""
        if not pictures:
            return []
        logit, distance = score(self.session, np.stack([looked.pixels for looked in pictures]), self.cut)
        p_fake = np.exp(-np.logaddexp(0, -logit.astype(np.float64) / self.info["temperature"]))
        times = distance.astype(np.float64) / self.info["ood"]["threshold"]
        return [
            self._answer(*one) for one in zip(p_fake.tolist(), times.tolist(), [p.notes for p in pictures], strict=True)
        ]

    def explain(self, picture: Source) -> Explanation:
        """Answer for one picture, and show where the evidence lies. Raises UserError where it cannot be read."""
        looked = self.look(picture)
        (answer,) = self.answer([looked])
        (evidence,) = find_evidence(lambda images: score(self.session, images, self.every)[0], looked.pixels[None])
        drawing = draw(looked.pixels, evidence, f"{answer.verdict}, P(FAKE) {percent(answer.p_fake)}")
        return Explanation(answer, evidence, drawing)

    def _look(self, picture: Source) -> Looked | UserError:
        try:
            return self.look(picture)
        except UserError as error:
            return error

    def _answer(self, p_fake: float, times: float, notes: list[str]) -> Answer:
        low, high = self.info["unsure"]
        verdict = "REAL" if p_fake < low else "FAKE" if p_fake > high else "UNSURE"
        if times > 1:
            meaning = next(meaning for limit, meaning in UNLIKE if times <= limit)
            far = f"{times:.0f} times as far" if times >= 10 else f"{times:.2g} times as far"
            distance = f"{far} from them as" if times >= 1.1 else "a little further from them than"
            notes = [*notes, f"unlike the training images, {distance} 99 of 100 are: {meaning}"]
        return Answer(p_fake, verdict, notes, times > 1)


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Raises FileNotFoundError, and ValueError where onnxruntime cannot read what is there."""
    if not path.is_file():
        raise FileNotFoundError(path)
    options = onnxruntime.SessionOptions()
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    options.intra_op_num_threads = threads or (int(said) if said.isdecimal() and int(said) else len(cores()))
    # threads that wait for the next batch would spin, and take the cores from whatever reads the pictures
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised as well
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class for each of its status codes
        raise ValueError(str(error)) from None


def score(session: onnxruntime.InferenceSession, images: np.ndarray, mirror: float) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) -> logits of FAKE and distances from the training data, each float32 (N).

    Where a logit is nearer to 0 than `mirror`, the mirror image is looked at as well, and their mean is the logit.
    """
    logit, distance = session.run(["logit", "distance"], {"images": images})
    if len(close := np.flatnonzero(np.abs(logit) < mirror)):
        (second,) = session.run(["logit"], {"images": images[close, :, ::-1]})
        logit[close] = (logit[close] + second) / 2
    if not (np.isfinite(logit).all() and np.isfinite(distance).all()):
        raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
    return logit, distance
