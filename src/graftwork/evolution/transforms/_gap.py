"""output_gap: how much a growth changes the function."""

import torch
from torch import Tensor

from graftwork import numerics
from graftwork.networks import Member
from graftwork.networks.execution import cancelled_scale


@torch.no_grad()
def output_gap(parent: Member, child: Member, x: Tensor) -> float:
    """How far two members are apart as functions, relative to the size of what they compute.

    ``max|Δ| / max(max|y|, largest sum of the terms that cancel)``; with the second term, a network whose output is
    zero is no special case. A growth that preserves the function gives exactly 0 in reference form, and in
    fused form a gap within rounding: below 1e-4 in float32 and 1e-12 in float64 on the networks of our tests.

    Args:
        parent: The member before; run in its present mode (training mode normalises by this batch).
        child: The member after; run in its own mode.
        x: Normalised images [B, C, H, W].

    Returns:
        A number ≥ 0; infinity where an output is not finite.
    """
    known = set(parent.genome.ids)
    new = frozenset(block_id for block_id in child.genome.ids if block_id not in known)
    settings = child.settings("train" if child.training else "evaluate")
    scale = cancelled_scale(child.genome, x, child.weights, settings, new)
    return numerics.output_gap(parent(x), child(x), cancelled=scale)
