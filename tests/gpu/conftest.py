"""The device of a test: the CPU by default, and CUDA by ``-m gpu``, which is skipped where there is none."""

import pytest
import torch


def _param(name: str) -> object:
    missing = pytest.mark.skipif(name == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device")
    return pytest.param(name, marks=[pytest.mark.gpu, missing] if name == "cuda" else [])


@pytest.fixture(params=[_param("cpu"), _param("cuda")])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
