"""Tasks: what is needed comes first, several at a time, and a lost process is told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments._tasks import Task, run_tasks
from experiments.growing import GRIDS, run_grid
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


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_task_runs_once_after_those_that_it_needs(tmp_path: Path, jobs: int) -> None:
    names = list(run_tasks(tasks(tmp_path), jobs=jobs))
    assert sorted(names) == ["a", "b", "c", "d"]
    assert names.index("a") < names.index("b") < names.index("c")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_a_task_is_the_callers(jobs: int) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        list(run_tasks([Task("f", fail, ())], jobs=jobs))


def test_a_lost_process_is_told() -> None:
    with pytest.raises(ResourceError, match="run the same command again"):
        list(run_tasks([Task("x", os._exit, (1,))], jobs=2))


@pytest.mark.slow
def test_two_processes_give_the_cells_of_a_grid_that_one_gives(tmp_path: Path) -> None:
    options: Any = {"data": "digits", "threads": 1, "precision": "float32"}
    found = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        run_grid(GRIDS["carry"], out, seeds=[0], scale=1e-4, note=lambda _: None, jobs=jobs, **options)
        found.append({p.name: json.loads(p.read_text())["variants"] for p in (out / "cells").iterdir()})
    assert found[0] == found[1]
