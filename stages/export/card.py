"""The model card, models/exported/README.md: written from model.json and the metrics, so that no number in it is typed.

Its head is what Hugging Face reads of a model (huggingface.co/docs/hub/model-cards).
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from scipy.stats import binomtest

from detector.limit import limit_of
from detector.pictures import SPARE
from detector.record import ExportedRecord
from detector.sources import FORMATS, MAX_PIXELS

CORRUPTIONS = {  # metrics/robustness.json: heading, and what its strength is
    "none": "none",
    "noise": "Gaussian noise, standard deviation (of 1)",
    "blur": "Gaussian blur, sigma in pixels (of 32)",
    "jpeg": "JPEG, quality",
    "rescale": "made smaller and brought back, pixels (of 32)",
}
OOD_PICTURES = {  # metrics/export.json
    "ood_test": "test images",
    "ood_noise": "uniform noise",
    "ood_colour": "a single colour",
    "ood_enlarged": "8x8 pixels of a test image, enlarged",
    "ood_inverted": "test images with inverted colours",
    "ood_other_photographs": "photographs of another source (data/sample)",
    "ood_other_fakes": "images by another, small generator (data/sample)",
}


def write_card(path: Path, record: ExportedRecord, reports: dict[str, Any], cifake: str) -> None:
    """Write the card. reports: metrics/<name>.json of prepare, train, test, robustness and export, by name. cifake: the
    name of CIFAKE on the Hugging Face hub."""
    with Path("plots/test/object_classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    path.write_text(f"---\n{head(record, cifake)}---\n\n{body(record, reports, classes)}")


def head(record: ExportedRecord, cifake: str) -> str:
    test = record.test
    measured = [{"type": name, "value": test[name], "name": name} for name in ("accuracy", "f1")]
    measured.append({"type": "roc_auc", "value": test["auroc"], "name": "AUROC"})
    content: dict[str, Any] = {
        "license": "mit",
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["ai-generated-image-detection", "cifake", record.timm],
    }
    if record.dataset == "cifake":
        task = {"type": "image-classification"}
        dataset = {"type": cifake, "name": "CIFAKE", "split": "test"}
        content |= {
            "datasets": [cifake],
            "model-index": [
                {"name": record.model, "results": [{"task": task, "dataset": dataset, "metrics": measured}]}
            ],
        }
    text = io.StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def interval(accuracy: float, images: int) -> str:
    low, high = binomtest(round(accuracy * images), images).proportion_ci(0.95, "wilson")
    return f"{share(low)} to {share(high)}"


def body(record: ExportedRecord, reports: dict[str, Any], classes: Iterable[dict[str, str]]) -> str:
    prepare, train, test, export = (reports[name] for name in ("prepare", "train", "test", "export"))
    size, (low, high) = record.input_size, record.abstention_band
    enlarged = (
        f"\nThe model enlarges it to {record.enlarged_size}x{record.enlarged_size} (bicubic) for its network."
        if record.network_size > size
        else ""
    )
    source = "CIFAKE" if record.dataset == "cifake" else "the small sample in data/sample: a model to try things with"
    flip_tta = (
        f" (where it is nearer\nto 0 than {record.flip_tta_margin:.2f}, the flipped image is scored as well, "
        "and the mean of both counts)"
        if record.flip_tta_margin
        else ""
    )
    band = (
        "Every answer is UNSURE: the validation split is too small to promise anything."
        if (low, high) == (0, 1)
        else f"P(FAKE) from {low:.3f} to {high:.3f} is answered UNSURE. The band was chosen on validation. On the test "
        f"split {share(test['coverage'])} of the images get an answer, and {share(test['selective_accuracy'])} of the "
        "answers are right."
    )
    robust = [
        [
            CORRUPTIONS.get(row["corruption"], row["corruption"]),
            f"{row['strength']:g}" if row["level"] else "",
            *rates(row),
        ]
        for row in reports["robustness"]
    ]
    by_object = [[row["object_class"], share(float(row["accuracy"])), f"{int(row['count']):,}"] for row in classes]
    out_of_distribution = [[text, share(export[name])] for name, text in OOD_PICTURES.items() if name in export]
    images = prepare["test_fake"] + prepare["test_real"]
    numbers = {
        "Accuracy": share(test["accuracy"]),
        "95 % interval of the accuracy, for as many other images": interval(test["accuracy"], images),
        "AUROC": f"{test['auroc']:.4f}",
        "Average precision": f"{test['average_precision']:.4f}",
        "F1": f"{test['f1']:.4f}",
        "FAKE recall": share(test["fake_recall"]),
        "REAL recall": share(test["real_recall"]),
        "FAKE images caught where 1 % of the REAL ones are taken for FAKE": share(test["tpr_at_1_fpr"]),
        "Accuracy without images that training or validation have too": share(test["accuracy_without_leaked"]),
        "Expected calibration error of P(FAKE), 15 bins of equal mass": share(test["ece"]),
        "Accuracy with the exported weights": share(export["exported_accuracy"]),
    }
    return f"""# {record.model}: REAL or FAKE at {size}x{size}

