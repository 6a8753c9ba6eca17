"""Cascades of a run's members: which of them, in which order, what each costs, and the curve of what it gives."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftwork.ensembles import CascadeCombiner, cascade_curve, thresholds_of
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, forward_flops
from graftwork.runs import CascadeResult

_POINTS = 24
"""Thresholds of the curve, beside those of the smallest and of the largest member alone."""


def chain_of(genomes: Sequence[Genome], outputs: Tensor, labels: Tensor, class_weights: Tensor | None) -> list[int]:
    """Members that a cascade asks, in order of cost: each is better on the blend split than all that cost less.

    Args:
        genomes: Genomes of the members.
        outputs: Logits on the blend split, float [example, member, class].
        labels: True class of each example, int64 [example].
        class_weights: Weight of the examples of each class, float [class]; ``None``: 1.
    """
    weights = torch.ones(len(labels)) if class_weights is None else class_weights[labels]
    right = ((outputs.argmax(dim=2) == labels[:, None]) * weights[:, None]).double().sum(dim=0).tolist()
    order = sorted(range(len(genomes)), key=lambda index: (forward_flops(genomes[index]), -right[index], index))
    chain: list[int] = []
    for index in order:
        if not chain or right[index] > right[chain[-1]]:
            chain.append(index)
    return chain


def costs_of(genomes: Sequence[Genome]) -> list[int]:
    """FLOPs of an image that each member of a cascade settles: those before it included, shared prefixes once."""
    return [shared_flops(genomes[: count + 1]) for count in range(len(genomes))]


def describe_cascade(
    names: Sequence[str],
    costs: Sequence[int],
    combiner: CascadeCombiner,
    outputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
) -> CascadeResult:
    """What ``result.json`` says of a cascade.

    Args:
        names: Ids of the members, in order.
        costs: FLOPs as `costs_of` counts them.
        combiner: The fitted cascade.
        outputs: Logits [example, member, class] on ``"blend"``, from which the curve's thresholds are, and on
            ``"validation"`` and ``"test"``.
        labels: True class of each example [example], on the last two.
    """
    stages = combiner.stages(outputs["test"])
    shares = (torch.bincount(stages, minlength=len(names)) / len(stages)).tolist()
    thresholds = sorted({*thresholds_of(combiner, outputs["blend"], _POINTS), float(combiner.threshold)})
    curves = [
        cascade_curve(combiner, outputs[split], labels[split], costs=costs, thresholds=thresholds)
        for split in ("validation", "test")
    ]
    return {
        "threshold": float(combiner.threshold),
        "flops": float(torch.tensor(costs, dtype=torch.float64)[stages].mean()),
        "stages": [
            {"id": name, "flops": cost, "share": share} for name, cost, share in zip(names, costs, shares, strict=True)
        ],
        "curve": [
            {
                "threshold": held.threshold,
                "flops": told.cost,
                "validation_accuracy": held.accuracy,
                "test_accuracy": told.accuracy,
            }
            for held, told in zip(*curves, strict=True)
        ],
    }
