"""Ask a trained detector about pictures.

    from detector import Detector

    detector = Detector.load("models/resnet18")
    for prediction in detector.predict(["photo.jpg", "drawing.png"]):
        print(prediction.verdict, prediction.p_fake, prediction.notes)

`python -m detector` is the same from the shell. The model is a folder that the stage `export` wrote, or `python -m
detector adapt` made from one. onnxruntime runs it, so that asking needs no torch.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from PIL import Image

from detector.cores import thread_count
from detector.errors import UserError, is_out_of_memory
from detector.explain import draw_explanation, occlusion_maps, percent
from detector.labels import probability, verdict
from detector.limit import limit_of, limit_of_adapted
from detector.pictures import Preprocessed, Source, preprocess
from detector.record import ExportedRecord
from detector.sizes import images_at_a_time

if TYPE_CHECKING:
    from detector.head import AdaptedPart

BATCH = 64  # pictures read at a time
SCORED = 1000  # pictures of 32 px that are scored at a time

# Pairs: largest OOD score in multiples of its threshold, and what it means for the answer.
OOD_LEVELS = (
    (1.5, "the answer is less certain than it looks"),
    (math.inf, "the answer says little"),
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
    """

    p_fake: float
    verdict: str
    notes: list[str]
    out_of_distribution: bool


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
    drawing: Image.Image


