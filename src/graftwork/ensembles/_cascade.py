"""Fitting a cascade: how sure a member has to be for the ones after it not to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from graftwork.ensembles._arrays import fit_temperature
from graftwork.ensembles._combiners import CascadeCombiner
from graftwork.errors import ConfigError

NEVER = 2.0
"""A threshold above every confidence: the last member is always asked."""

_MOST_THRESHOLDS = 500


@dataclass(frozen=True)
class CascadePoint:
    """What a cascade does at one threshold.

    Args:
        threshold: Confidence at which a member settles an example.
        cost: Mean cost of an example.
        accuracy: Share of examples that are right, weighted by class where weights are given.
    """

    threshold: float
    cost: float
    accuracy: float


def fit_cascade(
    outputs: Tensor, labels: Tensor, *, costs: Sequence[float], class_weights: Tensor | None = None
) -> CascadeCombiner:
    """Fit a cascade to members in order of cost.

    Each member's confidence is calibrated by a temperature of its own. The threshold is the one at which these examples
    cost least, among those at which they are told at least as well as by the last member alone.

    Args:
        outputs: Logits, float [example, member, class].
        labels: True class of each example, int64 [example].
        costs: What an example costs that this member settles, those before it included; they rise.
        class_weights: Weight of the examples of each class, float [class]. None: 1.

    Raises:
        ConfigError: If there is not one cost for each member, or they do not rise.
    """
    if len(costs) != outputs.shape[1] or any(one >= then for one, then in pairwise(costs)):
        raise ConfigError(
            f"cascade: expected a cost for each of {outputs.shape[1]} members, in rising order, got {list(costs)}"
        )
    weights = None if class_weights is None else class_weights[labels].double().numpy()
    temperatures = [
        fit_temperature(outputs[:, member].double().numpy(), labels.numpy(), weights=weights)
        for member in range(outputs.shape[1])
    ]
    given = {"costs": costs, "class_weights": class_weights}
    points = cascade_curve(CascadeCombiner(temperatures, NEVER), outputs, labels, **given)  # type: ignore[arg-type]
    fine = [point for point in points if point.accuracy >= points[-1].accuracy]
    best = min(fine, key=lambda point: (point.cost, -point.accuracy))
    return CascadeCombiner(temperatures, best.threshold)


def cascade_curve(
    combiner: CascadeCombiner,
    outputs: Tensor,
    labels: Tensor,
    *,
    costs: Sequence[float],
    class_weights: Tensor | None = None,
    thresholds: Sequence[float] | None = None,
) -> list[CascadePoint]:
    """Accuracy against mean cost at thresholds from 0, the first member alone, to `NEVER`, the last alone.

    Args:
        combiner: The cascade, whose own threshold does not matter.
        outputs: As in `fit_cascade`.
        labels: As in `fit_cascade`.
        costs: As in `fit_cascade`.
        class_weights: As in `fit_cascade`.
        thresholds: Rising thresholds; None: those at which these examples differ, at most 500.
    """
    if thresholds is None:
        thresholds = thresholds_of(combiner, outputs, _MOST_THRESHOLDS)
    weights = torch.ones(len(labels), dtype=torch.float64)
    if class_weights is not None:
        weights = class_weights[labels].double()
    right = (outputs.argmax(dim=2) == labels[:, None]).double()
    price = torch.tensor(list(costs), dtype=torch.float64)
    points = []
    for threshold in thresholds:
        stages = CascadeCombiner(combiner.temperatures.tolist(), threshold).stages(outputs)
        told = right.gather(1, stages[:, None])[:, 0]
        accuracy = float((told * weights).sum() / weights.sum())
        points.append(CascadePoint(threshold, float(price[stages].mean()), accuracy))
    return points


def thresholds_of(combiner: CascadeCombiner, outputs: Tensor, most: int) -> list[float]:
    """Thresholds at which these examples differ: 0, at most so many confidences, evenly drawn by rank, and `NEVER`."""
    found = torch.unique(combiner.confidences(outputs)[:, :-1].double())
    if len(found) > most:
        found = found[torch.linspace(0, len(found) - 1, most).round().long()]
    return [0.0, *found.tolist(), NEVER]
