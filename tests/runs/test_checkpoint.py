"""What a checkpoint stores comes back to the last value and bit."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import RunError
from graftwork.evolution import Population, SearchState
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import GreedySelector
from graftwork.evolution.strategies import Neuroevolution
from graftwork.networks.genome import Genome, Layer, Stem
from graftwork.runs import RunFolder, pack_state, unpack_optimizer, unpack_state
from graftwork.training import BankOptimizer, Rule
from graftwork.training._rules import same_rule
from graftwork.typing import BlockId
from tests.networks.genome.test_validation import block
from tests.strategies import random_images, scramble

GENOME = Genome((1, 8, 8), 3, (Layer(4, (block("a", stop=4),)),), stem=Stem("whiten", BlockId("stem"), 4, 2))


def make_state() -> tuple[SearchState, BankOptimizer]:
    generator, population = torch.Generator().manual_seed(0), Population()
    population.add_seed(GENOME, generator=generator, images=random_images(GENOME, 16, generator))
    rng = np.random.default_rng(0)
    report = R2RMutation(max_parameters=10**5)(population, 4, rng=rng, generation=1)
    scramble(population.bank, population, generator)
    optimizer = BankOptimizer(population.bank, same_rule(Rule("adam", 1e-3)))
    population["m1"](random_images(GENOME, 4, generator)).sum().backward()  # type: ignore[index]
    optimizer.step()
    survivors = tuple(population.members)[2:0:-1]
    accuracies = {m: 1 / (3 + i) for i, m in enumerate(population.members)}
    numbers = {"generation": 1, "begun": True, "step": 7, "training_flops": 11, "scoring_flops": 13, "loss_count": 3}
    return SearchState(
        population, rng, survivors=survivors, accuracies=accuracies, report=report, loss_sum=0.1 + 0.2, **numbers
    ), optimizer


def stored(folder: RunFolder, state: SearchState, optimizer: BankOptimizer) -> tuple[SearchState, BankOptimizer]:
    data, tensors = pack_state(state, optimizer, Neuroevolution(selector=GreedySelector(), mutate=R2RMutation()))
    folder.save_checkpoint("search", state.step, data, tensors)
    found = folder.load_checkpoint("search")
    assert found is not None
    again = unpack_state(*found)
    other = BankOptimizer(again.population.bank, same_rule(Rule("adam", 1e-3)))
    unpack_optimizer(other, *found)
    return again, other


def test_every_field_of_a_search_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    state, optimizer = make_state()
    again, other = stored(RunFolder.create(tmp_path / "run"), state, optimizer)
    for name in {entry.name for entry in fields(SearchState)} - {"population", "rng"}:
        assert getattr(again, name) == getattr(state, name), name
    assert again.rng.bit_generator.state == state.rng.bit_generator.state
    before, after = state.population, again.population
    assert after.bank.digest() == before.bank.digest()
    assert after.bank.layout() == before.bank.layout()
    assert after.lineage == before.lineage
    assert list(after.members) == list(before.members)
    for one, two in zip(before, after, strict=True):
        assert dict(one.statistics).keys() == dict(two.statistics).keys()
        for block_id, pair in one.statistics.items():
            assert all(map(torch.equal, pair, two.statistics[block_id]))
    moments, scalars = optimizer.state()
    assert moments
    assert moments.keys() == other.state()[0].keys()
    assert all(torch.equal(moments[key], other.state()[0][key]) for key in moments)
    assert other.state()[1] == scalars


def test_whitening_filters_are_fixed_before_and_after_a_checkpoint(tmp_path: Path) -> None:
    state, optimizer = make_state()
    again, _ = stored(RunFolder.create(tmp_path / "run"), state, optimizer)
    for bank in (state.population.bank, again.population.bank):
        fixed = {key for key, parameter, _ in bank.parameters() if not parameter.requires_grad}
        assert fixed == {"stem/filter"}


@pytest.mark.parametrize("parents", [{"m1": "m1"}, {"m1": "m2", "m2": "m1"}, {"m0": "m3"}, {"m2": "m99"}, {"m3": []}])
def test_members_whose_line_does_not_begin_with_a_seed_are_refused(parents: dict[str, Any]) -> None:
    state, optimizer = make_state()
    data, tensors = pack_state(state, optimizer, Neuroevolution(selector=GreedySelector(), mutate=R2RMutation()))
    for birth in data["lineage"]:
        birth["parent"] = parents.get(birth["id"], birth["parent"])
    with pytest.raises(RunError, match="damaged"):
        unpack_state(data, tensors)


def test_a_member_that_is_born_twice_is_refused() -> None:
    state, optimizer = make_state()
    data, tensors = pack_state(state, optimizer, Neuroevolution(selector=GreedySelector(), mutate=R2RMutation()))
    with pytest.raises(RunError, match="each once, got 'm1'"):
        unpack_state({**data, "lineage": [*data["lineage"], data["lineage"][1]]}, tensors)
