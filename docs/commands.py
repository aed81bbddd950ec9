"""For mkdocs: puts what a command prints where a page says `<!-- output of: COMMAND -->`, so that it is never stale."""

import os
import re
import subprocess
import sys
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"<!-- output of: (.+?) -->", output, markdown)


def output(found: re.Match[str]) -> str:
    command = found[1].split()
    # as `python -m` names itself, and as wide as a page
    environment = os.environ | {"COLUMNS": "100"}
    program = [sys.executable, *command[1:]] if command[0] == "python" else command
    said = subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout
    return f"```text\n$ {found[1]}\n{said.rstrip()}\n```"
