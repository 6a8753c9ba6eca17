"""Tasks: what is needed comes first, several at a time, and a lost process is told."""

import os
from pathlib import Path

import pytest

from experiments._tasks import Task, run_tasks
from graftwork.errors import ConfigError, ResourceError


def note(path: Path, *needed: str) -> None:
    """Leave a file, and fail where one that is needed is missing."""
    for name in needed:
        assert path.with_name(name).is_file(), name
    path.touch()


def fail() -> None:
    raise ConfigError("wanted")


def tasks(folder: Path) -> list[Task]:
    return [
        Task("a", note, (folder / "a",)),
        Task("b", note, (folder / "b", "a"), ("a",)),
        Task("c", note, (folder / "c", "a", "b"), ("a", "b")),
        Task("d", note, (folder / "d",)),
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_runs_once_after_those_that_it_needs(tmp_path: Path, jobs: int) -> None:
    names = list(run_tasks(tasks(tmp_path), jobs=jobs))
    assert sorted(names) == ["a", "b", "c", "d"]
    assert names.index("a") < names.index("b") < names.index("c")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_an_error_of_a_task_is_the_callers_and_a_lost_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        list(run_tasks([Task("f", fail, ())], jobs=2))
    with pytest.raises(ResourceError, match="run the same command again"):
        list(run_tasks([Task("x", os._exit, (1,))], jobs=2))
