"""Benchmarks are scripts beside the package: they are loaded by their path."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The module of a benchmark, by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: three classes of noise, told apart by their brightness."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, name in enumerate(("dark", "grey", "light")):
        (folder / name).mkdir()
        for index in range(60):
            values = rng.integers(80 * number, 80 * number + 90, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{index:02}.png")
    return folder
