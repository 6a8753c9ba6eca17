"""Heads of attention that have to grow with the stream, in models whose code ties their number to its width."""

from collections.abc import Iterator

from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._space import Segment, Var, resolve

SUMMED = "head dimension"
STOCK = "torch.nn.MultiheadAttention"


def heads(graph: ChannelGraph, ratio: float) -> dict[Var, int]:
    """Return the volumes that count heads, with as many new ones as a ratio asks for.

    Args:
        graph: The model, as it was traced.
        ratio: New over old number; heads that it does not divide are left out.
    """
    found: dict[Var, int] = {}
    for dims in graph.trace.spaces.values():
        for segment in (segment for expr in dims for segment in resolve(expr)):
            for var in _counts(segment):
                more = var.size * (ratio - 1.0)
                if more.is_integer() and all(reason.text.startswith(STOCK) for reason in var.reasons):
                    found[var] = int(more)
    return found


def _counts(segment: Segment) -> Iterator[Var]:
    """The outermost volume of a product whose innermost is summed over by queries and keys."""
    if len(segment) > 1 and any(SUMMED in reason.text for reason in segment[-1].reasons):
        yield segment[0]
