"""A released model in at most 12 MB: what the browser downloads.

A release has tensors of more than 40,000 numbers as float16, and the others as float32. Here one after the other
becomes int8, with a scale for each output, until all of it is small enough. The largest come first: they lose least.
Those that the OOD score is computed from come last: answers say by how much it exceeds its threshold. Whoever opens it
makes float32 of all again: every operation stays what it was, only weights are rounded. docs/research.md has what that
costs.

The graph is optimized beforehand, as far as onnxruntime would do it when it opens the model: in a browser that takes
seconds.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from detector.errors import UserError

MOST_BYTES = 12_000_000
LEAST = 4096  # numbers: smaller tensors stay in the graph, as they are
SCALES = "/scales"


class SmallModel(NamedTuple):
    """graph: ONNX, whose large weights are external data, each in a "file" of its own name. weights: a safetensors file
    with each of them, as the release has it, or as int8 (rows, numbers) beside `name/scales`, float32 (rows, 1)."""

    graph: bytes
    weights: bytes


def shrink(folder: Path, most: int = MOST_BYTES) -> SmallModel:
    """Return a model folder's model in at most so many bytes, or as few as int8 takes.

    The same folder and onnxruntime give the same bytes. Raises UserError where the folder has no model.onnx.
    """
    model = read_whole(folder)
    weights = take_weights(model)
    model = optimize(model)
    for name, weight in weights.items():
        tensor = model.graph.initializer.add(name=name, dims=weight.shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", 0), ("length", 4 * weight.size)):
            tensor.external_data.add(key=key, value=str(value))
    graph = model.SerializeToString(deterministic=True)
    stored = dict(weights)
    of_ood_score = ancestors(model.graph, "ood_score")
    for name in sorted(weights, key=lambda name: (name in of_ood_score, -weights[name].size)):
        if len(graph) + len(save(stored)) <= most:
            break
        rows = weights[name].astype(np.float32).reshape(len(weights[name]), -1)
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        scales = np.where(scales > 0, scales, np.float32(1))
        stored |= {name: np.round(rows / scales).astype(np.int8), f"{name}{SCALES}": scales}
    return SmallModel(graph, save(stored))


def expand(weights: bytes) -> dict[str, np.ndarray]:
    """Return the float32 weights that the graph reads, by their names: what the browser's engine does
    (browser/engine/weights.js)."""
    stored = load(weights)
    scales = {name: array for name, array in stored.items() if name.endswith(SCALES)}
    return {
        name: array.astype(np.float32) * scales.get(f"{name}{SCALES}", np.float32(1))
        for name, array in stored.items()
        if name not in scales
    }


def take_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Make float32 inputs of a model's large weights, and return them as they are stored, float16 or float32, by the
    names of the inputs."""
    graph = model.graph
    casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    weights = {}
    for tensor in [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= LEAST]:
        weight, name = numpy_helper.to_array(tensor), tensor.name
        if weight.dtype == np.float16 and name in casts:  # the model makes it float32
            graph.node.remove(casts[name])
            name = casts[name].output[0]
        elif weight.dtype != np.float32:
            continue
        weights[name] = weight
        graph.initializer.remove(tensor)
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, weight.shape))
    return weights


def ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """Return the names of all that an output is computed from."""
    made_by = {name: node for node in graph.node for name in node.output}
    names: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += made_by[name].input if name in made_by else []
    return names


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute what depends neither on the picture nor on large weights, such as shapes, and drop what is not used.

    Where weights of a convolution are made those of a product, that stays for whoever opens it: it makes them larger.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(path)
    for name in [one.name for one in optimized.graph.input if one.name != "images"]:
        optimized.graph.input.remove(next(one for one in optimized.graph.input if one.name == name))
    for node in optimized.graph.node:
        node.ClearField("metadata_props")  # which line of which program made it
    optimized.graph.ClearField("value_info")
    return optimized


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
