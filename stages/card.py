"""Write the model card, models/exported/README.md, from model.json and the metrics, so that no number in it is typed.

    dvc repro card
    python -m stages.card           the same without DVC

It is the last stage, since it says what the answers are worth elsewhere as well. Its head is what Hugging Face reads of
a model (huggingface.co/docs/hub/model-cards).
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.limit import limit_of
from detector.pictures import SPARE
from detector.record import ExportedRecord
from detector.sources import FORMATS, MAX_PIXELS
from stages.intervals import images_behind, wilson_interval
from stages.params import licence_beside, load_params, weights_path

FOLDER = Path("models/exported")
REPORTS = ("prepare", "train", "test", "robustness", "export", "external_sources")  # metrics/<name>.json
DATA = {  # by the entry of `datasets` that a model was trained on
    "cifake": "CIFAKE",
    "sample": "the small sample in data/sample: a model to try things with",
}
STEMS = {
    None: "timm's own stem",
    "conv": "a stem of 3x3 convolutions",
    "conv2": "a stem of one 3x3 convolution of stride 2",
    "residual": "a stem that sees the noise residual",
}
ORIGINS = {  # of pretrained weights that this repository has
    "models/pretrained/resnet18-imagenet.safetensors": (
        "ML.NET's ResNet18 (NuGet package Microsoft.ML.DnnImageFeaturizer.ResNet18 0.23.1, trained on ImageNet with "
        "CNTK; its accuracy there is not published), without the third block of the last stage"
    )
}
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
}
FITTED = {  # how a picture of another size is made the input's
    "stretch": (
        "The whole picture is resized to {size}x{size}: bicubic, antialiased where it shrinks (Pillow's "
        "`Image.resize`), nothing cut away, so proportions change."
    ),
    "resize": (
        "The short side of the picture is made {size} px (bicubic, antialiased where it shrinks), and what the long "
        "side has beyond that is cut off at both ends."
    ),
    "crop": (
        "The middle {size}x{size} pixels are taken as they are; a picture that is too small for that is made larger "
        "(bicubic)."
    ),
}


def main() -> None:
    params = load_params()
    record = ExportedRecord.read(FOLDER)
    reports = {name: read_report(name) for name in REPORTS}
    with Path("plots/test/object_classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    text = f"---\n{head(record, params['datasets']['cifake']['hub'])}---\n\n{body(record, reports, classes, params)}"
    with atomic_write(FOLDER / "README.md") as new:
        new.write_text(text)


def read_report(name: str) -> Any:
    try:
        return json.loads(Path(f"metrics/{name}.json").read_text())
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"metrics/{name}.json: {error}: `dvc repro` makes it anew") from None


def head(record: ExportedRecord, cifake: str) -> str:
    """cifake: the name of CIFAKE on the Hugging Face hub."""
    test = record.test
    measured = [{"type": name, "value": test[name], "name": name} for name in ("accuracy", "f1")]
    measured.append({"type": "roc_auc", "value": test["auroc"], "name": "AUROC"})
    content: dict[str, Any] = {
        "license": "mit",
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["ai-generated-image-detection", record.timm],
    }
    if record.dataset == "cifake":
        task = {"type": "image-classification"}
        dataset = {"type": cifake, "name": "CIFAKE", "split": "test"}
        content["tags"].insert(1, "cifake")
        content |= {
            "datasets": [cifake],
            "model-index": [
                {"name": record.model, "results": [{"task": task, "dataset": dataset, "metrics": measured}]}
            ],
        }
    text = io.StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def body(
    record: ExportedRecord, reports: dict[str, Any], classes: Sequence[dict[str, str]], params: dict[str, Any]
) -> str:
    """reports: by name, see REPORTS. classes: the rows of plots/test/object_classes.csv. params: params.yaml."""
    prepare, train, test, export = (reports[name] for name in ("prepare", "train", "test", "export"))
    size, images = record.input_size, prepare["test_fake"] + prepare["test_real"]
    limit = limit_of(record.dataset, size)
    fakes = prepare["train_fake"] / (prepare["train_fake"] + prepare["train_real"])
    world = "half" if abs(fakes - 0.5) < 0.005 else f"{fakes:.0%}"
    robust = [
        [
            CORRUPTIONS.get(row["corruption"], row["corruption"]),
            f"{row['strength']:g}" if row["level"] else "",
            *(share(row[name]) for name in ("accuracy", "fake_recall", "real_recall")),
        ]
        for row in reports["robustness"]
    ]
    out_of_distribution = [[text, share(export[name])] for name, text in OOD_PICTURES.items()]
    cited = (
        'CIFAKE: J. J. Bird, A. Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated '
        'Synthetic Images", IEEE Access 12 (2024), doi 10.1109/ACCESS.2024.3356122. CIFAR-10, its photographs: A. '
        'Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). '
        if record.dataset == "cifake"
        else ""
    )
    return f"""# {record.model}: REAL or FAKE at {size}x{size}

