"""A trunk that trains more slowly than the lines on it, or not at all."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from graftwork.bank import grow_bank
from graftwork.config import SearchConfig, prepare
from graftwork.errors import BankError, ConfigError
from graftwork.evolution import SearchState, search
from graftwork.genome import Block, Layer
from graftwork.typing import BlockId, MemberId
from tests.strategies import scramble
from tests.training.small import LEFT, RIGHT, RULES, Setting, genome, layer, same, setting

TRUNK = [BlockId("root")]
each_rule = pytest.mark.parametrize("name", sorted(RULES))


def trained(name: str, genomes: Sequence[Any] = (LEFT, RIGHT)) -> Setting:
    """Two members whose every tensor has moments."""
    state = setting(RULES[name], *genomes)
    scramble(state.bank, state.members, torch.Generator().manual_seed(1))
    state.run(range(4))
    return state


def update(state: Setting, number: int, *, together: bool) -> None:
    if together:
        state.trainer.step_together(state.members, number, 0.0)
    else:
        state.trainer.step(state.members[number % 2], number, 0.0)


def parts(snapshot: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What belongs to the trunk, and what to the lines."""
    trunk = {key: value for key, value in snapshot.items() if key.split("/")[0] in TRUNK}
    return trunk, {key: value for key, value in snapshot.items() if key not in trunk}


@each_rule
@pytest.mark.parametrize("together", [False, True])
def test_a_trunk_at_the_full_rate_changes_no_bit(name: str, together: bool) -> None:
    one, other = trained(name), trained(name)
    other.trainer.slow(TRUNK, 1)
    for number in range(4):
        update(one, number, together=together)
        update(other, number, together=together)
    assert same(one.snapshot(), other.snapshot())


@each_rule
@pytest.mark.parametrize("together", [False, True])
def test_a_frozen_trunk_keeps_every_bit_of_weights_and_moments_while_the_lines_move(name: str, together: bool) -> None:
    state = trained(name)
    before = state.snapshot()
    state.trainer.slow(TRUNK, 0)
    for number in range(4):
        update(state, number, together=together)
        assert all(parameter.grad is None for parameter in state.bank["root"].values())
    (held, moved), (now_held, now_moved) = parts(before), parts(state.snapshot())
    assert len(held) > 5 or name == "sgd plain"
    assert same(held, now_held)
    assert all(not torch.equal(moved[key], now_moved[key]) for key in moved if key.endswith(("filter", "weight")))
    assert all(p.requires_grad for _, p, _ in state.bank.parameters())


@pytest.mark.parametrize("together", [False, True])
def test_over_a_frozen_trunk_the_lines_take_the_same_step_to_the_bit(together: bool) -> None:
    one, other = trained("adam"), trained("adam")
    other.trainer.slow(TRUNK, 0)
    update(one, 7, together=together)
    update(other, 7, together=together)
    assert same(parts(one.snapshot())[1], parts(other.snapshot())[1])
    assert not same(parts(one.snapshot())[0], parts(other.snapshot())[0])


def test_a_frozen_block_beside_a_private_one_and_above_it_lets_the_gradient_through() -> None:
    """As where a line has widened a layer of the trunk."""
    beside = Layer(6, (Block(BlockId("own"), 3, 6, 0, 6), Block(BlockId("root"), 3, 6, 0, 6)))
    above = layer("left", 8)
    wide = genome(beside, above, head="head-left")
    states = [trained("adam", (wide, RIGHT)) for _ in range(2)]
    states[1].trainer.slow([*TRUNK, BlockId("left")], 0)
    before = states[1].snapshot()
    for state in states:
        state.trainer.step(state.members[0], 7, 0.0)
    free, held = states[0].snapshot(), states[1].snapshot()
    for key, value in held.items():
        frozen = key.split("/")[0] in ("root", "left")
        torch.testing.assert_close(value, before[key] if frozen else free[key], rtol=1e-5, atol=1e-7)
    assert not torch.equal(held["own/filter"], before["own/filter"])


