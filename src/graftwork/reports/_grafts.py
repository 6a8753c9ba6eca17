"""When each block was grafted: the ancestry of a member, read backwards from its genome."""

import re
from collections.abc import Iterable, Mapping

from graftwork.networks.genome import Genome, Layer
from graftwork.reports._read import Birth
from graftwork.typing import BlockId

_WIDEN = re.compile(r"widen layer (\d+) by (\d)×\d·(\d+)")
_DEEPEN = re.compile(r"deepen at (\d+) by (.+)")


def graft_generations(genome: Genome, ancestors: Iterable[Birth]) -> Mapping[BlockId, int | None]:
    """Tell the generation in which each block of a genome was grafted.

    The transforms of the ancestry are undone from the last to the first: a deepening takes out a whole layer, a
    widening the last block of one.

    Args:
        genome: of the member.
        ancestors: from the seed to the member itself.

    Returns:
        Generation by block: 0 for blocks of the seed, None where the lineage does not explain the genome.
    """
    found: dict[BlockId, int | None] = {}
    body: list[list[tuple[BlockId, int, int]] | None] = [
        [(block.id, block.kernel_size, block.hidden_channels) for block in item.blocks]
        if isinstance(item, Layer)
        else None
        for item in genome.body
    ]
    explained = True
    for birth in reversed(tuple(ancestors)):
        if birth.parent is None:
            continue
        for part in birth.transform.removesuffix(" (random padding)").split("; ")[::-1]:
            undone = _undo(body, part) if explained else None
            explained = undone is not None
            found.update(dict.fromkeys(undone or (), birth.generation))
    for blocks in body:
        found.update((block_id, 0 if explained else None) for block_id, _, _ in blocks or ())
    return found


def _undo(body: list[list[tuple[BlockId, int, int]] | None], transform: str) -> list[BlockId] | None:
    """Take out of ``body`` what one transform put in; None, and no change, where they don't fit."""
    if match := _WIDEN.match(transform):
        position = int(match[1])
        blocks = body[position] if position < len(body) else None
        if not blocks or len(blocks) < 2 or blocks[-1][1:] != (int(match[2]), int(match[3])):
            return None
        return [blocks.pop()[0]]
    if match := _DEEPEN.match(transform):
        position = int(match[1])
        blocks = body[position] if position < len(body) else None
        if blocks is None or [f"{k}×{k}·{hidden}" for _, k, hidden in blocks] != match[2].split(" + "):
            return None
        del body[position]
        return [block_id for block_id, _, _ in blocks]
    return None