class Detector:
    """An opened model folder. Threads may share one."""

    def __init__(
        self, session: onnxruntime.InferenceSession, record: ExportedRecord, adapted: "AdaptedPart | None" = None
    ) -> None:
        """session: of model.onnx. record: its model.json. adapted: what an adapted model computes beyond it."""
        self.session, self.record, self.adapted = session, record, adapted
        self.batch_size = images_at_a_time(SCORED, record.network_size)

    @classmethod
    def load(cls, folder: str | Path = "models/resnet18", threads: int | None = None) -> "Detector":
        """Read a model folder. threads: how many cores compute one batch; without it, OMP_NUM_THREADS or all.

        Raises UserError where the folder is missing, broken or not exported.
        """
        folder = Path(folder)
        try:
            record = ExportedRecord.read(folder)
            record.check_files(folder, "model.onnx", "model.safetensors")
        except (FileNotFoundError, NotADirectoryError):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file: a model is the folder with model.json and model.onnx") from None
            where = f"in {folder}" + ("" if folder.exists() else f" (there is no folder {folder.absolute()})")
            raise UserError(
                f"no model.onnx, model.safetensors and model.json {where}: in the repository, `dvc pull "
                "models/resnet18` fetches a released model, `dvc repro export` puts one's own into models/exported"
            ) from None
        try:
            session = open_session(folder / "model.onnx", threads)
        except ValueError as error:
            raise UserError(f"{folder / 'model.onnx'} cannot be opened: {error}") from None
        if record.adapted is None:
            return cls(session, record)
        from detector.head import AdaptedPart, Head  # other models do without

        files = ("features.onnx", "features.safetensors", "head.safetensors")
        try:
            record.check_files(folder, *files)
        except FileNotFoundError:
            raise UserError(f"no {', '.join(files)} in {folder}: `python -m detector adapt` makes it anew") from None
        return cls(session, record, AdaptedPart(open_session(folder / "features.onnx", threads), Head.read(folder)))

    @property
    def title(self) -> str:
        """Which model this is, such as `resnet18, 98.82 % right on validation`."""
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

    def predict(self, images: Iterable[Source]) -> list[Prediction]:
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

        predictions: list[Prediction] = []
        for prediction in self.stream(named()):
            if isinstance(prediction, UserError):
                raise UserError(f"{names[len(predictions)]}: {prediction}")
            predictions.append(prediction)
        return predictions

    def stream(self, pictures: Iterable[Source]) -> Iterator[Prediction | UserError]:
        """Answer as `predict` does, one after the other; for one that cannot be read, yield its UserError.

        BATCH pictures are read at a time, each reduced to the input's size at once: memory does not grow with their
        number.
        """
        remaining = iter(pictures)
        while batch := [self._preprocess_or_error(picture) for picture in islice(remaining, BATCH)]:
            predictions = iter(self.predict_batch([one for one in batch if isinstance(one, Preprocessed)]))
            for one in batch:
                yield next(predictions) if isinstance(one, Preprocessed) else one

    def preprocess(self, picture: Source) -> Preprocessed:
        """Make one picture ready for `predict_batch`. Raises UserError where it cannot be read."""
        return preprocess(picture, self.record.input_size, self.record.fit, self.record.reencode)

    def predict_batch(self, batch: Sequence[Preprocessed]) -> list[Prediction]:
        """Score the pictures together. Raises UserError where the model's scores are not finite."""
        if not batch:
            return []
        logits, ood_scores = self._score(np.stack([one.pixels for one in batch]), self.record.flip_tta_margin)
        p_fake = probability(logits, self.record.temperature)
        excess = ood_scores.astype(np.float64) / self.record.out_of_distribution.threshold
        numbers = zip(p_fake.tolist(), excess.tolist(), [one.notes for one in batch], strict=True)
        return [self._prediction(*one) for one in numbers]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of FAKE of images, uint8 (N, S, S, 3), of the input's size: float32 (N)."""
        return self._score(images, self.record.flip_tta_margin)[0]

    def explain(self, picture: Source) -> Explanation:
        """Answer for one picture, with its occlusion map. Raises UserError where it cannot be read."""
        one = self.preprocess(picture)
        (prediction,) = self.predict_batch([one])
        (occlusion_map,) = occlusion_maps(lambda images: self._score(images, math.inf)[0], one.pixels[None])
        heading = f"{prediction.verdict}, P(FAKE) {percent(prediction.p_fake)}"
        drawing = draw_explanation(one.pixels, occlusion_map, heading)
        return Explanation(prediction, occlusion_map, one.seen_region, drawing)

    def _score(self, images: np.ndarray, flip_tta_margin: float) -> tuple[np.ndarray, np.ndarray]:
        """`score`, for so many images at a time that memory suffices."""
        starts = range(0, len(images), self.batch_size)
        parts = [score(self.session, images[start : start + self.batch_size], flip_tta_margin) for start in starts]
        logits, ood_scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return (logits, ood_scores) if self.adapted is None else self.adapted.score(images, logits)

    def _preprocess_or_error(self, picture: Source) -> Preprocessed | UserError:
        try:
            return self.preprocess(picture)
        except UserError as error:
            return error

    def _prediction(self, p_fake: float, excess: float, notes: list[str]) -> Prediction:
        """excess: the OOD score divided by its threshold."""
        if excess > 1:
            meaning = next(meaning for limit, meaning in OOD_LEVELS if excess <= limit)
            times = f"{excess:.0f}" if excess >= 10 else f"{excess:.2g}" if excess >= 1.1 else "just over 1"
            known = "training images" if self.adapted is None else "pictures it was adapted to"
            far = f"out of distribution (far from the {known}), {times} times the threshold"
            notes = [*notes, f"{far}: {meaning}"]
        return Prediction(p_fake, verdict(p_fake, self.record.abstention_band), notes, excess > 1)


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file, whose weights are in a safetensors file beside it. Raises ValueError where onnxruntime cannot
    read it, MemoryError where it has no memory for it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or thread_count()
    # threads that wait for the next batch would spin, and take the cores from whatever reads the pictures
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised as well
    weights = sorted(path.parent.glob("*.safetensors"))
    model: Path | bytes = path
    if any(file.is_symlink() for file in (path, *weights)):
        # DVC's cache of type symlink: onnxruntime opens no weights outside the folder, but takes them from memory
        model, buffers = path.read_bytes(), [np.memmap(file, np.uint8, "r") for file in weights]
        names, lengths = [file.name for file in weights], [len(buffer) for buffer in buffers]
        options.add_external_initializers_from_files_in_memory(names, buffers, lengths)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class for each of its status codes
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from None
        raise ValueError(str(error)) from None


def score(
    session: onnxruntime.InferenceSession, images: np.ndarray, flip_tta_margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) -> logits of FAKE and OOD scores, each float32 (N).

    Where |logit| is below `flip_tta_margin`, the horizontally flipped image is scored as well, and their mean is the
    logit (flip test-time augmentation): 0 flips none, infinity all. Raises UserError where a score is not finite.
    """
    logit_name = session.get_outputs()[0].name  # by position: the second output of released files is called `distance`
    logits, ood_scores = session.run(None, {"images": images})
    if len(close := np.flatnonzero(np.abs(logits) < flip_tta_margin)):
        (flipped,) = session.run([logit_name], {"images": images[close, :, ::-1]})
        logits[close] = (logits[close] + flipped) / 2
    if not (np.isfinite(logits).all() and np.isfinite(ood_scores).all()):
        raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
    return logits, ood_scores
