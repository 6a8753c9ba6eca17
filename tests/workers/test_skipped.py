"""Updates that one rank finds not finite are skipped by all."""

from math import inf

import pytest
import torch

from graftwork.training import Outcome, Update
from graftwork.typing import BlockId
from graftwork.workers import train_together
from tests.training.small import RULES, Setting, same, setting
from tests.workers.ranks import ThreadGroup, together
from tests.workers.test_average import updates


def spoiled() -> Setting:
    """The gradients of the left member are infinite, its loss is not."""
    state = setting(RULES["adam"])
    state.bank[BlockId("left")]["filter"].register_hook(lambda gradient: gradient * inf)
    return state


@pytest.mark.parametrize("sync_every", [0, 3])
def test_all_ranks_skip_alike_and_end_with_the_same_bits(sync_every: int) -> None:
    """With batches shared only rank 1 fails; with members dealt, whichever has the left one."""

    def work(group: ThreadGroup) -> tuple[Outcome, dict[str, torch.Tensor]]:
        state = spoiled() if group.rank or sync_every else setting(RULES["adam"])
        return train_together(state.trainer, group, sync_every).run(updates(state, range(6))), state.snapshot()

    (outcome, first), (other, second) = together(2, work)
    assert outcome == other
    assert outcome.skipped == {0, 2, 4}
    assert same(first, second)
    start = setting(RULES["adam"]).snapshot()
    assert torch.equal(first["head-left/weight"], start["head-left/weight"])
    assert not torch.equal(first["head-right/weight"], start["head-right/weight"])
    assert "head-left/weight/exp_avg" not in first


def test_members_trained_together_are_skipped_on_all_ranks_where_one_fails_on_any() -> None:
    def work(group: ThreadGroup) -> Outcome:
        state = spoiled() if group.rank else setting(RULES["adam"])
        return train_together(state.trainer, group, 0).run([Update(state.members[::-1], 0, 0.0)])

    assert [found.skipped for found in together(2, work)] == [{0}] * 2
