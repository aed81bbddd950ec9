"""onnxruntime's session of a model: how it is opened, and what it says of images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from detector.cores import thread_count
from detector.errors import UserError, is_out_of_memory


class Scores(NamedTuple):
    """What a model says of N images.

    logits: of FAKE, float32 (N). ood_scores: float32 (N). features: float32 (N, F), whose length the OOD score is; of a
    model that was exported without them float32 (N, 0).
    """

    logits: np.ndarray
    ood_scores: np.ndarray
    features: np.ndarray


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


def score(session: onnxruntime.InferenceSession, images: np.ndarray, flip_tta_margin: float) -> Scores:
    """Score images, uint8 (N, H, W, 3).

    Where |logit| is below `flip_tta_margin`, the horizontally flipped image is scored as well, and their mean is the
    logit (flip test-time augmentation): 0 flips none, infinity all. Raises UserError where a score is not finite.
    """
    logit_name = session.get_outputs()[0].name  # by position: the second output of released files is called `distance`
    logits, ood_scores, *more = session.run(None, {"images": images})
    features = more[0] if more else np.zeros((len(images), 0), np.float32)
    if len(close := np.flatnonzero(np.abs(logits) < flip_tta_margin)):
        (flipped,) = session.run([logit_name], {"images": images[close, :, ::-1]})
        logits[close] = (logits[close] + flipped) / 2
    if not (np.isfinite(logits).all() and np.isfinite(ood_scores).all()):
        raise UserError("the model gives scores that are not finite: `dvc repro -f train`")
    return Scores(logits, ood_scores, features)
