"""The files of an exported model: weights with 16 bits a number, and the ONNX graph that reads them."""

import json
import struct
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx import TensorProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import optimizer
from safetensors.torch import save_file
from torch import nn

from detector.record import ModelRecord
from stages.model import build_recorded

# Tensors of up to so many numbers keep 32 bits: they are few, and the first layers' are among them. With theirs rounded
# as well, P(FAKE) differs by up to 0.0016 instead of 0.0001 (resnet18, 2,000 test images).
SMALL = 40_000
# What is computed from so few numbers, shapes and indices, is computed at export: onnxruntime opens the model faster.
FOLDED = 1024


def save_half(trained: nn.Module, record: ModelRecord, path: Path) -> nn.Module:
    """Write the weights, large ones as float16, and return the network that has them."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() and tensor.numel() > SMALL else tensor).contiguous()
        for name, tensor in trained.state_dict().items()
    }
    save_file(state, path)
    network = build_recorded(record)
    network.load_state_dict(state)
    return network.eval()


def save_onnx(module: nn.Module, size: int, path: Path) -> None:
    """Write a module, whose attribute `network` has the weights in model.safetensors beside `path`, as ONNX."""
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamo=True,
        # all of it would store several copies of each kernel; onnxruntime optimizes when it reads the model
        optimize=False,
        verbose=False,
        input_names=["images"],
        output_names=["logit", "ood_score", "features"],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
    )
    assert program is not None
    optimizer.fold_constants(program.model, output_size_limit=FOLDED, should_fold=is_small)
    RemoveUnusedNodesPass()(program.model)
    model = program.model_proto
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        node.ClearField("metadata_props")  # lines of code and paths of this machine
        if node.op_type == "Conv" and node.input[2] not in stored:
            # The exporter adds a bias of zeros, computed anew for every batch. With it onnxruntime cannot merge the
            # convolution with its batch norm, and takes nearly twice as long.
            del node.input[2:]
    share_weights(model.graph, path.with_name("model.safetensors"))
    onnx.save(model, path)


def is_small(node: onnx_ir.Node) -> bool | None:
    """Return False where a node computes from larger constants than FOLDED, else None, the optimizer's own rule."""
    constants = (value.const_value for value in node.inputs if value is not None)
    return False if any(constant is not None and constant.size > FOLDED for constant in constants) else None


def share_weights(graph: onnx.GraphProto, weights: Path) -> None:
    """Have the initializers `network.<name>` point to the tensors <name> of a safetensors file."""
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
    casts = []
    for tensor in graph.initializer:
        entry = header.get(tensor.name.removeprefix("network."))
        if entry is None:
            continue
        name, (begin, end) = tensor.name, entry["data_offsets"]
        shared = TensorProto(
            name=name, data_type=types[entry["dtype"]], dims=entry["shape"], data_location=TensorProto.EXTERNAL
        )
        place = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        for key, value in place.items():
            shared.external_data.add(key=key, value=str(value))
        if entry["dtype"] == "F16":
            shared.name += ".half"
            casts.append(helper.make_node("Cast", [shared.name], [name], to=TensorProto.FLOAT))
        tensor.CopyFrom(shared)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
