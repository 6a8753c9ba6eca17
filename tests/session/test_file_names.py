"""Images are named as the data set names them, those of a test split that it brings after the others."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from graftwork.session import Problem


def _names(names: tuple[str, ...], *, given: bool) -> tuple[list[str], list[str]]:
    data = SimpleNamespace(images=[0] * 3, test_images=[0] * 2 if given else None, names=names)
    problem = Problem(cast("Any", data), cast("Any", None), cast("Any", None))
    return problem.file_names("validation", np.array([2, 0])), problem.file_names("test", np.array([1]))


def test_rows_of_each_split_find_their_names() -> None:
    assert _names(("a", "b", "c", "d", "e"), given=True) == (["c", "a"], ["e"])
    assert _names(("a", "b", "c"), given=False) == (["c", "a"], ["b"])
    assert _names((), given=True) == ([], [])
