"""Make of the trained detector what is asked and shipped: models/trained in, models/exported out.

    dvc repro export
    python -m stages.export         the same without DVC

The folder needs no torch: model.onnx takes pixels as they are and has the normalization inside. Its weights lie in
model.safetensors, once for every program that reads them, with 16 bits a number; so the folder is half of
models/trained, and detector.model.load reads it too. Nothing is believed: on 1,000 test images and their mirror images
no probability may be another than that of models/trained.
"""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file
from sklearn.covariance import ledoit_wolf
from torch import nn

from detector.ask import open_session, score
from detector.data import FAKE, Split, load_split
from detector.device import claim
from detector.errors import UserError, replacing, run
from detector.images import decode
from detector.metrics import probability
from detector.model import build, load, normalize, predict_logits
from stages.card import write_card

if TYPE_CHECKING:  # detector is to import it: it sets what must be set before
    import onnxruntime

COMPARED, LARGEST_DIFFERENCE = 1000, 2e-3  # test images, and by how much one's probability may differ
USUAL_IMAGES = 10_000  # of the train split, from which the usual is learned; more make no difference
USUAL_SHARE = 0.99  # of the validation images that are not called unlike
MAPS = [0, 1]  # the network's first intermediate maps, of which `distance` is made
# Tensors of up to so many numbers keep 32 bits: they are few, and the first layers' are among them. With theirs rounded
# as well, P(FAKE) differs by up to 0.0016 instead of 0.0001 (resnet18, 2,000 test images).
SMALL = 40_000
BATCH = 500
UNSEEN = 1000  # pictures of each kind that no detector was trained on


def main() -> None:
    claim()
    trained, info = load("models/trained")
    train, val, test = (load_split(f"data/{name}.safetensors") for name in ("train", "val", "test"))
    if info.get("data_digest") != train.info["digest"]:
        raise UserError("models/trained was not trained on data/train.safetensors: `dvc repro` makes both anew")
    reports = {name: read_report(name) for name in ("prepare", "train", "test", "robustness")}

    info |= {"dataset": train.info["dataset"], "test": reports["test"]}

    with replacing("models/exported") as folder, replacing("metrics/export.json") as metrics_file:
        info = write_model(folder, trained, info, train.images, val.images)
        metrics = measure(folder, trained, info, test)
        if metrics["largest_difference"] > LARGEST_DIFFERENCE:
            raise UserError(
                f"models/exported would answer otherwise than models/trained: P(FAKE) differs by "
                f"{metrics['largest_difference']:.4f}, more than {LARGEST_DIFFERENCE} is not allowed"
            )
        metrics_file.write_text(json.dumps(metrics, indent=2) + "\n")
        write_card(folder / "README.md", info, reports | {"export": metrics})
    print(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def write_model(
    folder: Path, trained: nn.Module, info: dict[str, Any], train: np.ndarray, val: np.ndarray
) -> dict[str, Any]:
    """Make the folder, but for its card, of images uint8 (N, H, W, 3). Returns info with `ood`, as written."""
    folder.mkdir(parents=True)
    network = save_half(trained, info, folder / "model.safetensors")
    chosen = np.random.default_rng(0).permutation(len(train))[:USUAL_IMAGES]
    save_onnx(Exported(network, info, train[np.sort(chosen)]), info["input_size"], folder / "model.onnx")
    _, distances = score_all(open_session(folder / "model.onnx"), val, 0)
    threshold = float(np.quantile(distances, USUAL_SHARE))
    info = info | {"ood": {"threshold": threshold, "usual_share": USUAL_SHARE}}
    (folder / "model.json").write_text(json.dumps(info, indent=2) + "\n")
    return info


def read_report(name: str) -> Any:
    try:
        return json.loads(Path(f"metrics/{name}.json").read_text())
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"metrics/{name}.json: {error}: `dvc repro evaluate` makes it anew") from None