def test_the_gradients_of_a_frozen_trunk_are_not_computed() -> None:
    counts = []
    for rate in (1, 0):
        state = trained("adam")
        state.trainer.slow(TRUNK, rate)
        with FlopCounterMode(display=False) as counter:
            state.trainer.step(state.members[0], 0, 0.0)
        counts.append(counter.get_total_flops())
    batch, positions, inner = 16, 64, 16
    # of the filters the gradient, of the mixing weights both ways, and the next layer's way back to the trunk
    root = 2 * batch * positions * (2 * 6 * 3 * 9 // 2 + 2 * 6 * 6)
    assert counts[0] - counts[1] == root + 2 * batch * inner * 6 * 6 * 9


@pytest.mark.parametrize("name", [n for n in sorted(RULES) if n != "muon norm-reset"])
def test_a_slowed_trunk_makes_that_part_of_its_step_and_keeps_the_same_moments(name: str) -> None:
    full, slow = trained(name), trained(name)
    before = parts(full.snapshot())[0]
    slow.trainer.slow(TRUNK, 0.25)
    for state in (full, slow):
        state.trainer.step(state.members[0], 7, 0.0)
    (trunk, lines), (slow_trunk, slow_lines) = parts(full.snapshot()), parts(slow.snapshot())
    assert same(lines, slow_lines)
    for key, value in before.items():
        if key.count("/") == 2:
            assert torch.equal(trunk[key], slow_trunk[key])
        else:
            torch.testing.assert_close(slow_trunk[key] - value, 0.25 * (trunk[key] - value), rtol=1e-3, atol=1e-7)
    assert not torch.equal(trunk["root/filter"], before["root/filter"])


def test_a_trunk_is_slow_until_the_next_call_and_new_and_forgotten_entries_are_no_part_of_it() -> None:
    state, other = trained("adam"), trained("adam")
    state.trainer.slow(TRUNK, 0)
    assert state.optimizer.frozen == set(TRUNK)
    grow_bank(state.bank, genome(layer("new", 6), head="head-new"), generator=torch.Generator().manual_seed(5))
    state.trainer.sync()
    assert state.optimizer.frozen == set(TRUNK)
    state.trainer.slow((), 1.0)
    assert state.optimizer.frozen == set()
    update(state, 7, together=True)
    update(other, 7, together=True)
    assert same(other.snapshot(), {key: state.snapshot()[key] for key in other.snapshot()})
    state.optimizer.slow([*TRUNK, BlockId("new")], 0)
    state.bank.forget([BlockId("new")])
    state.optimizer.sync()
    assert state.optimizer.frozen == set(TRUNK)


def test_a_trunk_thaws_though_a_step_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    state = trained("adam")
    state.trainer.slow(TRUNK, 0)

    def broken(*arguments: Any) -> Tensor:
        assert not any(parameter.requires_grad for parameter in state.bank["root"].values())
        raise MemoryError

    monkeypatch.setattr("graftwork.execution._walk.run_head", broken)
    for _ in range(2):
        with pytest.raises(MemoryError):
            state.trainer.step_together(state.members, 0, 0.0)
    assert all(p.requires_grad for _, p, _ in state.bank.parameters())


def test_a_step_leaves_frozen_entries_alone_though_somebody_made_gradients_for_them() -> None:
    state = trained("adam")
    before = parts(state.snapshot())[0]
    state.optimizer.slow(TRUNK, 0)
    for _, parameter, _ in state.bank.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    assert same(before, parts(state.snapshot())[0])


def test_unknown_entries_and_rates_are_refused_and_nothing_changes() -> None:
    optimizer = trained("adam").optimizer
    optimizer.slow(TRUNK, 0)
    with pytest.raises(BankError, match="no block 'nobody' to slow"):
        optimizer.slow([BlockId("nobody")], 0.5)
    for rate in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="rate"):
            optimizer.slow(TRUNK, rate)
    assert optimizer.frozen == set(TRUNK)


@pytest.mark.parametrize("recipe", ["paper", "default"])
def test_in_a_search_a_frozen_trunk_stays_as_it_was_when_the_population_parted(recipe: str) -> None:
    config = SearchConfig.from_dict(
        {"data": "digits", "recipe": recipe, "budget": "40steps", "num_generations": 2, "population_size": 4}
        | {"num_survivors": 2, "precision": "float32", "threads": 1, "num_calibration": 50, "batch_size": 16}
        | {"fork_fraction": 0.2, "fork_layer": 1, "trunk_rate": 0.0}
    )
    setup = prepare(config)
    parted: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}

    def look(state: SearchState, member: MemberId, loss: float, progress: float) -> None:
        found = {**state.population.bank.state(), **setup.trainer.optimizer.state()[0]}
        if setup.trainer.optimizer.frozen:
            last.clear()
            last.update({key: value.clone() for key, value in found.items()})
            if not parted:
                parted.update(last)

    rounds = list(search(setup.state, observer=look, **setup.parts))
    stem, first = setup.state.population.genomes[0].stem, rounds[0].births[0].genome.layers[0]
    trunk = {block.id for block in first.blocks} | ({stem.id} if stem.kind != "none" else set())
    held = [key for key in parted if key.split("/")[0] in trunk]
    assert any(key.count("/") == 2 for key in held)
    assert all(torch.equal(parted[key], last[key]) for key in held)
    others = [key for key in parted if key in last and key not in held and key.endswith("/filter")]
    assert others
    assert all(not torch.equal(parted[key], last[key]) for key in others)
