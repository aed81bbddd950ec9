"""Records of models that tests make: everything in model.json, valid but made up."""

from typing import Any

from detector.record import ExportedRecord, ModelRecord

TRAINED: dict[str, Any] = {
    "model": "tiny",
    "seed": 0,
    "timm": "test_resnet",
    "args": {},
    "stem": None,
    "pretrained": False,
    "input_size": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "classes": ("FAKE", "REAL"),
    "data_digest": "0",
    "flip_tta_margin": 0.0,
    "temperature": 1.0,
    "threshold": 0.5,
    "abstention_band": (0.4, 0.6),
    "validation": {"loss": 0.1, "accuracy": 0.9764, "auroc": 0.99},
    "sha256": {},
}
EXPORTED = TRAINED | {
    "dataset": "cifake",
    "test": {"accuracy": 0.9768, "fake_recall": 0.9788, "coverage": 0.9112},
    "out_of_distribution": {"threshold": 1.0, "validation_share": 0.99},
}


def trained(**changes: Any) -> ModelRecord:
    return ModelRecord(**(TRAINED | changes))


def exported(**changes: Any) -> ExportedRecord:
    return ExportedRecord(**(EXPORTED | changes))
