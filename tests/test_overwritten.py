"""A folder of the user's own that is named as an output: nothing in it may be lost."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, Project, the_error
from tools.browser import BUILT


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    """A place in which the folder `mine` holds a thesis."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    project = Project(tmp_path)
    project.env["PYTHONPATH"] = str(ROOT)
    return project


def test_the_page_is_built_into_no_folder_with_other_files(mine: Project) -> None:
    def refused(folder: str) -> str:
        said = the_error(mine.tool("browser", folder, ok=False))
        assert (mine.path / "mine/thesis.tex").read_text() == "years of work"
        return said

    assert "mine is neither empty nor an earlier build of the page: name another folder" in refused("mine")
    assert "mine/thesis.tex is neither" in refused("mine/thesis.tex")
    for name in BUILT:  # an earlier build, of which somebody has made a repository: a Space, for one
        (mine.path / "mine" / name).touch()
    assert "mine is neither" in refused("mine")


def test_the_demo_s_picture_takes_no_folder_s_place(mine: Project) -> None:
    said = the_error(mine.tool("demo", "--sheet", "mine", ok=False))
    assert "mine is a folder: name a file in it, such as mine/answer.png" in said
    assert (mine.path / "mine/thesis.tex").read_text() == "years of work"
