"""Parameters that the example does not run, beside a width that grows."""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout

_SHOWN = 4


def idle_notes(graph: ChannelGraph, layouts: Mapping[str, Sequence[Layout]]) -> Iterator[str]:
    """Yield a note for each width that parameters hold which did not run, as a head that another method uses does.

    No run shows whether such a parameter reads what grows, or has as many entries by chance: so it is named, and the
    growth is not refused.

    Args:
        graph: The traced model.
        layouts: Name → the layout of each dimension, for tensors that change.
    """
    idle = [n for n, t in graph.trace.tensors.items() if isinstance(t, nn.Parameter) and not graph.trace.uses[n]]
    if unchecked := [name for name in idle if name in layouts]:
        yield f"grown along, but not run on the example and so not checked: {_some(unchecked)}"
    for size in sorted({layout.size for own in layouts.values() for layout in own if layout.grows and layout.size > 1}):
        left = [name for name in idle if name not in layouts and size in graph.trace.tensors[name].shape]
        if left:
            yield (
                f"left as before, since the example does not run it: {_some(left)}, with {size} entries in a "
                "dimension, as what grows has; if another method uses it on that, grow a module whose forward runs both"
            )


def _some(names: Sequence[str]) -> str:
    more = [f"… ({len(names)} in all)"] if len(names) > _SHOWN else []
    return ", ".join([*map(repr, names[:_SHOWN]), *more])
