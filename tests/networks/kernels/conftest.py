"""The kernels, compiled once for all tests of this folder."""

import shutil

import pytest

from graftwork.networks.kernels import Kernels, build


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    found = build(tmp_path_factory.mktemp("kernels"))
    if found is None and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler here")
    assert found is not None
    return found
