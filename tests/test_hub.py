"""A model's way to the Hugging Face hub and back, over a hub on loopback."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from detector.files import file_sha256
from tests.conftest import ROOT, Project, the_error
from tests.hub import Hub, environment
from tests.serving import make_model

EXAMPLES = [str(ROOT / f"app/static/examples/{name}") for name in ("ship.png", "cat.jpg")]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def here(hub: Hub, tmp_path: Path) -> Project:
    """An empty folder, in which the hub's client asks the one on loopback."""
    folder = tmp_path / "here"
    folder.mkdir()
    project = Project(folder)
    project.env |= environment(hub, tmp_path / "home")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "HF_HUB_OFFLINE"):
        project.env.pop(name, None)
    return project


def ask(here: Project, model: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    return here.run(sys.executable, "-m", "detector", *EXAMPLES, "--model", model, "--json", ok=ok)


def carded(folder: Path, card: bytes = b"---\nlicense: mit\n---\n# weighing\n") -> Path:
    """A small model with a card."""
    make_model(folder)
    (folder / "README.md").write_bytes(card)
    record = json.loads((folder / "model.json").read_text())
    record["sha256"]["README.md"] = file_sha256(folder / "README.md")
    (folder / "model.json").write_text(json.dumps(record))
    return folder


def test_a_released_model_goes_to_the_hub_and_comes_back_and_answers_the_same(here: Project, hub: Hub) -> None:
    said = here.run(sys.executable, "-m", "detector", "fetch", "vit_tiny", "--from", str(ROOT)).stdout
    fetched = Path(said.strip().removeprefix("vit_tiny is ready in "))
    assert hub.asked == []
    before = ask(here, "models/vit_tiny").stdout
    (there,) = here.tool("hub", "push", "models/vit_tiny", "someone/vit").stdout.splitlines()[1:]
    files = {path.name: path.read_bytes() for path in fetched.iterdir()}
    on_hub = {name: hub.large.get(str(content), content) for name, content in hub.models["someone/vit"].items()}
    assert on_hub == files
    assert sum(line.startswith("POST /api/models/someone/vit/commit/") for line in hub.asked) == 1, "all or nothing"
    record = json.loads(files["model.json"])
    (index,) = ModelCard(files["README.md"].decode()).data.to_dict()["model-index"]
    measured = {metric["type"]: metric["value"] for metric in index["results"][0]["metrics"]}
    test = record["test"]
    assert measured == {"accuracy": test["accuracy"], "f1": test["f1"], "roc_auc": test["auroc"]}

    hub.asked.clear()
    line = the_error(ask(here, "hf://someone/vit", ok=False))
    assert "only `python -m detector fetch hf://someone/vit` downloads it" in line
    assert hub.asked == []
    here.run(*[sys.executable if word == "python" else word for word in there.split()])
    assert json.loads(ask(here, "hf://someone/vit").stdout) == json.loads(before)


@pytest.mark.long  # 10 s
def test_a_bit_that_changes_on_the_way_is_refused_and_an_earlier_model_stays(here: Project, hub: Hub) -> None:
    carded(here.path / "mine")
    here.tool("hub", "push", "mine", "someone/mine")
    digest = file_sha256(here.path / "mine/model.json")
    pull = ("pull", "someone/mine", "--sha256", digest)
    here.tool("hub", *pull)
    before = ask(here, "hf://someone/mine").stdout
    for hub.flipped in ("model.onnx", "model.json", "README.md"):
        line = the_error(here.tool("hub", *pull, ok=False))
        assert f"{hub.flipped} from hf://someone/mine is not the one with the wanted SHA-256" in line
    assert ask(here, "hf://someone/mine").stdout == before
    assert list((here.path.parent / "home").rglob("*.new")) == []

    hub.flipped = ""
    hub.sizes["model.onnx"] = 2**30 + 1
    hub.asked.clear()
    assert "model.onnx of someone/mine has more than 1,024 MB" in the_error(here.tool("hub", *pull, ok=False))
    assert not [line for line in hub.asked if "onnx" in line], "nothing of it was downloaded"
    hub.sizes.clear()
    missing = hub.models["someone/mine"].pop("model.onnx")
    assert "hf://someone/mine has no model.onnx" in the_error(here.tool("hub", *pull, ok=False))
    hub.models["someone/mine"]["model.onnx"] = missing
    assert "add --sha256 DIGEST" in the_error(here.tool("hub", "pull", "someone/mine", ok=False))


@pytest.mark.long  # 10 s
def test_what_cannot_be_pushed_or_pulled_is_said_in_one_line(here: Project, hub: Hub) -> None:
    def refused(*arguments: str) -> str:
        return the_error(here.tool("hub", *arguments, ok=False))

    make_model(here.path / "bare")
    assert "no bare/README.md" in refused("push", "bare", "someone/bare")
    carded(here.path / "mine")
    shutil.copytree(here.path / "mine", here.path / "other")
    (here.path / "other/model.onnx").write_bytes(b"other")
    assert "is not the file that model.json was written for" in refused("push", "other", "someone/other")
    assert "no name on the hub" in refused("push", "mine", "mine")
    assert hub.asked == []

    assert "the hub has no model someone/else that you may see" in refused("pull", "someone/else")
    here.env["HF_TOKEN"] = "hf_of_nobody"
    assert "answers 401" in refused("push", "mine", "someone/mine")
    assert hub.models == {}
    here.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "the hub does not answer about someone/mine" in refused("push", "mine", "someone/mine")
    assert "the hub does not answer about someone/mine" in refused("pull", "someone/mine")


@pytest.mark.parametrize(
    "card", [b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n", b"---\nlicense: m\xeft\n---\n", b"# no head\n"]
)
def test_a_card_that_somebody_has_broken_is_named_and_nothing_is_sent(here: Project, hub: Hub, card: bytes) -> None:
    carded(here.path / "mine", card)
    said = the_error(here.tool("hub", "push", "mine", "someone/mine", ok=False))
    assert "mine/README.md has no metadata for the hub" in said
    assert "make the model anew, `export` and `adapt` write it" in said
    assert hub.asked == []
