"""The rule by which ranks put together what they have changed."""

from collections.abc import Mapping

import pytest
import torch

from graftwork.training import Update
from graftwork.typing import BlockId
from graftwork.workers import LocalStepsTrainer, average
from tests.training.small import LEFT, RIGHT, RULES, Setting, genome, layer, same, setting
from tests.workers.ranks import ThreadGroup, together

ROOT = BlockId("root")


def counts(*rows: Mapping[str, int]) -> list[dict[BlockId, int]]:
    return [{BlockId(name): steps for name, steps in row.items()} for row in rows]


LEFT_IDS, RIGHT_IDS = ("root", "left", "head-left"), ("root", "right", "head-right")


@pytest.mark.parametrize("rules", ["adam", "sgd", "sgd plain", "muon scaled", "muon norm-reset"])
def test_weights_and_moments_are_averaged_by_number_of_steps_and_ranks_end_equal(rules: str) -> None:
    """Rank 0 makes three steps of one member, rank 1 one step of the other; they have the root in common."""
    alone = [setting(RULES[rules]) for _ in range(2)]
    alone[0].run(range(3), only=0)
    alone[1].run(range(3, 4), only=1)
    before = [one.snapshot() for one in alone]
    start = setting(RULES[rules]).snapshot()

    def work(group: ThreadGroup) -> dict[str, torch.Tensor]:
        state = alone[group.rank]
        given = counts(dict.fromkeys(LEFT_IDS, 3), dict.fromkeys(RIGHT_IDS, 1))
        average(state.optimizer, given, group)
        return state.snapshot()

    one, other = together(2, work)
    assert same(one, other)
    for key, value in one.items():
        owner = key.split("/")[0]
        if owner == "root":
            expected = 0.75 * before[0][key] + 0.25 * before[1][key]
            torch.testing.assert_close(value, expected)
            assert key not in start or not torch.equal(value, start[key]) or "norm" in key or "bias" in key
        else:  # touched by one rank alone: as it left it, to the bit
            assert torch.equal(value, before[0 if owner in LEFT_IDS else 1][key])
    if rules == "adam":
        assert float(one["root/filter/step"]) == 0.75 * 3 + 0.25
        assert float(one["left/filter/step"]) == 3


def test_blocks_that_nobody_touched_are_not_sent_and_not_moved() -> None:
    def work(group: ThreadGroup) -> tuple[Setting, dict[str, torch.Tensor], int]:
        state = setting(RULES["adam"])
        state.run(range(2))
        before = state.snapshot()
        sent = average(state.optimizer, counts({"left": 1}, {}), group)
        return state, before, sent

    for state, before, sent in together(2, work):
        assert same(state.snapshot(), before)
        touched = sum(tensor.numel() for tensor in state.optimizer.slots(BlockId("left")))
        assert sent == 4 * touched < 4 * sum(tensor.numel() for tensor in before.values())


def test_one_broken_rank_does_not_spoil_blocks_that_it_did_not_touch() -> None:
    def work(group: ThreadGroup) -> torch.Tensor:
        state = setting(RULES["adam"])
        if group.rank == 1:
            with torch.no_grad():
                state.bank[ROOT]["filter"].fill_(float("inf"))
        average(state.optimizer, counts({"root": 2}, {}), group)
        return state.bank[ROOT]["filter"].detach().clone()

    one, other = together(2, work)
    assert torch.equal(one, other)
    assert one.isfinite().all()


def test_a_new_member_of_the_optimizer_starts_as_a_plain_step_would() -> None:
    """Slots that are made for averaging are what a first step begins with."""
    for rules in ("adam", "sgd", "muon scaled"):
        one, other = setting(RULES[rules]), setting(RULES[rules])
        for block_id in one.bank:
            one.optimizer.slots(block_id)
        assert one.run(range(3)) == other.run(range(3))
        before, after = one.snapshot(), other.snapshot()
        assert all(torch.equal(before[key], value) for key, value in after.items())


def updates(state: Setting, numbers: range, *, each: int = 1) -> list[Update]:
    """Updates of the members in turn, ``each`` of them at a time."""
    endless = state.members * 2
    starts = [number % len(state.members) for number in numbers]
    return [Update(endless[i : i + each], number, 0.0) for i, number in zip(starts, numbers, strict=True)]


@pytest.mark.parametrize(("size", "each"), [(2, 1), (3, 1), (3, 2)])
def test_ranks_end_a_stretch_with_the_same_bits_and_the_same_loss(size: int, each: int) -> None:
    genomes = [LEFT, RIGHT, genome(layer("root", 6), layer("third", 8, kernel_size=1), head="head-third")][:size]

    def work(group: ThreadGroup) -> tuple[float, dict[str, torch.Tensor]]:
        state = setting(RULES["adam"], *genomes)
        made: list[Update] = []
        run = state.trainer.run
        state.trainer.run = lambda given: (made.extend(given), run(given))[1]  # type: ignore[method-assign]
        shared = LocalStepsTrainer(state.trainer, group, sync_every=4)
        assert shared.updates_at_once == 4 * size
        losses = [shared.run(updates(state, range(start, start + 9), each=each)).loss for start in (0, 9)]
        assert 0 < len(made) < 18  # its own ones only
        return losses[1], state.snapshot()

    (loss, first), *others = together(size, work)
    assert all(other[0] == loss and same(other[1], first) for other in others)
    again = together(size, work)
    assert again[0][0] == loss
    assert same(again[0][1], first)


def test_members_that_share_nothing_train_on_two_ranks_as_on_one_to_the_bit() -> None:
    """Each is on a rank of its own, with the batches that it would have met."""
    apart = [LEFT, genome(layer("own-root", 6), layer("right", 8, kernel_size=5, hidden=4), head="head-right")]
    alone = setting(RULES["adam"], *apart)
    expected = sum(alone.run(range(8)))

    def work(group: ThreadGroup) -> tuple[float, dict[str, torch.Tensor]]:
        state = setting(RULES["adam"], *apart)
        chosen = LocalStepsTrainer(state.trainer, group, sync_every=4)
        given = updates(state, range(8))
        return chosen.run(given).loss, state.snapshot()

    for loss, snapshot in together(2, work):
        assert loss == pytest.approx(expected)
        assert same(snapshot, alone.snapshot())


def test_a_wish_to_stop_on_any_rank_stops_all_after_the_stretch() -> None:
    def work(group: ThreadGroup) -> bool:
        state = setting(RULES["adam"])
        group.stop_wanted = group.rank == 1
        LocalStepsTrainer(state.trainer, group, sync_every=1).run(updates(state, range(2)))
        return group.stopping

    assert together(2, work) == [True, True]