def save_half(trained: nn.Module, info: dict[str, Any], path: Path) -> nn.Module:
    """Write the weights, large ones as float16, and return the network that has them."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() and tensor.numel() > SMALL else tensor).contiguous()
        for name, tensor in trained.state_dict().items()
    }
    save_file(state, path)
    path.chmod(0o644)  # save_file leaves it to its owner alone
    network = build(info)
    network.load_state_dict(state)
    return network.eval()


class Exported(nn.Module):
    """What model.onnx computes: uint8 (N, H, W, 3) -> logits of FAKE and distances from the usual, each float32 (N).

    distance: of the means and (logarithmic) standard deviations over the first maps of the network, the Mahalanobis
    distance from those of training images, as root mean square over the dimensions (Lee et al. 2018, "A Simple Unified
    Framework for Detecting Out-of-Distribution Samples", without classes). Their features before the last layer say
    nothing: trained to tell two classes apart, a network has there what FAKE and REAL need, and of pure noise 0.5 %
    were flagged, of single colours 21 %; of the first maps both are, all of them (resnet18). Which maps, and the
    logarithm, were chosen by what they flag of the pictures in `unseen`: metrics/export.json shows them at their best.
    """

    network: Any
    least: torch.Tensor
    center: torch.Tensor
    scale: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, network: nn.Module, info: dict[str, Any], usual: np.ndarray) -> None:
        """usual: training images, uint8 (M, H, W, 3)."""
        super().__init__()
        self.network, self.info = network, info
        with torch.inference_mode():
            parts = [self.look(torch.from_numpy(part))[1:] for part in np.split(usual, range(BATCH, len(usual), BATCH))]
        means, deviations = (torch.cat(part) for part in zip(*parts, strict=True))
        self.register_buffer("least", 1e-3 * deviations.mean(0))  # of a single colour it is 0
        traits = torch.cat([means, (deviations + self.least).log()], 1).numpy().astype(np.float64)
        center, scale = traits.mean(0), traits.std(0) + 1e-12
        values, vectors = np.linalg.eigh(ledoit_wolf((traits - center) / scale)[0])
        whitening = vectors / np.sqrt(values * len(center))
        for name, array in (("center", center), ("scale", scale)):
            self.register_buffer(name, torch.from_numpy(array).float())
        self.register_buffer("whitening", torch.from_numpy(whitening).half())

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> logits (N), means and standard deviations of the first maps (N, channels of all)."""
        last, maps = self.network.forward_intermediates(normalize(images, self.info), indices=MAPS)
        logit = self.network.forward_head(last).squeeze(1)
        means = torch.cat([one.mean((2, 3)) for one in maps], 1)
        deviations = torch.cat([one.std((2, 3), correction=0) for one in maps], 1)
        return logit, means, deviations

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logit, means, deviations = self.look(images)
        traits = torch.cat([means, (deviations + self.least).log()], 1)
        return logit, torch.linalg.vector_norm((traits - self.center) / self.scale @ self.whitening.float(), dim=1)


def save_onnx(module: nn.Module, size: int, path: Path) -> None:
    """Write a module, whose attribute `network` has the weights in model.safetensors beside `path`, as ONNX."""
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamo=True,
        # else every form in which a kernel is used would be stored: onnxruntime makes them when it reads the model
        optimize=False,
        verbose=False,
        input_names=["images"],
        output_names=["logit", "distance"],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
    )
    assert program is not None
    model = program.model_proto
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        node.ClearField("metadata_props")  # lines of code and paths of this machine
        if node.op_type == "Conv" and node.input[2] not in stored:
            # zeros, computed anew for every batch, for a bias that the convolution does not have: with them
            # onnxruntime cannot merge it with its batch norm, and takes nearly twice as long
            del node.input[2:]
    share_weights(model.graph, path.with_name("model.safetensors"))
    onnx.save(model, path)


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


def measure(folder: Path, trained: nn.Module, info: dict[str, Any], test: Split) -> dict[str, float]:
    """metrics/export.json: by how much P(FAKE) differs at most, what the exported model is worth on the test split, and
    how much of it, and of pictures of other kinds, is called unlike."""
    session, threshold = open_session(folder / "model.onnx"), info["ood"]["threshold"]
    logits, distances = score_all(session, test.images, info["mirror"])
    p_fake = probability(logits, info["temperature"])
    compared = test.images[np.linspace(0, len(test) - 1, min(COMPARED, len(test))).astype(int)]
    # each look by itself: rounding decides who looks a second time where a logit is at the limit
    looks = np.concatenate([compared, compared[:, :, ::-1]])
    answered = probability(score_all(session, looks, 0)[0], info["temperature"])
    expected = probability(predict_logits(trained, looks, info | {"mirror": 0}, BATCH), info["temperature"])
    metrics = {
        "compared": len(compared),
        "largest_difference": float(np.abs(answered - expected).max()),
        "exported_accuracy": float(((p_fake >= info["threshold"]) == (test.labels == FAKE)).mean()),
        "unlike_test": float((distances > threshold).mean()),
    }
    for kind, images in unseen(test.images, info["dataset"]).items():
        metrics[f"unlike_{kind}"] = float((score_all(session, images, 0)[1] > threshold).mean())
    return {name: round(value, 6) for name, value in metrics.items()}  # an int stays one


def score_all(
    session: "onnxruntime.InferenceSession", images: np.ndarray, mirror: float
) -> tuple[np.ndarray, np.ndarray]:
    """`score` for any number of images; the first of them alone, as people ask."""
    parts = [images[:1], *np.split(images[1:], range(BATCH, len(images) - 1, BATCH))]
    logits, distances = zip(*(score(session, part, mirror) for part in parts if len(part)), strict=True)
    return np.concatenate(logits), np.concatenate(distances)


def unseen(images: np.ndarray, dataset: str) -> dict[str, np.ndarray]:
    """Pictures that are none of CIFAKE's, each kind uint8 (N, H, W, 3), some of them made of test images."""
    random = np.random.default_rng(0)
    size = images.shape[1]
    shape = (UNSEEN, size, size, 3)
    source = images[np.linspace(0, len(images) - 1, UNSEEN).astype(int)]
    corner = (size - 8) // 2
    crops = [Image.fromarray(image[corner : corner + 8, corner : corner + 8]) for image in source]
    kinds = {
        "noise": random.integers(0, 256, shape, np.uint8),
        "colour": np.broadcast_to(random.integers(0, 256, (UNSEEN, 1, 1, 3), np.uint8), shape),
        "enlarged": np.stack([np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)) for crop in crops]),
        "inverted": 255 - source,
    }
    if dataset != "sample":
        rows = pq.read_table("data/sample/test.parquet").to_pylist()
        for label, name in enumerate(("other_fakes", "other_photographs")):
            kinds[name] = np.stack([decode(row["image"]["bytes"]) for row in rows if row["label"] == label])
    return kinds


if __name__ == "__main__":
    run(main)
