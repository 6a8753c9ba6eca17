"""Which rank does what: plain arithmetic on integers, so that every rank finds the same answer without asking."""

# Worked examples, with two ranks.
#
# `deal`: four draws of members 0, 1, 0, 2 that cost 2, 3, 2, 3. In the order of their members they fill a line of
# length 10, which is cut in the middle; a draw belongs to the rank in whose half its own middle lies:
#
#     0     2     4        7       10
#     │  0  │  0  │   1    │   2   │          middles 1, 3, 5.5, 8.5    rank 0 up to 5
#     └── rank 0 ─┴──── rank 1 ────┘          → ranks 0, 1, 0, 1 in the order of the draws
#
# `deal_scoring`: members a, b, c whose forward passes cost 3, 2, 3, over 10 batches of images. The cut at 4 of 8 falls
# in the middle of b, which is split there by batches: rank 0 scores a on all images and b on the first five batches,
# rank 1 scores b on the last five and c on all.

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, forward_flops


def deal(keys: Sequence[int], costs: Sequence[int], size: int) -> list[int]:
    """Deal draws to ranks: put them in the order of their keys, and cut this into shares of about equal cost.

    All draws of a member stand together, so a member is split only where the border of two ranks falls into it, or
    where its draws are more than a rank's share (the seed, which trains alone).

    Args:
        keys: Number of the member that each draw trains.
        costs: Cost of each draw, greater than 0.
        size: Number of ranks.

    Returns:
        The rank of each draw.
    """
    ranks = [0] * len(keys)
    total, before = sum(costs), 0
    for index in sorted(range(len(keys)), key=lambda index: keys[index]):
        ranks[index] = (2 * before + costs[index]) * size // (2 * total)  # the rank in which its middle lies
        before += costs[index]
    return ranks


@dataclass(frozen=True, slots=True)
class Job:
    """Scoring that one rank does.

    Args:
        rows: Indices of the members, in the order of the trie.
        start: Index of the first image.
        stop: One past the index of the last image.
    """

    rows: tuple[int, ...]
    start: int
    stop: int


def _trie_order(genomes: Sequence[Genome]) -> list[int]:
    """Indices of the genomes in an order in which those that share a prefix stand together."""
    numbers: dict[object, int] = {}
    keys = []
    for genome in genomes:
        prefix: object = (genome.input_shape, genome.stem, genome.activation, genome.norm)
        key = [numbers.setdefault(prefix, len(numbers))]
        for item in genome.body:
            prefix = (prefix, item)
            key.append(numbers.setdefault(prefix, len(numbers)))
        keys.append(key)
    return sorted(range(len(genomes)), key=lambda row: keys[row])


def deal_scoring(genomes: Sequence[Genome], *, num_images: int, batch_size: int, size: int) -> list[list[Job]]:
    """Deal the scoring of members to ranks; a member on the border of two ranks is split by whole batches of images.

    Args:
        genomes: Genomes of the members to score.
        num_images: Number of images to score on.
        batch_size: Number of images in a batch. Batches are never split, as their size affects the result's bits.
        size: Number of ranks.

    Returns:
        The jobs of each rank; every member is scored on every image exactly once.
    """
    costs = [max(1, forward_flops(genome)) for genome in genomes]
    total, before = sum(costs), 0
    batches = -(-num_images // batch_size)
    whole: list[list[int]] = [[] for _ in range(size)]
    split: list[list[Job]] = [[] for _ in range(size)]
    for row in _trie_order(genomes):
        first_rank, last_rank = before * size // total, ((before + costs[row]) * size - 1) // total
        for rank in range(first_rank, last_rank + 1):
            # the borders of this rank's share of the total, in batches of this member; both neighbours round alike
            cuts = [(border * total - before * size) * batches // (costs[row] * size) for border in (rank, rank + 1)]
            first, last = (min(max(cut, 0), batches) for cut in cuts)
            if (first, last) == (0, batches):
                whole[rank].append(row)
            elif first < last:
                split[rank].append(Job((row,), first * batch_size, min(last * batch_size, num_images)))
        before += costs[row]
    return [([Job(tuple(rows), 0, num_images)] if rows else []) + rest for rows, rest in zip(whole, split, strict=True)]


def scoring_flops(genomes: Sequence[Genome], jobs: Sequence[Sequence[Job]], *, num_calibration: int) -> int:
    """FLOPs of all ranks together; a prefix, and its calibration, counts once for each job that needs it."""
    return sum(
        shared_flops([genomes[row] for row in job.rows]) * (job.stop - job.start + num_calibration)
        for hand in jobs
        for job in hand
    )
