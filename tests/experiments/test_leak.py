"""``python -m experiments.leak``."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.leak import app
from graftwork.cli import run_app
from tests.cli.test_cli import QUICK, call


@pytest.mark.slow
def test_the_leak_test_tells_both_fits_and_their_difference(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert call("search", *QUICK, "--out", str(run), "--quiet", "--no-report") == 0
    capsys.readouterr()
    for arguments in ([str(run)], [str(run), "--json"]):
        with pytest.raises(SystemExit) as ended:
            run_app(app, "python -m experiments.leak", arguments)
        assert ended.value.code == 0
        said = capsys.readouterr().out
        if "--json" in arguments:
            assert json.loads(said) == json.loads((run / "leak.json").read_text())
        else:
            for words in ("blend", "training", "stacked: fitted on blend − fitted on training data"):
                assert words in said
