"""A tiny finished run, made once; every case gets a copy to damage."""

import shutil
from pathlib import Path

import pytest

from tests.cases.commands import graftwork, require, tiny_search


@pytest.fixture(scope="session")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    ending = graftwork(*tiny_search(folder, "--blend", 10))
    require(ending.code == 0, ending.text)
    return folder / "run"


@pytest.fixture
def run(_made_once: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    shutil.copytree(_made_once, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def unfinished(run: Path) -> Path:
    """The folder of a run that lacks only its outcome: a resume goes on from the last checkpoint."""
    (run / "result.json").unlink()
    return run
