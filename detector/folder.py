"""A model folder: whether it is there, and whether it is whole."""

from pathlib import Path

from detector.errors import UserError
from detector.files import file_sha256
from detector.record import FILE, ExportedRecord


def read_record(folder: Path) -> tuple[ExportedRecord, str]:
    """Read model.json, and compare the files beside it with their digests. Return it, and the SHA-256 of itself.
    Raises UserError."""
    try:
        sha256 = file_sha256(folder / FILE)
        record = ExportedRecord.read(folder)
        record.check_files(folder, "model.onnx", "model.safetensors")
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: a model is the folder with model.json and model.onnx") from None
        where = f"in {folder}" + ("" if folder.exists() else f" (there is no folder {folder.absolute()})")
        advice = (
            f"`dvc pull {folder}` fetches it"
            if Path(f"{folder}.dvc").exists()
            else "in the repository, `dvc pull models/NAME` fetches a released model, `dvc repro export` makes models/"
            "exported; elsewhere `python -m detector fetch` brings one"
        )
        raise UserError(f"no model.onnx, model.safetensors and model.json {where}: {advice}") from None
    return record, sha256
