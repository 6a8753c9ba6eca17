"""The envelope: for every budget, the best of several sizes trained from scratch with schedules fitted to it."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise


def lower_envelope(curves: Mapping[str, Mapping[float, float]]) -> dict[float, tuple[float, str]]:
    """The lowest loss at every budget that all sizes were given.

    Args:
        curves: Size → budget in FLOPs → final loss.

    Returns:
        Budget → (loss, size that reached it), by rising budget.
    """
    shared = set.intersection(*(set(curve) for curve in curves.values()))
    return {budget: min((curve[budget], size) for size, curve in curves.items()) for budget in sorted(shared)}


def flops_to_reach(loss: float, envelope: Sequence[tuple[float, float]]) -> float:
    """FLOPs at which the envelope reaches a loss, by straight lines over the logarithm of FLOPs.

    Args:
        loss: Loss to reach.
        envelope: (FLOPs, loss) by rising FLOPs, at least one; a point that is worse than a cheaper one is passed over.

    Returns:
        FLOPs; ``inf`` where the whole envelope stays above the loss (more than its largest budget would be needed),
        and 0 where all of it lies below (less than its smallest budget would do).
    """
    points: list[tuple[float, float]] = []
    for flops, value in envelope:
        if not points or value < points[-1][1]:
            points.append((flops, value))
    if loss > points[0][1]:
        return 0.0
    if loss == points[0][1]:
        return points[0][0]
    for (f0, l0), (f1, l1) in pairwise(points):
        if l1 <= loss:
            share = (l0 - loss) / (l0 - l1)
            return math.exp(math.log(f0) + share * (math.log(f1) - math.log(f0)))
    return math.inf


def loss_at(flops: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """The loss of a curve, by straight lines over the logarithm of FLOPs.

    Args:
        flops: FLOPs.
        curve: (FLOPs, loss) by rising FLOPs.

    Returns:
        The loss; None outside of the curve.
    """
    for (f0, l0), (f1, l1) in pairwise(curve):
        if f0 <= flops <= f1:
            return l0 + (l1 - l0) * math.log(flops / f0) / math.log(f1 / f0)
    return None
