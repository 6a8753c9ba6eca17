"""``python -m experiments``."""

from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import app
from graftwork.cli import run_app


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["neuroevolution", "--budget", "1PFLOP"], "--scale"),
        (["coevolution", "--scale", "0.5"], "--budget"),
        (["coevolution", "--budget", "soon"], "soon"),
        (["everything"], "everything"),
        (["zero-init", "--jobs", "2"], "--jobs"),
        (["rank", "--runs", "there"], "--runs"),
        (["coevolution", "--config", "missing.toml"], "missing.toml"),
        (["coevolution", "--data", "missing/x"], "missing"),
    ],
)
def test_what_an_experiment_does_not_take_is_one_clear_message(
    arguments: list[str], words: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_app(app, "python -m experiments", arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []
