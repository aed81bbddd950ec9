"""params.yaml, read as DVC reads it.

This is also the first stage of the pipeline: where `model` is misspelt, DVC would only say that a parameter is missing.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from detector.errors import UserError, run

MODEL_KEYS = (
    *("timm", "args", "stem", "pretrained", "epochs", "crop_epochs", "batch_size"),
    *("optimizer", "learning_rate", "weight_decay", "ema_decay"),
)


def main() -> None:
    model_entry(load_params())


def load_params() -> dict[str, Any]:
    """Return params.yaml of the working folder.

    YAML 1.2, as in DVC: `1e-3` is a number there, while PyYAML (YAML 1.1) would give the string "1e-3".
    """
    try:
        return YAML(typ="safe", pure=True).load(Path("params.yaml"))
    except FileNotFoundError:
        raise UserError("no params.yaml here: run this from the root of the repository") from None
    except YAMLError as error:
        raise UserError(f"params.yaml is not valid YAML: {error}") from None


def model_entry(params: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of `models` that `model` names. Raises UserError where there is none, or a part is missing."""
    name, models = params["model"], params["models"]
    if name not in models:
        raise UserError(
            f"model is {name!r}; params.yaml has {', '.join(models)}. `git checkout params.yaml` takes a wrong -S back"
        )
    if missing := [key for key in MODEL_KEYS if key not in models[name]]:
        raise UserError(f"models.{name} in params.yaml lacks {', '.join(missing)}: see the other entries")
    return models[name]


if __name__ == "__main__":
    run(main)
