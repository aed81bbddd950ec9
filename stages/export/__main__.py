"""Make the trained detector ready to be asked and shipped: models/trained in, models/exported out.

    dvc repro export
    python -m stages.export         the same without DVC

The folder needs no torch: model.onnx takes pixels as they are and has the normalization inside. Its weights lie in
model.safetensors, once for every program that reads them, with 16 bits a number; so the folder is half of
models/trained, and stages.model.load_model reads it too. The export is checked: on 1,000 test images and their flipped
copies no probability may differ from that of models/trained.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.labels import FAKE, probability
from detector.record import ExportedRecord, ModelRecord, TestMetrics
from detector.reference import Reference, statistics_of
from detector.session import Scores, open_session, score
from detector.sizes import images_at_a_time
from stages.data import MappedImages, Split, load_split
from stages.device import claim
from stages.export.onnx_file import save_half, save_onnx
from stages.export.ood import ExportGraph, other_pictures
from stages.model import load_model, predict_logits

if TYPE_CHECKING:  # detector imports it at run time, after turning its telemetry off
    import onnxruntime

COMPARED, LARGEST_DIFFERENCE = 1000, 5e-3  # test images, and by how much one's probability may differ
OOD_IMAGES = 10_000  # of the train split, for the OOD statistics; more make no difference
BATCH = 500  # images of 32 px scored at a time
VALIDATION_SHARE = 0.99  # of the validation images whose OOD score is within the threshold


def main() -> None:
    claim()
    trained, record = load_model("models/trained")
    train, val, test = (load_split(f"data/{name}") for name in ("train", "val", "test"))
    if record.data_digest != train.info["digest"]:
        raise UserError("models/trained was not trained on data/train: `dvc repro` makes both anew")
    test_metrics = read_test_metrics()

    with atomic_write("models/exported") as folder, atomic_write("metrics/export.json") as metrics_file:
        dataset = train.info["dataset"]
        exported = write_model(folder, trained, record, train.images, val.images, dataset, test_metrics)
        metrics = export_metrics(folder, trained, exported, test)
        if metrics["largest_difference"] > LARGEST_DIFFERENCE:
            raise UserError(
                f"models/exported would answer otherwise than models/trained: P(FAKE) differs by "
                f"{metrics['largest_difference']:.4f}, more than {LARGEST_DIFFERENCE} is not allowed"
            )
        metrics_file.write_text(json.dumps(metrics, indent=2) + "\n")
    print(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def read_test_metrics() -> TestMetrics:
    try:
        return dict(json.loads(Path("metrics/test.json").read_text()))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"metrics/test.json: {error}: `dvc repro evaluate` makes it anew") from None


def write_model(
    folder: Path,
    trained: nn.Module,
    record: ModelRecord,
    train: np.ndarray | MappedImages,
    val: np.ndarray | MappedImages,
    dataset: str,
    test: TestMetrics,
) -> ExportedRecord:
    """Write the folder, but for its card (stages/card.py); train and val are images, test is metrics/test.json."""
    folder.mkdir(parents=True)
    network = save_half(trained, record, folder / "model.safetensors")
    chosen = np.random.default_rng(0).permutation(len(train))[:OOD_IMAGES]
    batch_size = images_at_a_time(BATCH, record.network_size)
    batches = np.split(np.sort(chosen), range(batch_size, len(chosen), batch_size))
    graph = ExportGraph(network, record.mean, record.std, (train[batch] for batch in batches))
    save_onnx(graph, record.input_size, folder / "model.onnx")
    scores = score_all(open_session(folder / "model.onnx"), val, record.flip_tta_margin, batch_size)
    threshold = float(np.quantile(scores.ood_scores, VALIDATION_SHARE))
    Reference.fit(scores, statistics_of(val), threshold).write(folder)
    exported = ExportedRecord.make(
        **record.model_dump(),
        dataset=dataset,
        test=test,
        out_of_distribution={"threshold": threshold, "validation_share": VALIDATION_SHARE},
    )
    exported.write(folder)
    return exported


def export_metrics(folder: Path, trained: nn.Module, record: ExportedRecord, test: Split) -> dict[str, float]:
    """Return metrics/export.json: by how much P(FAKE) differs at most, the accuracy of the exported model on the test
    split, and which share of it, and of pictures of other kinds, is called out of distribution."""
    session, threshold = open_session(folder / "model.onnx"), record.out_of_distribution.threshold
    batch_size = images_at_a_time(BATCH, record.network_size)
    scores = score_all(session, test.images, record.flip_tta_margin, batch_size)
    p_fake = probability(scores.logits, record.temperature)
    compared = test.images[np.linspace(0, len(test) - 1, min(COMPARED, len(test))).astype(int)]
    # without flip test-time augmentation: rounding decides which logit is close enough to 0 for it
    both = np.concatenate([compared, compared[:, :, ::-1]])
    exported_p_fake = probability(score_all(session, both, 0, batch_size).logits, record.temperature)
    trained_logits = predict_logits(trained, both, record.mean, record.std, 0, batch_size)
    trained_p_fake = probability(trained_logits, record.temperature)
    metrics = {
        "compared": len(compared),
        "largest_difference": float(np.abs(exported_p_fake - trained_p_fake).max()),
        "exported_accuracy": float(((p_fake >= record.threshold) == (test.labels == FAKE)).mean()),
        "ood_test": float((scores.ood_scores > threshold).mean()),
    }
    for kind, images in other_pictures(test.images):
        metrics[f"ood_{kind}"] = float((score_all(session, images, 0, batch_size).ood_scores > threshold).mean())
    return {name: round(value, 6) for name, value in metrics.items()}  # an int stays one


def score_all(
    session: "onnxruntime.InferenceSession", images: np.ndarray | MappedImages, flip_tta_margin: float, batch_size: int
) -> Scores:
    """Score images, `batch_size` at a time; the first of them alone, as people ask."""
    bounds = [(0, 1), *((start, start + batch_size) for start in range(1, len(images), batch_size))]
    answers = (score(session, images[start:stop], flip_tta_margin) for start, stop in bounds)
    return Scores(*(np.concatenate(parts) for parts in zip(*answers, strict=True)))


if __name__ == "__main__":
    run(main)
