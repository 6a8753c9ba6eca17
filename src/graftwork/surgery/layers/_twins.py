"""Copies whose branches end in twins: two halves of the last volume that start alike and cancel."""

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout
from graftwork.surgery._space import Var, atoms


def twin_volume(graph: ChannelGraph, entry: str, weight: str) -> Var | None:
    """Return the volume that a branch's last projection sums over and that can be made of twins; None where none can.

    It is the innermost one whose size is even: the width of heads rather than their number, which stays what it was.

    Args:
        graph: Channel graph of the model.
        entry: Path of the entry.
        weight: Name of the projection's weight.
    """
    found = [var for use in graph.trace.uses[weight] if use.consumed for var in atoms(use.expr)]
    for var in reversed(found):
        touched = graph.touched([var])
        inside = all(name.startswith(f"{entry}.") for name in touched)
        made = [n for n in touched if any(not u.consumed and var in atoms(u.expr) for u in graph.trace.uses[n])]
        if var.size % 2 == 0 and inside and made:
            return var
    return None


def make_twins(graph: ChannelGraph, entry: str, layer: nn.Module, volume: Var) -> None:
    """Let the second half of a volume repeat the first, with the opposite sign where it is summed over.

    A worked example: a hidden volume of four, W its producer, V its consumer::

        W rows      a b c d   →   a b  a  b
        V columns   p q r s   →   p q −p −q

    Args:
        graph: Channel graph of the model.
        entry: Path of the entry that was copied.
        layer: The copy, changed in place.
        volume: The volume.
    """
    half = volume.size // 2
    source = np.concatenate([np.arange(half), np.arange(half)])
    factor = np.concatenate([np.ones(half), -np.ones(half)])
    halves = {volume: Layout(np.arange(volume.size), source, factor, half, volume.size)}
    own: dict[str, Tensor] = dict([*layer.named_parameters(), *layer.named_buffers()])
    with torch.no_grad():
        for name in graph.touched([volume]):
            tensor = own[name.removeprefix(f"{entry}.")]
            for dim, layout in enumerate(graph.layouts(name, halves)):
                if layout.reduced != layout.new_size:
                    tensor.copy_(_repeated(tensor, dim, layout))


def _repeated(tensor: Tensor, dim: int, layout: Layout) -> Tensor:
    _, first = np.unique(layout.source, return_index=True)
    index = torch.as_tensor(first[layout.source], device=tensor.device)
    signs = torch.as_tensor(layout.factor, dtype=tensor.dtype, device=tensor.device)
    return tensor.index_select(dim, index) * signs.reshape([-1 if i == dim else 1 for i in range(tensor.dim())])
