"""Write detector/features.onnx: the frozen extractor that `python -m detector adapt` fits a head on.

    python -m tools.features

The graph is written node by node, so that its bytes depend on no version of torch. It has no weights of its own: it
reads those in features.safetensors beside it, which is a part of models/pretrained/resnet18-imagenet.safetensors
(detector/features.py).
"""

import argparse
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detector.errors import run
from detector.features import GRAPH, LEAST_SIDE, PRETRAINED, WEIGHTS, write_weights
from detector.files import atomic_write

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CUBIC = -0.75  # the coefficient of bicubic enlargement: that of torch, as in stages.model.Enlarged
TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}


def main() -> None:
    argparse.ArgumentParser(prog="python -m tools.features", description=__doc__.partition("\n")[0]).parse_args()
    with atomic_write(GRAPH) as new:
        new.write_bytes(graph_bytes())
    print(f"{GRAPH.name}: {GRAPH.stat().st_size:,} bytes")


def graph_bytes() -> bytes:
    """Return what detector/features.onnx should have in it."""
    with TemporaryDirectory() as folder:
        weights = Path(folder, WEIGHTS)
        write_weights(PRETRAINED / "resnet18-imagenet.safetensors", weights)
        return Graph(weights).serialized()


class Graph:
    """ResNet-18 up to its third stage: uint8 (N, S, S, 3) -> float32 (N, 896), means and deviations of the maps of the
    three stages. Images of less than LEAST_SIDE are enlarged to it, larger ones stay as they are."""

    def __init__(self, weights: Path) -> None:
        data = weights.read_bytes()
        (self.length,) = struct.unpack("<Q", data[:8])
        self.header = json.loads(data[8 : 8 + self.length])
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

        x = self.network_input()
        x = self.node("Relu", [self.convolution(x, "conv1", "bn1", stride=2)])
        x = self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        statistics = []
        for stage in (1, 2, 3):
            for block in (0, 1):
                x = self.block(x, f"layer{stage}.{block}", stride=2 if stage > 1 and block == 0 else 1)
            statistics.append(self.mean_and_deviation(x))
        means, deviations = zip(*statistics, strict=True)
        self.node("Concat", [*means, *deviations], "features", axis=1)

    def network_input(self) -> str:
        """Normalize and enlarge the images."""
        numbers = self.node("Cast", ["images"], to=TensorProto.FLOAT)
        mean, std = (255 * np.array(numbers, np.float32) for numbers in (MEAN, STD))
        centered = self.node("Sub", [numbers, self.constant("mean", mean)])
        x = self.node("Transpose", [self.node("Div", [centered, self.constant("std", std)])], perm=[0, 3, 1, 2])
        shape = self.node("Shape", [x])
        least = self.constant("least", np.array([0, 0, LEAST_SIDE, LEAST_SIDE]))
        sizes = self.node("Max", [shape, least])
        return self.node("Resize", [x, "", "", sizes], mode="cubic", cubic_coeff_a=CUBIC)

    def block(self, x: str, name: str, stride: int) -> str:
        """Two convolutions, and past them the block's input, by a convolution where its shape changes."""
        y = self.node("Relu", [self.convolution(x, f"{name}.conv1", f"{name}.bn1", stride)])
        y = self.convolution(y, f"{name}.conv2", f"{name}.bn2")
        if stride > 1:
            x = self.convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return self.node("Relu", [self.node("Add", [x, y])])

    def convolution(self, x: str, kernel: str, norm: str, stride: int = 1) -> str:
        """A convolution whose maps keep their place, and its batch norm."""
        side = self.header[f"{kernel}.weight"]["shape"][-1]
        padding = [side // 2] * 4
        y = self.node("Conv", [x, self.tensor(f"{kernel}.weight")], strides=[stride, stride], pads=padding)
        numbers = [self.tensor(f"{norm}.{name}") for name in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", [y, *numbers], epsilon=1e-5)

    def mean_and_deviation(self, x: str) -> tuple[str, str]:
        """Both (N, channels), over the places of the maps x (N, channels, height, width)."""
        if not any(one.name == "places" for one in self.initializers):
            self.constant("places", np.array([2, 3]))
        wide = self.node("ReduceMean", [x, "places"])
        centered = self.node("Sub", [x, wide])
        variance = self.node("ReduceMean", [self.node("Mul", [centered, centered]), "places"], keepdims=0)
        mean = self.node("ReduceMean", [x, "places"], keepdims=0)
        return mean, self.node("Sqrt", [variance])

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, numbers: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(numbers, name))
        return name

    def tensor(self, name: str) -> str:
        """Return the name of a tensor of the weights' file, as float32."""
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        kind = TYPES[entry["dtype"]]
        shared = TensorProto(name=name, data_type=kind, dims=entry["shape"], data_location=TensorProto.EXTERNAL)
        place = {"location": WEIGHTS, "offset": 8 + self.length + begin, "length": end - begin}
        for key, value in place.items():
            shared.external_data.add(key=key, value=str(value))
        self.initializers.append(shared)
        return name if kind == TensorProto.FLOAT else self.node("Cast", [name], f"{name}.single", to=TensorProto.FLOAT)

    def serialized(self) -> bytes:
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "S", "S", 3])
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 896])
        graph = helper.make_graph(self.nodes, "features", [images], [features], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    run(main)
