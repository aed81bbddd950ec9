"""Give a released model that has none a reference, with which `python -m detector drift` compares pictures.

    python -m tools.reference resnet18_imagenet      after `dvc repro prepare`, and `dvc pull models/resnet18_imagenet`

Nothing is trained: the graph gets one more output, the reference is measured on data/val, and the folder is released
again. The answers stay as they are.
"""

import argparse
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from detector.errors import UserError, run
from detector.files import atomic_write
from detector.record import ExportedRecord
from detector.reference import Reference, statistics_of
from detector.session import open_session
from detector.sizes import images_at_a_time
from stages.data import MappedImages, load_split
from stages.export.__main__ import BATCH, score_all
from tools.release import put_into_store


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.reference",
        description="Give a released model a reference for `python -m detector drift`.",
    )
    parser.add_argument("model", help="a folder of models/")
    name = parser.parse_args().model
    folder = Path("models", name)
    try:
        record = ExportedRecord.read(folder)
        record.check_files(folder, "model.onnx", "model.safetensors")
    except FileNotFoundError:
        raise UserError(f"no model in {folder}: `dvc pull {folder}` fetches a released one") from None
    if record.data_digest != load_split("data/train").info["digest"]:
        raise UserError(f"{folder} was not trained on data/train: `dvc repro prepare` with its data set")
    with atomic_write(folder) as new:
        shutil.copytree(folder, new)
        add_reference(new, record, load_split("data/val").images)
    put_into_store(name)


def add_reference(folder: Path, record: ExportedRecord, val: MappedImages) -> None:
    add_features(folder / "model.onnx")
    session = open_session(folder / "model.onnx")
    scores = score_all(session, val, record.flip_tta_margin, images_at_a_time(BATCH, record.network_size))
    Reference.fit(scores, statistics_of(val), record.out_of_distribution.threshold).write(folder)
    record.write(folder)


def add_features(path: Path) -> None:
    """Make the whitened features an output of an ONNX file, as `export` does: the OOD score is their length."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if len(graph.output) > 2:
        return
    (node,) = (node for node in graph.node if graph.output[1].name in node.output)
    (whitening,) = (one for one in graph.initializer if one.name == "whitening")
    features = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, ["N", whitening.dims[1]])
    graph.output.append(features)
    onnx.save(model, path)


if __name__ == "__main__":
    run(main)
