"""Ask a trained detector about pictures.

    from detector import Detector

    detector = Detector.load("models/vit_tiny")
    for prediction in detector.predict(["photo.jpg", "drawing.png"]):
        print(prediction.verdict, prediction.p_fake, prediction.notes)

`python -m detector` is the same from the shell. The model is a folder that the stage `export` wrote, or `python -m
detector adapt` made from one. onnxruntime runs it, so that asking needs no torch.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.errors import UserError
from detector.labels import probability, verdict
from detector.limit import ADAPTED_SCALE, limit_of, limit_of_adapted, scale_of
from detector.output import percent
from detector.places import model_folder
from detector.pool import DecodingPool
from detector.preprocessed import SAYS_LITTLE, Claim, Preprocessed
from detector.session import Scores, open_session, score
from detector.sizes import images_at_a_time
from detector.sources import is_file, read

if TYPE_CHECKING:
    import onnxruntime
    from PIL import Image

    from detector.head import AdaptedPart
    from detector.pictures import Source
    from detector.record import ExportedRecord

BATCH = 64  # pictures read at a time
BATCH_BYTES = 2**25  # of files that are read before they are decoded
SCORED = 1000  # pictures of 32 px that are scored at a time

# Pairs: largest OOD score in multiples of its threshold, and what it means for the answer.
OOD_LEVELS = (
    (1.5, "the answer is less certain than it looks"),
    (math.inf, SAYS_LITTLE),
)


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    p_fake: the probability that it is FAKE, 0 to 1, among pictures like those that the detector was trained on.
    verdict: FAKE, REAL, or UNSURE inside the abstention band, which was chosen on validation
    (detector.calibration.choose_abstention_band).
    notes: what was done to the picture before it was scored, and what that and `out_of_distribution` mean for the
    answer.
    out_of_distribution: its OOD score is above the OOD threshold, which 99 of 100 validation images do not exceed
    (stages/export/ood.py); of an adapted model, 99 of 100 pictures in cross-validation.
    claims: what the picture's file itself says of how it was made. The other fields do not depend on it; that it says
    nothing proves nothing.
    """

    p_fake: float
    verdict: str
    notes: list[str]
    out_of_distribution: bool
    claims: list[Claim]


@dataclass(frozen=True)
class Explanation:
    """A prediction, and where in the picture it comes from.

    occlusion_map: float32 (8, 8), over what the model saw of the picture: by how much the logit of FAKE falls where
    this part is inpainted, positive for FAKE, negative for REAL. seen_region: what it saw, as left, top, right and
    bottom in shares of the upright picture's width and height; (0, 0, 1, 1), all of it, unless the model's `fit` is
    resize or crop. drawing: the map over what the model saw, enlarged, with a legend.
    """

    prediction: Prediction
    occlusion_map: np.ndarray
    seen_region: tuple[float, float, float, float]
    drawing: "Image.Image"


