"""Every search strategy by two ranks: it runs to the same bits again, or it is refused with the reason."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graftwork.errors import ConfigError
from graftwork.evolution.strategies import STRATEGIES, ignored_options, why_alone
from graftwork.session import SearchConfig, Session
from tests.session.test_session import TINY
from tests.workers.test_shared_search import assert_equal_runs, shared_run

APART = [name for name in STRATEGIES if why_alone(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in APART])
def test_two_ranks_search_by_every_strategy_to_the_same_bits(name: str, tmp_path: Path) -> None:
    # a population of one where its size is ignored, and no control where that is
    ignored = {key: False if key == "control" else 1 for key in ignored_options(name) & set(TINY)}
    for folder in ("one", "two"):
        shared_run(tmp_path / folder, strategy=name, budget="30steps", **ignored)
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def test_strategies_that_can_not_be_shared_say_so() -> None:
    for name in APART:
        with pytest.raises(
            ConfigError, match=rf"workers: expected 1 with strategy {name}, as its controller .*, got 2"
        ):
            SearchConfig.from_dict({"strategy": name, "workers": 2})


def test_ranks_that_met_elsewhere_are_counted_as_workers(tmp_path: Path) -> None:
    group: Any = SimpleNamespace(size=2, local_size=2)
    for name in APART:
        with pytest.raises(ConfigError, match="workers: expected 1 with strategy"):
            Session.start(SearchConfig.from_dict({"strategy": name}), tmp_path / "run", group=group)
    assert not (tmp_path / "run").exists()
