"""The trie of genomes as data: it runs what the walk runs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.networks import Member
from graftwork.networks.execution import Segment, prefix_tree, run_head, run_item, run_stem, shared_flops, walk
from graftwork.networks.genome import Genome, flops_per_item, seed_genome
from tests.strategies import family, genomes, random_images, seeds


def run(segments: list[Segment], members: list[Member], x: torch.Tensor) -> dict[int, torch.Tensor]:
    volumes: list[torch.Tensor] = []
    found = {}
    for segment in segments:
        first = members[segment.members[0]]
        settings_ = first.settings("evaluate")
        if segment.parent is None:
            out = run_stem(first.genome.stem, x, first.weights, settings_)
        else:
            out = volumes[segment.parent]
        for item in first.genome.body[segment.start : segment.stop]:
            out = run_item(item, out, first.weights, settings_)
        volumes.append(out)
        for index in segment.ends:
            member = members[index]
            found[index] = run_head(member.genome, out, member.weights, member.settings("evaluate"))
    return found


@settings(max_examples=25, deadline=None)
@given(genomes(), seeds, st.integers(1, 4))
def test_the_tree_runs_what_the_walk_runs_and_costs_what_it_costs(genome: Genome, seed: int, count: int) -> None:
    members = family(genome, seed)[:count]
    segments = prefix_tree(members)
    x = random_images(genome, 3, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        walked, found = dict(walk(members, x, "evaluate")), run(segments, members, x)
    assert set(found) == set(range(count))
    assert all(torch.equal(found[index], walked[index]) for index in walked)
    cost = 0
    for segment in segments:
        parts = flops_per_item(members[segment.members[0]].genome)
        cost += sum(parts[1 + segment.start : 1 + segment.stop]) + (parts[0] if segment.parent is None else 0)
    heads = sum(flops_per_item(member.genome)[-1] for member in members)
    assert cost + heads == shared_flops([member.genome for member in members])


def test_members_part_where_their_genomes_do() -> None:
    genome = seed_genome("poster", (1, 8, 8), 10)
    members = family(genome, 0)
    segments = prefix_tree(members)
    assert segments[0].members == (0, 1, 2, 3)
    assert segments[0].stop == 0  # widened in the first layer
    assert sorted(index for segment in segments for index in segment.ends) == [0, 1, 2, 3]
    parted = next(segment for segment in segments if segment.members == (0, 2, 3))
    assert (parted.start, parted.stop, parted.ends) == (0, len(genome.body), (0, 3))
