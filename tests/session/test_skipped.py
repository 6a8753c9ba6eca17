"""A search in which some members can't be trained: recorded, told, dropped, and resumed to the same bits."""

from math import nan
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graftwork.errors import GraftworkError
from graftwork.runs import SkippedRow, read_records
from graftwork.session import Session, SilentListener
from graftwork.training import Trainer, Update
from tests.session.test_session import check_resume, tiny


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of genomes whose gradients are NaN; ``"all"``: every one."""
    chosen: set[str] = set()
    real = Trainer.gradients

    def gradients(self: Trainer, update: Update, part: slice | None = None) -> float:
        loss = real(self, update, part)
        genome = update.members[0].genome
        if "all" in chosen or (genome.id[0] in "02468ace" and "children" in chosen and len(genome.ids) > SEED_BLOCKS):
            for parameter in update.members[0].parameters_by_key().values():
                if parameter.grad is not None:
                    parameter.grad.fill_(nan)
        return loss

    monkeypatch.setattr(Trainer, "gradients", gradients)
    return chosen


CONFIG = tiny(budget=None, control=False, passes="torch", blend=0.0, initial_steps=6, steps_per_generation=16)
SEED_BLOCKS = 4
"""Entries of the recipe's seed network; its children have more."""


def test_a_search_that_drops_members_tells_it_and_resumes_to_the_same_bits(
    fail: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(SilentListener, "on_note", lambda _self, text: heard.append(text))
    fail.add("children")
    whole = check_resume(CONFIG, tmp_path, 12)
    rows = [row for row in read_records(whole / "records.jsonl") if isinstance(row, SkippedRow)]
    dropped = [row for row in rows if row.dropped]
    assert dropped
    for row in dropped:  # three in a row may lie in two rounds
        assert sum(other.updates for other in rows if other.id == row.id and other.step <= row.step) >= 3
    assert all(any(f"updates of {row.id}" in text and "it is dropped" in text for text in heard) for row in dropped)
    for file in whole.rglob("*.safetensors"):  # nothing that is stored was touched by a NaN
        tensors = load_file(file).values()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def test_a_seed_that_can_not_be_trained_ends_the_search_in_one_line(fail: set[str], tmp_path: Path) -> None:
    fail.add("all")
    with pytest.raises(GraftworkError, match=r"3 updates in a row of m0, up to step 3, and no other member is left"):
        Session.start(CONFIG, tmp_path / "run").run()
