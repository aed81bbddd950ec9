"""What `python -m detector adapt` says of the model that it made: on the terminal, and in its card."""

import json

from detector.limit import limit_of_adapted
from detector.output import one_line
from detector.record import ExportedRecord


def report(record: ExportedRecord) -> list[str]:
    """Return lines for people: a table of the learning curve, and what it means."""
    adapted = record.adapted
    assert adapted is not None
    low, high = record.abstention_band
    lines = [
        f"Cross-validated on {adapted.real} photographs and {adapted.fake} fakes, with 95 % intervals:",
        "",
        "| fitted to | accuracy | AUROC |",
        "| --- | --- | --- |",
    ]
    for row in adapted.cross_validation:
        accuracy, area = (
            f"{scale * value:.{digits}f}{unit} ({scale * ends[0]:.{digits}f} to {scale * ends[1]:.{digits}f})"
            for value, ends, scale, digits, unit in (
                (row.accuracy, row.accuracy_interval, 100, 1, " %"),
                (row.auroc, row.auroc_interval, 1, 3, ""),
            )
        )
        lines.append(f"| {row.pictures} pictures | {accuracy} | {area} |")
    rise = f"{100 * adapted.gain:.1f} ± {100 * adapted.gain_error:.1f} points"
    worth = (
        "more pictures look worth the trouble."
        if adapted.gain > adapted.gain_error
        else "nothing says that more pictures are worth the trouble."
    )
    lines += ["", f"From half of the pictures to all, accuracy changed by {rise}: {worth}"]
    share = f"{100 * adapted.selective_accuracy:.0f} % right answers"
    if (low, high) == (0, 1):
        lines.append(f"Every answer will be UNSURE: {share} cannot be promised from so few pictures, or so alike ones.")
    else:
        lines.append(f"UNSURE is answered for P(FAKE) from {low:.2f} to {high:.2f}; outside, {share} can be promised.")
    return lines


def card(record: ExportedRecord) -> str:
    """Return the model card. Its head is what Hugging Face reads of a model (huggingface.co/docs/hub/model-cards)."""
    adapted = record.adapted
    assert adapted is not None
    table = "\n".join(report(record))
    name = one_line(f"{record.model}, adapted")
    return f"""---
library_name: onnx
pipeline_tag: image-classification
tags:
- ai-generated-image-detection
model-index:
- name: {json.dumps(name)}
  results:
  - task:
      type: image-classification
    dataset:
      type: own-pictures
      name: {adapted.real} photographs and {adapted.fake} fakes of its maker's, in cross-validation
    metrics:
    - type: accuracy
      value: {record.validation.accuracy:.6f}
      name: accuracy
    - type: roc_auc
      value: {record.validation.auroc:.6f}
      name: AUROC
---

# {name}

{limit_of_adapted(adapted.real, adapted.fake, record.input_size)}

Made by `python -m detector adapt` from `{adapted.base}`: {adapted.real} photographs of the folder
`{adapted.real_folder}`, {adapted.fake} fakes of `{adapted.fake_folder}`, together {adapted.groups} where copies count
once. A logistic regression on frozen features (ResNet-18, ImageNet) and on the logit of `{adapted.base}`.

{table}

The licence of the features' weights, `features.safetensors`, is in `features.LICENSE`. All numbers: `model.json`.
"""