class Detector:
    """An opened model folder. Threads may share one. Processes of their own decode picture files (detector/pool.py)."""

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        record: "ExportedRecord",
        sha256: str,
        pool: DecodingPool,
        adapted: "AdaptedPart | None" = None,
    ) -> None:
        """session: of model.onnx. record: its model.json. sha256: of model.json, which holds those of the other files,
        so that it says which model this is. pool: decodes files. adapted: what an adapted model computes beyond it."""
        self.session, self.record, self.sha256 = session, record, sha256
        self.pool, self.adapted = pool, adapted
        self.batch_size = images_at_a_time(SCORED, record.network_size)

    @classmethod
    def load(cls, folder: str | Path, threads: int | None = None, pool: DecodingPool | None = None) -> "Detector":
        """Read a model folder. folder: its path; or `models/NAME` or `hf://OWNER/NAME` for what `python -m detector
        fetch` brought. threads: how many cores compute one batch; without it, OMP_NUM_THREADS or all. pool: decodes
        picture files, and several models may share it; without it, one with as many workers.

        Nothing is downloaded. Raises UserError where the folder is missing, broken or not exported.
        """
        folder = model_folder(folder)
        with ThreadPoolExecutor(1) as beside:  # onnxruntime takes as long as all that is imported and checked meanwhile
            opening = beside.submit(open_session, folder / "model.onnx", threads)
            from detector.folder import read_record

            record, sha256 = read_record(folder)
            try:
                session = opening.result()
            except ValueError as error:
                raise UserError(f"{folder / 'model.onnx'} cannot be opened: {error}") from None
        pool = pool or DecodingPool(threads)
        if record.adapted is None:
            return cls(session, record, sha256, pool)
        from detector.head import AdaptedPart, Head  # other models do without

        files = ("features.onnx", "features.safetensors", "head.safetensors")
        try:
            record.check_files(folder, *files)
        except FileNotFoundError:
            raise UserError(f"no {', '.join(files)} in {folder}: `python -m detector adapt` makes it anew") from None
        adapted = AdaptedPart(open_session(folder / "features.onnx", threads), Head.read(folder))
        return cls(session, record, sha256, pool, adapted)

    @property
    def title(self) -> str:
        """Which model this is, such as `resnet18, 97.53 % right on validation`."""
        right = f"{100 * self.record.validation.accuracy:.2f} % right"
        if self.record.adapted is not None:
            return f"{self.record.model}, adapted, {right} in cross-validation"
        return f"{self.record.model}, {right} on validation"

    @property
    def limit(self) -> str:
        """What its answers are worth, in two sentences."""
        if (adapted := self.record.adapted) is not None:
            return limit_of_adapted(adapted.real, adapted.fake, self.record.input_size)
        return limit_of(self.record.dataset, self.record.input_size)

    @property
    def scale(self) -> tuple[str, str]:
        """What a picture is like whose P(FAKE) is 0, and one whose P(FAKE) is 1: words for people."""
        return scale_of(self.record.dataset) if self.record.adapted is None else ADAPTED_SCALE

    def predict(self, images: "Iterable[Source]") -> list[Prediction]:
        """Answer for each picture, in order.

        images: any mixture of picture files' bytes, paths, open files, PIL images and arrays, uint8 (height, width, 3),
        RGB. Raises UserError, which names it, for the first that cannot be read; `stream` goes on.
        """
        is_one = isinstance(images, str | bytes) or not isinstance(images, Iterable)
        if is_one or (isinstance(images, np.ndarray) and images.ndim != 4):
            raise UserError("predict takes several pictures: predict([picture])")
        names: list[str] = []

        def named() -> "Iterator[Source]":
            for number, image in enumerate(images):
                names.append(str(image) if isinstance(image, str | os.PathLike) else f"picture {number}")
                yield image

        predictions: list[Prediction] = []
        for prediction in self.stream(named()):
            if isinstance(prediction, UserError):
                raise UserError(f"{names[len(predictions)]}: {prediction}")
            predictions.append(prediction)
        return predictions

    def stream(self, pictures: "Iterable[Source]") -> Iterator[Prediction | UserError]:
        """Answer as `predict` does, one after the other; for one that cannot be read, yield its UserError.

        BATCH pictures are read at a time, and reduced to the input's size once there are BATCH_BYTES of them: memory
        does not grow with their number.
        """
        remaining = iter(pictures)
        while batch := self.preprocess_all(islice(remaining, BATCH)):
            predictions = iter(self.predict_batch([one for one in batch if isinstance(one, Preprocessed)]))
            for one in batch:
                yield next(predictions) if isinstance(one, Preprocessed) else one

    def preprocess(self, picture: "Source") -> Preprocessed:
        """Make one picture ready for `predict_batch`. Raises UserError where it cannot be read."""
        (one,) = self.preprocess_all([picture])
        if isinstance(one, UserError):
            raise one
        return one

    def predict_batch(self, batch: Sequence[Preprocessed]) -> list[Prediction]:
        """Score the pictures together. Raises UserError where the model's scores are not finite."""
        if not batch:
            return []
        scores = self.score(np.stack([one.pixels for one in batch]))
        return self.predictions(scores, batch)

    def predictions(self, scores: Scores, batch: Sequence[Preprocessed]) -> list[Prediction]:
        """Return what these pictures, which have these scores, are answered."""
        p_fake = probability(scores.logits, self.record.temperature)
        excess = scores.ood_scores.astype(np.float64) / self.record.out_of_distribution.threshold
        return [self._prediction(*one) for one in zip(p_fake.tolist(), excess.tolist(), batch, strict=True)]

    def score(self, images: np.ndarray, flip_tta_margin: float | None = None) -> Scores:
        """Score images, uint8 (N, S, S, 3), of the input's size, so many at a time that memory suffices.

        flip_tta_margin: without it, the record's. Raises UserError where a score is not finite.
        """
        margin = self.record.flip_tta_margin if flip_tta_margin is None else flip_tta_margin
        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        parts = [score(self.session, batch, margin) for batch in batches]
        scores = Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        if self.adapted is None:
            return scores
        return Scores(*self.adapted.score(images, scores.logits), scores.features)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of FAKE of images, uint8 (N, S, S, 3), of the input's size: float32 (N)."""
        return self.score(images).logits

    def explain(self, picture: "Source") -> Explanation:
        """Answer for one picture, with its occlusion map. Raises UserError where it cannot be read."""
        from detector.explain import draw_explanation, occlusion_maps  # an answer alone does without Pillow

        one = self.preprocess(picture)
        (prediction,) = self.predict_batch([one])
        (occlusion_map,) = occlusion_maps(lambda images: self.score(images, math.inf).logits, one.pixels[None])
        heading = f"{prediction.verdict}, P(FAKE) {percent(prediction.p_fake)}"
        drawing = draw_explanation(one.pixels, occlusion_map, heading)
        return Explanation(prediction, occlusion_map, one.seen_region, drawing)

    def preprocess_all(
        self, pictures: "Iterable[Source]", thumbnail: int | None = None
    ) -> list[Preprocessed | UserError]:
        """Return pictures as the model sees them, or why one cannot be read. Files are decoded by the pool, several at
        a time; arrays and PIL images here. thumbnail: the longer side of those that are wanted of files, in pixels."""
        how = self.record.input_size, self.record.fit, self.record.reencode
        results: dict[int, Preprocessed | UserError] = {}
        files: dict[int, bytes] = {}  # read, not decoded yet

        def decode() -> None:
            results.update(zip(files, self.pool.preprocess(list(files.values()), *how, thumbnail), strict=True))
            files.clear()

        count = 0
        for number, picture in enumerate(pictures):
            count += 1
            try:
                if is_file(picture):
                    files[number] = read(picture)
                else:
                    from detector.pictures import preprocess  # the caller has Pillow already

                    results[number] = preprocess(picture, *how)
            except UserError as error:
                results[number] = error
            if sum(map(len, files.values())) >= BATCH_BYTES:
                decode()
        if files:
            decode()
        return [results[number] for number in range(count)]

    def preprocessed_batches(
        self, names: Iterable[str], files: list[str], skipped: list[tuple[str, str]]
    ) -> Iterator[list[Preprocessed]]:
        """Yield picture files as the model sees them, BATCH at a time. Their names are appended to `files`; those that
        cannot be read, with the reason, to `skipped`."""
        remaining = iter(names)
        while chosen := list(islice(remaining, BATCH)):
            batch: list[Preprocessed] = []
            for name, one in zip(chosen, self.preprocess_all(chosen), strict=True):
                if isinstance(one, UserError):
                    skipped.append((name, str(one)))
                else:
                    files.append(name)
                    batch.append(one)
            if batch:
                yield batch

    def _prediction(self, p_fake: float, excess: float, one: Preprocessed) -> Prediction:
        """excess: the OOD score divided by its threshold."""
        notes = one.notes
        if excess > 1:
            meaning = next(meaning for limit, meaning in OOD_LEVELS if excess <= limit)
            times = f"{excess:.0f}" if excess >= 10 else f"{excess:.2g}" if excess >= 1.1 else "just over 1"
            known = "training images" if self.adapted is None else "pictures it was adapted to"
            far = f"out of distribution (far from the {known}), {times} times the threshold"
            notes = [*notes, f"{far}: {meaning}"]
        return Prediction(p_fake, verdict(p_fake, self.record.abstention_band), notes, excess > 1, one.claims)
