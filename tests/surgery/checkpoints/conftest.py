"""One small checkpoint for all tests of a worker, and copies of it that a test may spoil."""

import shutil
from pathlib import Path

import pytest
import torch

from graftwork.surgery.checkpoints import CheckpointPlan, Sizes, plan_checkpoint
from tests.surgery.checkpoints.folders import TOKENS, llama, optimizer_of, saved


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer, the state of its optimizer beside it; no test writes there."""
    model = llama(num_hidden_layers=1)
    folder = saved(model, tmp_path_factory.mktemp("small"))
    torch.save(optimizer_of(model, TOKENS).state_dict(), folder / "optimizer.pt")
    return folder


@pytest.fixture(scope="session")
def deeper_plan(small: Path) -> CheckpointPlan:
    """The plan of one more layer."""
    return plan_checkpoint(small, Sizes(layers="+1"))


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, alone in its folder."""
    return shutil.copytree(small, tmp_path / "old")
