"""Ask a trained detector about pictures.

    from detector import Detector

    detector = Detector.load("models/trained")
    for answer in detector.predict(["photo.jpg", "drawing.png"]):
        print(answer.verdict, answer.p_fake, answer.notes)

`python -m detector` is the same from the shell.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detector.data import CLASSES
from detector.errors import UserError
from detector.metrics import probability
from detector.model import load as load_model
from detector.model import predict_logits
from detector.pictures import Source, load

BATCH = 64  # pictures scored at a time


@dataclass(frozen=True)
class Answer:
    """What a detector says of one picture.

    p_fake: the probability that it is FAKE, 0 to 1, among pictures like those that the detector was trained on.
    verdict: FAKE, REAL, or UNSURE inside the band that was chosen on validation (detector.metrics.choose_unsure).
    notes: what was done to the picture before it was looked at, and what that means for the answer.
    """

    p_fake: float
    verdict: str
    notes: list[str]


class Detector:
    """A trained network and what its model.json says."""

    def __init__(self, network: torch.nn.Module, info: dict[str, Any]) -> None:
        """Raises UserError where info lacks something, or has other classes."""
        needed = {"input_size", "mean", "std", "mirror", "classes", "temperature", "unsure"}
        if missing := needed - info.keys():
            raise UserError(f"model.json lacks {', '.join(sorted(missing))}: `dvc repro -f train`")
        if info["classes"] != CLASSES:
            raise UserError(f"the model has the classes {info['classes']}, expected {CLASSES}")
        self.network, self.info = network, info

    @classmethod
    def load(cls, folder: str | Path = "models/trained", device: str = "cpu") -> "Detector":
        """Read a model folder. Raises UserError where it is missing, damaged or older than the UNSURE band."""
        return cls(*load_model(folder, device))

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
            pixels = [looked[0] for looked in batch if not isinstance(looked, UserError)]
            p_fake = iter(self._score(np.stack(pixels)) if pixels else [])
            for looked in batch:
                yield looked if isinstance(looked, UserError) else self._answer(next(p_fake), looked[1])

    def _look(self, picture: Source) -> tuple[np.ndarray, list[str]] | UserError:
        try:
            return load(picture, self.info["input_size"])
        except UserError as error:
            return error

    def _score(self, images: np.ndarray) -> list[float]:
        logits = predict_logits(self.network, images, self.info, len(images))
        if not np.isfinite(logits).all():
            raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
        return probability(logits, self.info["temperature"]).tolist()

    def _answer(self, p_fake: float, notes: list[str]) -> Answer:
        low, high = self.info["unsure"]
        return Answer(p_fake, "REAL" if p_fake < low else "FAKE" if p_fake > high else "UNSURE", notes)
