"""A released model in one file of at most 12 MB: what the browser downloads.

A release has its weights as float16. Here the largest tensors are int8, with a scale for each output, until the file is
small enough: those that are largest lose least. When the model is opened, all become float32 again: every operation
stays what it was, only weights are rounded. docs/research.md has what that costs.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from detector.errors import UserError

MOST_BYTES = 12_000_000
MARGIN = 10_000  # bytes: what the parts are packed in
LEAST = 4096  # numbers: smaller tensors stay as they are

Stored = tuple[list[TensorProto], list[NodeProto]]  # what is in the file, and what makes the weight of it


def shrink(folder: Path, most: int = MOST_BYTES) -> bytes:
    """Return the ONNX file of a model folder with its weights inside, in at most so many bytes, or as few as int8 takes.

    The same folder gives the same bytes. Raises UserError where it has no such file.
    """
    model = read_whole(folder)
    graph = model.graph
    for node in graph.node:
        node.ClearField("metadata_props")  # which line of which program made it
    graph.ClearField("value_info")
    weights = {}
    casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    for tensor in [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= LEAST]:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype == np.float32:
            weights[tensor.name] = weight
        elif weight.dtype == np.float16 and tensor.name in casts:  # and made float32 by the model itself
            weights[casts[tensor.name].output[0]] = weight.astype(np.float32)
            graph.node.remove(casts[tensor.name])
        else:
            continue
        graph.initializer.remove(tensor)
    rest = model.ByteSize()
    stored = {name: as_float16(weight, name) for name, weight in weights.items()}
    for name in sorted(weights, key=lambda name: -weights[name].size):
        if rest + sum(part.ByteSize() for kept, made in stored.values() for part in [*kept, *made]) <= most - MARGIN:
            break
        stored[name] = as_int8(weights[name], name)
    nodes = [node for _, made in stored.values() for node in made] + list(graph.node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for tensors, _ in stored.values() for tensor in tensors)
    return model.SerializeToString(deterministic=True)


def as_float16(weight: np.ndarray, name: str) -> Stored:
    half = numpy_helper.from_array(weight.astype(np.float16), f"{name}/float16")
    return [half], [helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]


def as_int8(weight: np.ndarray, name: str) -> Stored:
    rows = weight.reshape(len(weight), -1)
    scales = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float16)
    scales = np.where(scales > 0, scales, np.float16(1))
    steps = np.round(rows / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    stored = [
        numpy_helper.from_array(steps, f"{name}/steps"),
        numpy_helper.from_array(scales, f"{name}/scales"),
        numpy_helper.from_array(np.array(weight.shape, np.int64), f"{name}/shape"),
    ]
    return stored, [
        helper.make_node("Cast", [f"{name}/steps"], [f"{name}/steps/float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [f"{name}/scales"], [f"{name}/scales/float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/steps/float", f"{name}/scales/float"], [f"{name}/rows"]),
        helper.make_node("Reshape", [f"{name}/rows", f"{name}/shape"], [name]),
    ]


def read_whole(folder: Path) -> onnx.ModelProto:
    """Read model.onnx and the weights that lie beside it. onnx's own reader refuses the hard links of DVC's cache.

    Raises UserError where a file is missing.
    """
    try:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            where = {entry.key: entry.value for entry in tensor.external_data}
            with (folder / where["location"]).open("rb") as file:
                file.seek(int(where.get("offset", 0)))
                tensor.raw_data = file.read(int(where["length"]))
            tensor.data_location = TensorProto.DEFAULT
            tensor.ClearField("external_data")
    except FileNotFoundError as error:
        raise UserError(f"no {error.filename}: `python -m tools.unpack` writes the released models") from None
    return model
