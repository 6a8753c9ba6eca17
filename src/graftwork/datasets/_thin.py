"""Leaving out images where decoding all would take too long."""

from collections.abc import Hashable, Sequence

import numpy as np

KEPT_OF_EACH = 20
"""Images of every group that are kept, or all where there are fewer."""


def thin(groups: Sequence[Hashable], most: int | None) -> list[int]:
    """Choose images, evenly spread over each group and in proportion to the groups; the same for the same arguments.

    Args:
        groups: What each image belongs to: its class and split.
        most: About how many to choose; ``None``: all.

    Returns:
        Indices, in rising order.
    """
    if most is None or len(groups) <= most:
        return list(range(len(groups)))
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    found: list[int] = []
    for own in rows.values():
        count = min(len(own), max(KEPT_OF_EACH, round(len(own) * most / len(groups))))
        found += [own[place] for place in np.linspace(0, len(own) - 1, count).round().astype(int)]
    return sorted(found)
