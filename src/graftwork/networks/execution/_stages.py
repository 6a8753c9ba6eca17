"""Early exit on shared prefixes: each member runs only on the images that those before it have left open.

A member goes on from the longest prefix that an earlier one has computed, so going on costs the difference.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graftwork.networks.execution._layer import run_head, run_item, run_stem
from graftwork.networks.execution._tree import Segment, prefix_tree
from graftwork.networks.execution._walk import Runnable

Settles = Callable[[int, Tensor], Tensor]
"""Number of a member and its logits [b, classes] → which of these images it settles, bool [b]."""


@torch.no_grad()
def staged_outputs(members: Sequence[Runnable], x: Tensor, settles: Settles) -> Tensor:
    """Run members in order, in evaluation mode, each on the images that none before it has settled.

    Args:
        members: Members in the order in which they are asked.
        x: Images [B, C, H, W].
        settles: What decides; it is not asked after the last member.

    Returns:
        Logits [B, members, classes]; behind the member that settles an image stand copies of that member's.
    """
    segments = prefix_tree(members)
    leaf = {index: number for number, segment in enumerate(segments) for index in segment.ends}
    rows, held = torch.arange(len(x), device=x.device), dict[int, Tensor]()
    found: list[Tensor] = []
    for number, member in enumerate(members):
        if len(rows) > 0:
            for segment in _path(segments, leaf[number]):
                if segment not in held:
                    parent = segments[segment].parent
                    held[segment] = _run(segments[segment], members, x if parent is None else held[parent])
            logits = run_head(member.genome, held[leaf[number]], member.weights, member.settings("evaluate"))
            found.append(logits if not found else found[-1].index_copy(0, rows, logits))
            if number + 1 < len(members):
                left = ~settles(number, logits)
                rows, x = rows[left], x[left]
                held = {segment: volume[left] for segment, volume in held.items()}
        else:
            found.append(found[-1])
    return torch.stack(found, dim=1)


def _path(segments: Sequence[Segment], leaf: int) -> list[int]:
    """Segments from the images to a leaf."""
    path: list[int] = []
    at: int | None = leaf
    while at is not None:
        path.append(at)
        at = segments[at].parent
    return path[::-1]


def _run(segment: Segment, members: Sequence[Runnable], x: Tensor) -> Tensor:
    member = members[segment.members[0]]
    settings = member.settings("evaluate")
    if segment.parent is None:
        x = run_stem(member.genome.stem, x, member.weights, settings)
    for item in member.genome.body[segment.start : segment.stop]:
        x = run_item(item, x, member.weights, settings)
    return x
