"""A loss or gradient that is NaN or infinite: its update is not made, and nothing else changes."""

from math import inf, nan

import pytest
import torch
from torch import Tensor

from graftwork.errors import GraftworkError
from graftwork.training import Update
from graftwork.typing import BlockId
from tests.training.small import LEFT, RULES, Setting, same, setting


def spoiled(rules: str, what: str) -> tuple[Setting, dict[str, Tensor]]:
    """A population after four steps whose next update of the left member fails; and what must stay as it is."""
    state = setting(RULES[rules])
    state.run(range(4))
    if what == "weight":
        with torch.no_grad():
            state.bank[BlockId("head-left")]["bias"].fill_(nan)
    elif what == "gradient":  # the loss is finite
        state.bank[BlockId("left")]["filter"].register_hook(lambda gradient: gradient * inf)
    else:  # the gradient is finite
        state.trainer.loss = lambda x, logits, classes: logits.sum() * 0 + inf
    return state, whole(state)


def whole(state: Setting) -> dict[str, Tensor]:
    """Weights and slots, NaN as a number, so that equal ones compare equal."""
    return {key: value.nan_to_num(7.0) for key, value in state.snapshot().items()}


@pytest.mark.parametrize("rules", list(RULES))
@pytest.mark.parametrize("what", ["weight", "gradient", "loss"])
def test_an_update_that_is_not_finite_is_skipped_and_moves_nothing(rules: str, what: str) -> None:
    state, before = spoiled(rules, what)
    outcome = state.trainer.run([Update((state.members[0],), 7, 0.5)])
    assert outcome.skipped == {0}
    assert outcome.loss == 0
    assert same(before, whole(state))
    with pytest.raises(GraftworkError, match=rf"finite.* for member {LEFT.id[:8]} at step 7"):
        state.trainer.step(state.members[0], 7, 0.5)
    assert same(before, whole(state))


def test_the_next_update_goes_on_as_if_the_skipped_one_had_not_been() -> None:
    state, other = spoiled("adam", "gradient")[0], setting(RULES["adam"])
    other.run(range(4))
    mixed = [Update((state.members[index],), number, 0.0) for index, number in ((1, 4), (0, 5), (1, 6))]
    outcome = state.trainer.run(mixed)
    assert outcome.skipped == {1}
    assert outcome.loss == sum(other.trainer.step(other.members[1], number, 0.0) for number in (4, 6))
    assert same(state.snapshot(), other.snapshot())


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_of_several_members_none_moves_where_one_fails(what: str) -> None:
    state, before = spoiled("adam", what)
    assert state.trainer.run([Update((state.members[1], state.members[0]), 7, 0.5)]).skipped == {0}
    assert same(before, whole(state))


def test_members_that_fail_only_together_are_skipped_together_and_made_alone() -> None:
    """Both add to the gradient of what they share; alone each stays below the largest number."""
    state = setting(RULES["adam"])
    shared = next(iter(state.bank[BlockId("root")].values()))
    state.trainer.loss = lambda x, logits, classes: logits.sum() * 0 + shared.flatten()[0] * 3e38
    assert state.trainer.run([Update(state.members, 0, 0.0)]).skipped == {0}
    assert state.trainer.run([Update(state.members[:1], 0, 0.0)]).skipped == set()
