"""A search in which some members can't be trained: recorded, told, dropped, and resumed to the same bits."""

import json
from math import nan
from pathlib import Path

import pytest
import torch

from graftwork.errors import GraftworkError
from graftwork.runs import SkippedRow, read_records
from graftwork.session import Session, SilentListener
from graftwork.training import Trainer, Update
from tests.session.test_session import check_resume, tiny


class Notes(SilentListener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_note(self, text: str) -> None:
        self.heard.append(text)


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


SEED_BLOCKS = 6
"""Entries of the recipe's seed network; its children have more."""


@pytest.mark.parametrize("step", [41, 47])
def test_a_search_that_drops_members_resumes_to_the_same_bits(fail: set[str], step: int, tmp_path: Path) -> None:
    fail.add("children")
    whole = check_resume(tiny(budget="90steps", control=False), tmp_path, step)
    rows = [row for row in read_records(whole / "records.jsonl") if isinstance(row, SkippedRow)]
    assert any(row.dropped for row in rows)
    assert all(row.updates <= 3 or not row.dropped for row in rows)


def test_a_user_hears_of_skipped_updates_and_of_the_end(fail: set[str], tmp_path: Path) -> None:
    fail.add("children")
    notes = Notes()
    Session.start(tiny(budget="90steps", control=False), tmp_path / "run", listener=notes).run()
    assert any("updates of m" in text and "it is dropped" in text for text in notes.heard)
    fail.add("all")
    with pytest.raises(GraftworkError, match=r"3 updates in a row of m0, up to step 3, and no other member is left"):
        Session.start(tiny(control=False), tmp_path / "other").run()


def test_weights_of_a_dropped_member_were_never_touched_by_its_updates(fail: set[str], tmp_path: Path) -> None:
    """Nothing that is stored holds a NaN."""
    fail.add("children")
    Session.start(tiny(budget="90steps", control=False), tmp_path / "run").run()
    from safetensors.torch import load_file

    for file in (tmp_path / "run").rglob("*.safetensors"):
        assert all(
            bool(torch.isfinite(tensor).all()) for tensor in load_file(file).values() if tensor.is_floating_point()
        )
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best"]["validation_accuracy"] > 0
