"""Every example runs as it stands, in an empty folder, and says something."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
OPTIONAL = {"skimage", "transformers", "accelerate"}
"""Packages that an example may need and the tests do not."""
ARGUMENTS = {"search_digits": ["20steps"]}
"""Smaller sizes than those of an example as it stands."""


def test_there_are_examples() -> None:
    assert {"grow_resnet.py", "grow_under_trainer.py"} <= {path.name for path in EXAMPLES}


@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")  # those of the frameworks that an example imports
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *ARGUMENTS.get(path.stem, [])])
    try:
        runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert capsys.readouterr().out.strip()
