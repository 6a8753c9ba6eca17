"""The limit of memory is found at the start, stored, and followed by a resume on any machine."""

import json
from pathlib import Path

import pytest

from graftwork.errors import ConfigError, SearchInterruptedError
from graftwork.session import SearchConfig, Session, _setup, prepare
from tests.session.test_session import StopAt, tiny

SMALL = {"control": False, "budget": "20steps", "passes": "torch", "batch_size": 64, "blend": 0.0}


def test_a_seed_that_does_not_fit_is_refused_in_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"memory: expected a seed network that trains in 0.05 GB, got one .* 0\.1\d"):
        Session.start(tiny(**SMALL, max_memory="50MB"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="max_memory: expected a size"):
        SearchConfig.from_dict({"max_memory": "much"})


def test_a_resume_follows_the_limit_that_was_found_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box: list[Session] = []
    box.append(Session.start(tiny(**SMALL), tmp_path / "run", listener=StopAt(box, "search", 5)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    stored = json.loads((tmp_path / "run" / "provenance.json").read_text())["machine"]["memory"]
    assert stored > 10**8
    monkeypatch.setattr(_setup, "memory_limit", lambda *_, **__: 1)  # nothing is free here any more
    assert Session.resume(tmp_path / "run").run()["steps"] > 10


def test_workers_of_a_machine_share_its_memory() -> None:
    one, two = (prepare(tiny(**SMALL), processes=processes).machine.memory for processes in (1, 2))
    assert one is not None
    assert two is not None
    assert two < 0.7 * one
