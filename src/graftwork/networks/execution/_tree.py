"""The trie of genomes that `walk` goes down, as data: for exports, which write it out instead of running it."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.networks.execution._walk import Runnable, item_groups, root_groups


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive items that some members share on the same activations.

    Args:
        parent: Index of the segment whose output it reads; ``None``: it begins with the stem and reads the images.
        members: Indices of the members that run it.
        start: Position of its first item in their bodies.
        stop: Position after its last item.
        ends: Indices of the members whose head comes next.
    """

    parent: int | None
    members: tuple[int, ...]
    start: int
    stop: int
    ends: tuple[int, ...]


def prefix_tree(members: Sequence[Runnable]) -> list[Segment]:
    """Segments in which every shared prefix stands once, as `walk` runs it in evaluation mode; parents come first."""
    segments: list[Segment] = []
    for group in root_groups(members, "evaluate"):
        _grow(segments, None, members, group, 0)
    return segments


def _grow(
    segments: list[Segment], parent: int | None, members: Sequence[Runnable], indices: Sequence[int], start: int
) -> None:
    stop = start
    groups = item_groups(members, indices, stop, "evaluate")
    while len(groups) == 1 and groups[0][0] is not None:
        stop += 1
        groups = item_groups(members, indices, stop, "evaluate")
    number = len(segments)
    ends = tuple(index for item, group in groups if item is None for index in group)
    segments.append(Segment(parent, tuple(indices), start, stop, ends))
    for item, group in groups:
        if item is not None:
            _grow(segments, number, members, group, stop)