{limit}

A binary classifier: the timm network `{record.timm}` with the arguments `{json.dumps(record.args)}`,
{STEMS.get(record.stem, record.stem)}, {train["parameters"]:,} parameters. The input is uint8 (N, {size}, {size}, 3),
RGB; `model.onnx` itself subtracts the mean ({numbers(record.mean)}) and divides by the standard deviation
({numbers(record.std)}) {"that its pretrained weights want" if record.pretrained else "of the training images"}, on the
scale of 0 to 1.{enlarging(record)}

Its outputs are `logit`, of FAKE, the positive class; `ood_score`, how far a picture is from the training images; and
`features`, of which that is the length. {flipping(record)}

```bash
python -m detector photo.jpg --model FOLDER      # this folder, in a clone of the repository
```

## Intended use

Research and teaching on telling generated from photographed images: a baseline, a model to take apart. Not evidence
about where a picture comes from, and not to be used for decisions about people or their work.

## Limits

- {limit}
- What it says of other generators and other photographs stands [below](#elsewhere), as far as it was measured.
- P(FAKE) is for a world in which {world} of the pictures are fake. Where one in a hundred is, many pictures called FAKE
  are photographs.
- A FAKE or REAL is a statement about traces in {size}x{size} pixels. What a picture loses when it is made that small,
  the model does not see.
- One training run (seed {record.seed}). The intervals here are of the drawing of test images alone, not of training;
  the repository's docs/leaderboard.md has the spread of several seeds where they were published.

## Data

Trained on {DATA.get(record.dataset, f"the data set {record.dataset}")}.
{prepare["train_fake"] + prepare["train_real"]:,} images for training ({prepare["train_fake"]:,} FAKE,
{prepare["train_real"]:,} REAL), {prepare["val_fake"] + prepare["val_real"]:,} for validation, {images:,} for the test.
{prepare["leaked"]:,} of the test images are identical to one of training or validation, {prepare["near_leaked"]:,} more
are a near-duplicate of one. Digest of the training images: `{record.data_digest}`.

## Training

{train["epochs"]} epochs from {origin(record)}, with {params["models"][record.model]["optimizer"]}, the best on
validation kept (epoch {train["best_epoch"]}, {share(record.validation.accuracy)} right there).
{augmenting(params["train"], len(classes) > 1)} {train["seconds"] / 60:.0f} minutes on {train["device"]},
{train["precision"]}; torch {train["torch"]}, timm {train["timm"]}. Epoch, threshold ({record.threshold:.3f}),
temperature ({record.temperature:.3f}), abstention band and an offset, which is part of the network's last bias, were
chosen on validation.

## On the test split

Of the network in float32, before its export; intervals are Wilson's, that of AUROC DeLong's.

{table(["", "", "95 % interval"], test_rows(prepare, test))}
{by_source(test)}
### Calibration and UNSURE

P(FAKE) is sigmoid(logit / {record.temperature:.3f}). {band(record, test)}

{by_object(classes)}### Corrupted images

{corrupting(params["train"])}

{table(["Corruption", "Strength", "Accuracy", "FAKE recall", "REAL recall"], robust)}

### Out of distribution

A picture is called *out of distribution* when its OOD score is above that of
{share(record.out_of_distribution.validation_share)} of the validation images. Called so were

{table(["Pictures", "Share"], out_of_distribution)}

What is not caught here gets an answer without that warning. The measure was chosen among some thirty with these kinds
of pictures, and those of the sample, in view (resnet18): of kinds that nobody thought of, expect less.

## Elsewhere

{elsewhere(reports["external_sources"])}

## How pictures are made {size}x{size}

{FITTED[record.fit].format(size=size)} One of that size is taken as it is.{reencoding(record)} Before, it is turned
upright as its EXIF orientation says, its colours are converted to sRGB where the file says what they are, 16 bits are
made 8 (the upper ones), other colours are made RGB, and transparency is put on white; of an animation the first frame
is used. {reducing(record)}Each answer has notes on what was done. Formats: {", ".join(FORMATS)}, up to
{MAX_PIXELS // 10**6} megapixels, a JPEG up to {2 * MAX_PIXELS // 10**6}.

## Files

`model.safetensors`: weights, the large ones as float16. `model.onnx`: the graph, which reads them. On
{export["compared"]:,} test images and their flipped copies P(FAKE) differs by {export["largest_difference"]:.2g} at
most from that of the network in float32; {share(export["exported_accuracy"])} of the test images are right.
`reference.safetensors`: what `python -m detector drift` compares pictures with, numbers of up to 10,000 validation
images. `model.json`: everything else.

## Citation and licence

{cited}This model: MIT licence; the repository's CITATION.cff.{licence_of_weights(record)}
"""


def test_rows(prepare: dict[str, Any], test: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table of test metrics: what it is, its value, and its 95 % interval where it has one."""
    images = images_behind(prepare, test)

    def row(heading: str, name: str) -> list[str]:
        return [heading, *estimate(test[name], images[name])]

    # of fewer than four images of a class there is none
    auroc_ends = f"{test['auroc_low']:.4f} to {test['auroc_high']:.4f}" if "auroc_low" in test else ""
    rows = [
        row("Accuracy", "accuracy"),
        ["AUROC", f"{test['auroc']:.4f}", auroc_ends],
        ["Average precision", f"{test['average_precision']:.4f}", ""],
        ["F1", f"{test['f1']:.4f}", ""],
        row("FAKE recall", "fake_recall"),
        row("REAL recall", "real_recall"),
        row("FAKE images caught where at most 1 % of the test split's REAL ones are taken for FAKE", "tpr_at_1_fpr"),
        ["Expected calibration error of P(FAKE), 15 bins of equal mass", share(test["ece"]), ""],
    ]
    if "accuracy_without_leaked" in test:
        rows.append(row("Accuracy without images that training or validation have too", "accuracy_without_leaked"))
    return rows


def by_source(test: dict[str, Any]) -> str:
    if "sources" not in test:
        return ""
    rows = [
        [name, share(row["recall"]), f"{share(row['low'])} to {share(row['high'])}", f"{row['images']:,}"]
        for name, row in test["sources"].items()
    ]
    return f"\n### By source\n\n{table(['Source', 'Put into its class', '95 % interval', 'Images'], rows)}\n"


def by_object(classes: Sequence[dict[str, str]]) -> str:
    if len(classes) < 2:  # all images together: what they show is not known
        return ""
    rows = [
        [row["object_class"], *estimate(float(row["accuracy"]), int(row["count"])), f"{int(row['count']):,}"]
        for row in classes
    ]
    return f"### By object\n\n{table(['Object', 'Accuracy', '95 % interval', 'Images'], rows)}\n\n"


def band(record: ExportedRecord, test: dict[str, Any]) -> str:
    low, high = record.abstention_band
    if (low, high) == (0, 1):
        return "Every answer is UNSURE: the validation split is too small to promise anything."
    said = f"P(FAKE) from {low:.3f} to {high:.3f} is answered UNSURE, a band chosen on validation. On the test split "
    if "selective_accuracy" not in test:
        return said + "no image gets another answer."
    return (
        f"{said}{share(test['coverage'])} of the images get an answer, and {share(test['selective_accuracy'])} of the "
        "answers are right."
    )


def elsewhere(rows: list[dict[str, Any]]) -> str:
    """Return the section about pictures that are not of the training data's kind. rows: external_sources.json."""
    if not rows:
        return "Nothing was measured: `evaluate.external` names no data set that was here."
    cells = []
    for row in rows:
        called = row["caught"] if row["class"] == "FAKE" else row["false_alarms"]
        shares = (called, row["coverage"], row["out_of_distribution"], row["confidently_wrong"])
        auroc = "{:.2f} ({:.2f} to {:.2f})".format(*row["auroc"]) if row.get("auroc") else ""
        count = f"{row['images']:,}" + (f" of {row['groups']} groups" if row["groups"] else "")
        name = f"{row['dataset']}: {row['source']}" + (" (control)" if row["control"] else "")
        cells.append([name, count, *map(rounded, shares), auroc])
    heading = ["Source", "Images", "Called FAKE", "Answered", "Out of distribution", "Confidently wrong", "AUROC"]
    return f"""Data sets that training never saw, answered as people's pictures are. *Confidently wrong*: the wrong
verdict, not UNSURE and not called out of distribution. AUROC is against the photographs of the same data set, 0.5 is
chance. In brackets the 95 % interval; of few groups of images that belong together, such as three photographs, it is
rather their range. A *control* has photographs of the training data's kind, for the AUROC of the fakes beside them.
The repository has `sample` and `elsewhere` in its folder data, with what they are.

{table(heading, cells)}"""


def origin(record: ExportedRecord) -> str:
    if not record.pretrained:
        return "random weights"
    if record.pretrained is True:
        return "timm's pretrained weights, under a licence of their own"
    return ORIGINS.get(record.pretrained, f"the weights {record.pretrained}, under a licence of their own")


def licence_of_weights(record: ExportedRecord) -> str:
    """Return the text of the licence beside the weights that training started from, where there is one."""
    licence = licence_beside(weights_path(record.pretrained))
    if licence is None:
        return ""
    return f"\n\nThe weights that it started from have this licence:\n\n```\n{licence.read_text().strip()}\n```"


def enlarging(record: ExportedRecord) -> str:
    side = record.network_size
    return f" It enlarges the image to {side}x{side} (bicubic) for its network." if side > record.input_size else ""


def flipping(record: ExportedRecord) -> str:
    if not record.flip_tta_margin:
        return ""
    return (
        f"Where |logit| is below {record.flip_tta_margin:.2f}, `python -m detector` scores the flipped image as well\n"
        "and takes the mean; all metrics here are with that."
    )


def reducing(record: ExportedRecord) -> str:
    if record.fit == "crop":
        return ""
    return (
        f"A JPEG is decoded at a half, quarter or eighth of its size where that leaves {SPARE * record.input_size} "
        "pixels or\nmore in width and height. "
    )


def reencoding(record: ExportedRecord) -> str:
    return f" Then it is encoded as JPEG of quality {record.reencode}." if record.reencode else ""


def augmenting(train: dict[str, Any], objects_are_known: bool) -> str:
    augment = train["augment"]
    ways = ["flipped"] if augment["flip"] else []
    ways += [f"moved by up to {augment['translate']} px"] if augment["translate"] else []
    auxiliary = "; what object they show was an auxiliary task" if train["auxiliary_loss"] and objects_are_known else ""
    return f"Images were {' and '.join(ways) or 'neither flipped nor moved'}{auxiliary}."


def corrupting(train: dict[str, Any]) -> str:
    corrupted = train["augment"]["corruption"]
    if not corrupted:
        return "No image was corrupted in training."
    return (
        f"{100 * corrupted:g} % of the training images were corrupted in these ways, with strengths around these:\n"
        "of other kinds of corruption the table says nothing."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def estimate(value: float, images: int) -> list[str]:
    """Return a share of so many images, and its 95 % interval."""
    low, high = wilson_interval(round(value * images), images)
    return [share(value), f"{share(low)} to {share(high)}"]


def rounded(interval: Sequence[float]) -> str:
    value, low, high = (100 * number for number in interval)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    run(main)