{limit_of(record.dataset, size)}

A binary classifier: the timm network `{record.timm}` with the arguments `{json.dumps(record.args)}`, stem
`{record.stem}`, {train["parameters"]:,} parameters. Input uint8 (N, {size}, {size}, 3), RGB; the model subtracts mean
and divides by standard deviation. One output is the logit of FAKE, the positive class{flip_tta}; the other is
the OOD score, how far the picture is from the training images.{enlarged}

```bash
python -m detector photo.jpg --model FOLDER      # this folder, in a clone of the repository
```

## Intended use

Research and teaching on telling generated from photographed images: a baseline on CIFAKE, a model to take apart. Not
evidence about where a picture comes from, and not to be used for decisions about people or their work.

## Limits

- {limit_of(record.dataset, size)}
- Other generators, other image processing, other sizes: nothing was measured but what stands below.
- A FAKE or REAL is a statement about traces in {size}x{size} pixels. What a picture loses when it is made that small,
  the model does not see.
- One training run (seed {record.seed}): the numbers have no spread here; the table in the repository's README has
  one where several seeds were published.

## Data

Trained on {source}. {prepare["train_fake"] + prepare["train_real"]:,} images for training ({prepare["train_fake"]:,}
FAKE, {prepare["train_real"]:,} REAL), {prepare["val_fake"] + prepare["val_real"]:,} for validation, cut from the same
split, {prepare["test_fake"] + prepare["test_real"]:,} for the test. Of {prepare["leaked"]:,} test images training or
validation have an identical one. Digest of the training images: `{record.data_digest}`.

## Training

{train["epochs"]} epochs from {"pretrained" if record.pretrained else "random"} weights, the best on validation kept
(epoch {train["best_epoch"]}); {train["seconds"] / 60:.0f} minutes on {train["device"]}, {train["precision"]}. Epoch,
threshold ({record.threshold:.3f}), temperature ({record.temperature:.3f}) and abstention band were chosen on
validation ({share(record.validation.accuracy)} right there).

## On the test split

{table(["", ""], numbers.items())}

### Calibration and UNSURE

P(FAKE) is sigmoid(logit / {record.temperature:.3f}). {band}

### By object

{table(["Object", "Accuracy", "Images"], by_object)}

### Corrupted images

{table(["Corruption", "Strength", "Accuracy", "FAKE recall", "REAL recall"], robust)}

### Out of distribution

A picture is called *out of distribution* when its OOD score is above that of
{share(record.out_of_distribution.validation_share)} of the validation images. Called so were

{table(["Pictures", "Share"], out_of_distribution)}

What is not caught here gets an answer without that warning. The measure was chosen among some thirty with these kinds
of pictures in view (resnet18): of kinds that nobody thought of, expect less.

## How pictures are made {size}x{size}

The whole picture is resized to {size}x{size}: bicubic, antialiased where it shrinks (Pillow's `Image.resize`), nothing
cut away, so proportions change. One of that size is taken as it is. Before, it is turned upright as its EXIF
orientation says, 16 bits are made 8 (the upper ones), other colours are made RGB, and transparency is put on white; of
an animation the first frame is used. A JPEG is decoded at a half, quarter or eighth of its size where that leaves
{SPARE * size} pixels or more in width and height. Each answer has notes on what was done. Formats:
{", ".join(FORMATS)}, up to {MAX_PIXELS // 10**6} megapixels, a JPEG up to {2 * MAX_PIXELS // 10**6}.

## Files

`model.safetensors`: weights, the large ones as float16. `model.onnx`: the graph, which reads them; P(FAKE) differs by
at most {export["largest_difference"]:.1g} from that of the float32 model, on {export["compared"]:,} test images and
their flipped copies. `reference.safetensors`: what `python -m detector drift` compares pictures with, numbers of up to
10,000 validation images. `model.json`: everything else.

## Citation and licence

CIFAKE: J. J. Bird, A. Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic
Images", IEEE Access 12 (2024), doi 10.1109/ACCESS.2024.3356122. CIFAR-10, its photographs: A. Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images" (2009). This model: MIT licence; the repository's CITATION.cff.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rates(row: dict[str, float]) -> list[str]:
    return [share(row[name]) for name in ("accuracy", "fake_recall", "real_recall")]


def share(value: float) -> str:
    return f"{100 * value:.2f} %"
