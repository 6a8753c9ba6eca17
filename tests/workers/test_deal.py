"""Who does what."""

import numpy as np
import pytest

from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, forward_flops
from graftwork.workers import deal, deal_scoring, scoring_flops
from tests.training.small import LEFT, RIGHT, genome, layer

GENOMES = [LEFT, genome(layer("far", 12)), RIGHT, genome(layer("far", 12), layer("further", 12))]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_ranks_get_about_equal_costs_and_whole_members_but_at_borders(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        keys = [int(key) for key in rng.integers(10, size=64)]
        price = [int(cost) for cost in rng.integers(1, 100, size=10)]
        costs = [price[key] for key in keys]
        ranks = deal(keys, costs, size)
        assert set(ranks) <= set(range(size))
        loads = [sum(c for c, r in zip(costs, ranks, strict=True) if r == rank) for rank in range(size)]
        assert all(abs(load - sum(costs) / size) <= max(costs) for load in loads)
        pairs = set(zip(keys, ranks, strict=True))
        assert len(pairs) <= len(set(keys)) + size - 1


def test_draws_of_one_member_alone_are_dealt_evenly_and_in_order() -> None:
    assert deal([0] * 8, [5] * 8, 4) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert deal([0, 1, 0, 1], [5] * 4, 2) == [0, 1, 0, 1]
    assert deal([], [], 2) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_member_meets_every_image_exactly_once(size: int, count: int) -> None:
    hands = deal_scoring(GENOMES[:count], num_images=95, batch_size=10, size=size)
    seen = np.zeros((count, 95), dtype=int)
    for hand in hands:
        for job in hand:
            assert job.start % 10 == 0
            assert job.stop % 10 == 0 or job.stop == 95
            seen[list(job.rows), job.start : job.stop] += 1
    assert (seen == 1).all()
    assert len(hands) == size


def test_scoring_is_dealt_by_cost_to_within_one_batch_of_a_member() -> None:
    costs = [forward_flops(one) for one in GENOMES]
    hands = deal_scoring(GENOMES, num_images=1000, batch_size=10, size=3)
    loads = [sum(costs[row] * (job.stop - job.start) for job in hand for row in job.rows) for hand in hands]
    assert max(loads) - min(loads) <= 2 * 10 * max(costs)


def test_members_that_share_a_prefix_stand_together() -> None:
    [[job]] = deal_scoring(GENOMES, num_images=10, batch_size=10, size=1)
    assert job.rows == (0, 2, 1, 3)


def test_scoring_on_one_rank_costs_what_the_trie_costs_and_on_more_what_each_computes() -> None:
    def flops(genomes: list[Genome], size: int) -> int:
        hands = deal_scoring(genomes, num_images=90, batch_size=10, size=size)
        return scoring_flops(genomes, hands, num_calibration=30)

    assert flops(GENOMES, 1) == shared_flops(GENOMES) * 120
    assert flops([LEFT], 3) == forward_flops(LEFT) * (90 + 3 * 30)
    assert flops(GENOMES, 3) > flops(GENOMES, 1)
