"""Who does what: plain arithmetic on integers, so that every rank finds the same answer without asking."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, forward_flops


def deal(keys: Sequence[int], costs: Sequence[int], size: int) -> list[int]:
    """Deal draws to ranks: in the order of their keys, cut into parts of about equal cost.

    All draws of a member stand together, so a member is split only where a border of two ranks falls into it, or where
    it is drawn for more than a rank's share (the seed, which trains alone).

    Args:
        keys: Of each draw: the member, as a number.
        costs: Of each draw, greater than 0.
        size: Number of ranks.

    Returns:
        The rank of each draw.
    """
    ranks = [0] * len(keys)
    total, before = sum(costs), 0
    for index in sorted(range(len(keys)), key=lambda index: keys[index]):
        ranks[index] = (2 * before + costs[index]) * size // (2 * total)  # by the middle of the draw
        before += costs[index]
    return ranks


@dataclass(frozen=True, slots=True)
class Job:
    """Scoring that one rank does.

    Args:
        rows: Numbers of the members, in the order of the trie.
        start: First image.
        stop: One after the last image.
    """

    rows: tuple[int, ...]
    start: int
    stop: int


def _trie_order(genomes: Sequence[Genome]) -> list[int]:
    """Members that share a prefix stand together."""
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
    """Deal members, and where a border of two ranks falls into a member whole batches of images, to ranks.

    Args:
        genomes: Of the members to score.
        num_images: To score on.
        batch_size: Images are never split inside a batch, whose size is part of the result's bits.
        size: Number of ranks.

    Returns:
        The jobs of each rank; every member meets every image exactly once.
    """
    costs = [max(1, forward_flops(genome)) for genome in genomes]
    total, before = sum(costs), 0
    batches = -(-num_images // batch_size)
    whole: list[list[int]] = [[] for _ in range(size)]
    parts: list[list[Job]] = [[] for _ in range(size)]
    for row in _trie_order(genomes):
        first_rank, last_rank = before * size // total, ((before + costs[row]) * size - 1) // total
        for rank in range(first_rank, last_rank + 1):
            # the borders of this rank's share of the total, in batches of this member; both sides of one round alike
            cuts = [(border * total - before * size) * batches // (costs[row] * size) for border in (rank, rank + 1)]
            first, last = (min(max(cut, 0), batches) for cut in cuts)
            if (first, last) == (0, batches):
                whole[rank].append(row)
            elif first < last:
                parts[rank].append(Job((row,), first * batch_size, min(last * batch_size, num_images)))
        before += costs[row]
    return [([Job(tuple(rows), 0, num_images)] if rows else []) + rest for rows, rest in zip(whole, parts, strict=True)]


def scoring_flops(genomes: Sequence[Genome], jobs: Sequence[Sequence[Job]], *, num_calibration: int) -> int:
    """FLOPs of all ranks together: a prefix, and calibration, counts once for each job that needs it."""
    return sum(
        shared_flops([genomes[row] for row in job.rows]) * (job.stop - job.start + num_calibration)
        for hand in jobs
        for job in hand
    )
