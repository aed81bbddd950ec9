"""params.yaml, read as DVC reads it."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from detector.errors import UserError


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
