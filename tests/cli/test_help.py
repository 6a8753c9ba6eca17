"""Help shows what most runs need, says defaults, and knows what is registered."""

import re
import subprocess
import sys
from types import MappingProxyType
from typing import Any

import pytest

from graftwork.cli import app, run_app
from graftwork.evolution import selection


def shown(capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run_app(app, "graftwork", list(arguments))
    assert ended.value.code == 0
    return re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<= )--[a-z][a-z-]*", text))


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


def test_help_of_a_search_has_at_most_25_options_and_help_all_has_them_all(capsys: Any) -> None:
    some, every = options(shown(capsys, "search", "--help")), options(shown(capsys, "search", "--help-all"))
    assert some < every
    assert len(some - {"--no-report"}) <= 25
    assert {"--batch-size", "--passes", "--split-seed", "--sync-every", "--test"} <= every - some
    assert some >= {"--data", "--budget", "--selection", "--strategy", "--workers", "--resume"}


@pytest.mark.parametrize("panel", ["Data", "Budget", "Population", "Training", "Machine", "Output"])
def test_options_stand_in_panels(capsys: Any, panel: str) -> None:
    assert f" {panel} " in shown(capsys, "search", "--help")


def test_defaults_are_told(capsys: Any) -> None:
    text = shown(capsys, "search", "--help-all")
    for default in ("digits", "greedy", "neuroevolution", "500", "16"):
        assert f"[default: {default}]" in text


def test_a_selector_that_is_registered_appears_in_help(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = MappingProxyType({**selection.SELECTORS, "thrifty": object})
    monkeypatch.setattr(selection, "SELECTORS", more)
    assert "thrifty" in shown(capsys, "search", "--help")


def test_help_of_all_commands_needs_no_torch() -> None:
    code = "import sys; from graftwork.cli import app; assert 'torch' not in sys.modules, 'the command line is quick'"
    subprocess.run([sys.executable, "-c", code], check=True)
