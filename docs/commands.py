"""For mkdocs: puts into the pages what would go stale if it were written there.

`<!-- output of: COMMAND -->` becomes what the command prints. Where mkdocs.yml has a `repo_url`, `<!-- badges -->`
becomes the state of the tests, and `git clone REPOSITORY` names the address. Long names in tables may break after _.
"""

import os
import re
import subprocess
import sys
from typing import Any


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    if address := config.repo_url:
        address = address.rstrip("/")
        tests = f"{address}/actions/workflows/tests.yml"
        markdown = markdown.replace("<!-- badges -->", f"[![tests]({tests}/badge.svg)]({tests})")
        markdown = markdown.replace("git clone REPOSITORY", f"git clone {address}")
    return re.sub(r"<!-- output of: (.+?) -->", output, markdown)


def output(found: re.Match[str]) -> str:
    command = found[1].split()
    # as `python -m` names itself, and as wide as a page
    environment = os.environ | {"COLUMNS": "100"}
    program = [sys.executable, *command[1:]] if command[0] == "python" else command
    said = subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout
    return f"```text\n$ {found[1]}\n{said.rstrip()}\n```"


def on_page_content(html: str, **_: Any) -> str:
    """A table with a column for resnet18_imagenet is too wide for a phone otherwise."""
    return re.sub(r"<t[hd][^>]*>[\w :.]+</t[hd]>", lambda cell: cell[0].replace("_", "_<wbr>"), html)
