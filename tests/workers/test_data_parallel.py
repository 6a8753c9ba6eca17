"""Ranks that share every batch do what one worker does: same draws, same updates, the same gradients."""

from dataclasses import replace

import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.evolution import joint_train
from graftwork.networks.genome import num_parameters
from graftwork.session import SearchConfig, shared_fraction
from graftwork.training import BatchStream, Update, part_of
from graftwork.workers import DataParallelTrainer, LocalStepsTrainer, add_up, time_exchange, train_together
from tests.session.test_session import tiny
from tests.strategies import scramble
from tests.training.small import LEFT, RIGHT, RULES, Setting, same, setting, stream
from tests.workers.ranks import ThreadGroup, together
from tests.workers.test_average import updates
from tests.workers.test_shared_search import setup_of

BARE = [replace(genome, norm="none") for genome in (LEFT, RIGHT)]
"""Without statistics of a batch, which depend on how it is parted."""


def bare(rules: str) -> Setting:
    """Scrambled: the maxima of fresh channels, which are zero but for rounding, lie where rounding says."""
    state = setting(RULES[rules], *BARE)
    scramble(state.bank, state.members, torch.Generator().manual_seed(1))
    return state


def gradients(state: Setting) -> dict[str, torch.Tensor]:
    return {key: p.grad.clone() for key, p, _ in state.bank.parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("members", [(0,), (0, 1)])
def test_gradients_and_loss_are_those_of_the_whole_batch_on_one_worker(size: int, members: tuple[int, ...]) -> None:
    """Parts of 16 images differ in size for three and five ranks."""
    alone = bare("adam")
    update = Update(tuple(alone.members[index] for index in members), 3, 0.0)
    loss = alone.trainer.gradients(update)
    expected = gradients(alone)

    def work(group: ThreadGroup) -> tuple[float, dict[str, torch.Tensor]]:
        state = bare("adam")
        state.optimizer.step = lambda *factors: None  # type: ignore[method-assign]
        shared = DataParallelTrainer(state.trainer, group)
        return shared.run([Update(tuple(state.members[index] for index in members), 3, 0.0)]).loss, gradients(state)

    found = together(size, work)
    for own, mean in found:
        assert own == pytest.approx(loss, rel=1e-6)
        assert mean.keys() == expected.keys()
        assert all(torch.equal(mean[key], found[0][1][key]) for key in expected)
        for key, value in expected.items():
            assert float((mean[key] - value).abs().max()) <= 1e-5 * float(value.abs().max())
    assert len(expected) > 4


@pytest.mark.parametrize("rules", ["adam", "sgd", "muon scaled"])
@pytest.mark.parametrize("size", [2, 3])
def test_a_run_of_updates_follows_one_worker_and_ranks_end_with_the_same_bits(rules: str, size: int) -> None:
    alone = bare(rules)
    start, loss = alone.snapshot(), alone.trainer.run(updates(alone, range(6))).loss
    expected = alone.snapshot()

    def work(group: ThreadGroup) -> tuple[float, dict[str, torch.Tensor]]:
        state = bare(rules)
        shared = DataParallelTrainer(state.trainer, group)
        assert shared.updates_at_once == 1
        return shared.run(updates(state, range(6))).loss, state.snapshot()

    (own, first), *others = together(size, work)
    assert own == pytest.approx(loss, rel=1e-4)
    assert all(other == own and same(snapshot, first) for other, snapshot in others)
    assert first.keys() == expected.keys()
    for key, value in expected.items():
        moved = float((value - start[key]).abs().max()) if key in start else float(value.abs().max())
        assert float((first[key] - value).abs().max()) <= 0.02 * moved + 1e-9, key


def test_norms_take_the_statistics_of_a_part_and_ranks_still_end_equal() -> None:
    def work(group: ThreadGroup) -> dict[str, torch.Tensor]:
        state = setting(RULES["adam"])
        DataParallelTrainer(state.trainer, group).run(updates(state, range(4)))
        return state.snapshot()

    alone = setting(RULES["adam"])
    alone.trainer.run(updates(alone, range(4)))
    one, other = together(2, work)
    assert same(one, other)
    assert not same(one, alone.snapshot())
    assert same(one, together(2, work)[0])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_parts_of_a_batch_are_the_whole_batch_to_the_bit(count: int) -> None:
    batches: BatchStream = stream()
    x, y = batches.batch(7)
    parts = [batches.batch(7, part_of(batches.batch_size, index, count)) for index in range(count)]
    assert torch.equal(torch.cat([images for images, _ in parts]), x)
    assert torch.equal(torch.cat([labels for _, labels in parts]), y)
    sizes = [len(labels) for _, labels in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_batch_too_small_to_share_is_refused_before_anything_begins() -> None:
    with pytest.raises(ConfigError, match=r"workers: expected at most 8, .* 16 images .* got 9"):
        part_of(16, 0, 9)
    for workers, batch_size in ((3, 5), (2, 1), (2, 3)):
        with pytest.raises(
            ConfigError, match=rf"batches of {batch_size} images .* got {workers}; .* sync_every above 0"
        ):
            SearchConfig.from_dict({"workers": workers, "batch_size": batch_size, "sync_every": 0})
        assert SearchConfig.from_dict({"workers": workers, "batch_size": batch_size}).workers == workers
    assert SearchConfig.from_dict({"workers": 2, "batch_size": 4, "sync_every": 0}).workers == 2
    assert SearchConfig.from_dict({"batch_size": 1, "sync_every": 0}).workers == 1


@pytest.mark.parametrize(
    ("size", "members", "batch_size", "dealt"),
    [(2, (0,), 16, False), (2, (0, 1), 16, True), (3, (0, 1), 16, False), (3, (0,), 5, True), (2, (1,), 4, False)],
)
def test_members_are_dealt_where_there_are_enough_and_otherwise_batches_are_shared(
    size: int, members: tuple[int, ...], batch_size: int, dealt: bool
) -> None:
    def work(group: ThreadGroup) -> tuple[bool, dict[str, torch.Tensor]]:
        state = setting(RULES["adam"])
        state.trainer.batches.batch_size = state.trainer.batch_size = batch_size
        parts: list[slice | None] = []
        find = state.trainer.gradients
        state.trainer.gradients = lambda update, part=None: (parts.append(part), find(update, part))[1]
        trainer = LocalStepsTrainer(state.trainer, group, sync_every=4)
        trainer.run([Update((state.members[members[n % len(members)]],), n, 0.0) for n in range(4 * size)])
        assert len(parts) == 4 * size if parts[0] else len(parts) < 4 * size
        return parts[0] is None, state.snapshot()

    found = together(size, work)
    assert [own for own, _ in found] == [dealt] * size
    assert all(same(snapshot, found[0][1]) for _, snapshot in found)


def test_zero_shares_every_batch() -> None:
    def work(group: ThreadGroup) -> tuple[type, type]:
        trainer = setting(RULES["adam"]).trainer
        return type(train_together(trainer, group, 0)), type(train_together(trainer, group, 3))

    assert together(2, work) == [(DataParallelTrainer, LocalStepsTrainer)] * 2
    assert tiny().sync_every > 0


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [
        ({}, 2, 1 / 3),
        ({"initial_steps": 30}, 2, 0.6),
        ({"sync_every": 0}, 2, 1.0),
        ({"population_size": 2, "num_survivors": 1}, 3, 1.0),
        ({"num_generations": 0}, 2, 1.0),
        ({"batch_size": 3}, 2, 0.0),
        ({"initial_steps": None, "initial_fraction": 0.75}, 2, 0.75),
    ],
)
def test_the_part_that_is_shared_is_the_first_round_or_all_or_nothing(
    changes: dict[str, object], size: int, expected: float
) -> None:
    config = tiny(**{"initial_steps": 10, "steps_per_generation": 10, "num_generations": 2, **changes})
    recipe = config.recipe
    shared = shared_fraction(recipe, sync_every=config.sync_every, batch_size=recipe.batch_size, num_workers=size)
    assert shared == pytest.approx(expected)


def test_a_wish_to_stop_on_any_rank_is_known_to_all_after_the_update() -> None:
    def work(group: ThreadGroup) -> bool:
        state = setting(RULES["adam"])
        group.stop_wanted = group.rank == 1
        DataParallelTrainer(state.trainer, group).run(updates(state, range(1)))
        return group.stopping

    assert together(2, work) == [True, True]


def test_only_what_an_update_trains_is_sent_and_moved() -> None:
    def work(group: ThreadGroup) -> tuple[Setting, dict[str, torch.Tensor], int]:
        state = setting(RULES["adam"])
        state.run(range(2))
        before = state.snapshot()
        DataParallelTrainer(state.trainer, group).run([Update((state.members[0],), 5, 0.0)])
        return state, before, sum(group.exchanged)

    for state, before, sent in together(2, work):
        moved = {key.split("/")[0] for key, value in state.snapshot().items() if not torch.equal(value, before[key])}
        assert moved == {"root", "left", "head-left"}
        bound = sum(p.numel() for p in state.members[0].parameters_by_key().values())
        assert sent == bound + 2  # and the loss, and whether to stop


def test_a_search_draws_and_counts_as_one_worker_does() -> None:
    def drawn(group: ThreadGroup | None) -> tuple[list[tuple[int, str]], int, int]:
        setup = setup_of()
        trainer = setup.trainer if group is None else DataParallelTrainer(setup.trainer, group)
        met: list[tuple[int, str]] = []
        find = setup.trainer.gradients
        setup.trainer.gradients = lambda update, part=None: (
            met.append((update.number, update.members[0].genome.id)),
            find(update, part),
        )[1]
        setup.state.generation = 1
        joint_train(setup.state, strategy=setup.strategy, trainer=trainer, scorer=setup.scorer, plan=setup.plan)
        return met, setup.state.step, setup.state.training_flops

    expected = drawn(None)
    assert len(expected[0]) == expected[1] > 10
    for found in together(2, drawn):
        assert found == expected


def test_sums_over_ranks_are_weighted_and_keep_their_layout() -> None:
    def work(group: ThreadGroup) -> list[torch.Tensor]:
        tensors = [torch.full((2, 3, 2, 2), group.rank + 1.0).contiguous(memory_format=torch.channels_last)]
        tensors += [torch.full((3,), 10.0 * group.rank)]
        sent = add_up(tensors, [0.25 if group.rank else 0.75] * 2, group)
        assert sent == 4 * (24 + 3)
        assert tensors[0].is_contiguous(memory_format=torch.channels_last)
        assert add_up([], [], group) == 0
        return tensors

    for filters, bias in together(2, work):
        assert filters.unique().tolist() == [1.25]
        assert bias.unique().tolist() == [2.5]


def test_the_time_of_an_exchange_is_the_slowest_ranks_on_all() -> None:
    found = together(3, lambda group: time_exchange(num_parameters(LEFT), group))
    assert found[0] > 0
    assert len(set(found)) == 1
