"""The kernels, compiled once for all tests that need them, searches included."""

import shutil
from pathlib import Path

import pytest

from graftwork.networks.kernels import Kernels, build


@pytest.fixture(scope="session")
def kernels(_own_cache: Path) -> Kernels:
    found = build(_own_cache / "graftwork")
    if found is None and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler here")
    assert found is not None
    return found
