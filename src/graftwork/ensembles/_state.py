"""Combiners as data: what they are in JSON, what they hold in tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graftwork._files import damaged
from graftwork.ensembles._combiners import (
    CascadeCombiner,
    Combiner,
    LinearCombiner,
    MeanCombiner,
    NetworkCombiner,
    TemperatureCombiner,
)


def describe_combiner(combiner: Combiner) -> dict[str, Any]:
    """Return plain data from which, with its ``state_dict``, ``combiner_from`` makes the same combiner again."""
    if isinstance(combiner, TemperatureCombiner):
        return {"kind": "temperature", "combiner": describe_combiner(combiner.combiner)}
    if isinstance(combiner, MeanCombiner):
        return {"kind": "mean", "num_members": len(combiner.log_weights)}
    if isinstance(combiner, CascadeCombiner):
        return {"kind": "cascade", "num_members": len(combiner.temperatures)}
    if isinstance(combiner, LinearCombiner):
        return {
            "kind": "linear",
            "num_members": combiner.num_members,
            "num_features": combiner.num_features,
            "num_classes": combiner.out.out_features,
            "log_probabilities": combiner.log_probabilities,
        }
    return {
        "kind": "network",
        "num_members": combiner.num_members,
        "num_features": combiner.mean.shape[1],
        "num_classes": combiner.out.out_features,
        "hidden_features": combiner.hidden.out_features,
        "residual": combiner.residual,
    }


def combiner_from(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Combiner:
    """Make a combiner from its description and its tensors.

    Args:
        description: Plain data, as ``describe_combiner`` returns it.
        tensors: The combiner's ``state_dict``.

    Returns:
        A module without gradients, in evaluation mode.

    Raises:
        RunError: If description and tensors don't fit together.
    """
    with damaged("combiner"):
        combiner = _blank(description, sum(tensor.numel() for tensor in tensors.values()))
        combiner.load_state_dict(dict(tensors))
    return combiner.requires_grad_(requires_grad=False).eval()


def _blank(description: Mapping[str, Any], limit: int) -> Combiner:
    """A combiner of the sizes that are told, which its tensors will fill; ``limit``: the numbers that these hold."""
    options = dict(description)
    kind = options.pop("kind")
    if kind == "temperature":
        inner = _blank(options["combiner"], limit)
        if isinstance(inner, TemperatureCombiner | CascadeCombiner):
            raise ValueError(f"a {options['combiner']['kind']} inside a temperature")
        return TemperatureCombiner(inner, 1.0)
    if kind not in ("mean", "linear", "network", "cascade"):
        raise ValueError(f"no combiner of kind {kind!r}")
    residual, log_probabilities = (bool(options.pop(name, False)) for name in ("residual", "log_probabilities"))
    if not all(type(size) is int and 0 < size <= limit for size in options.values()):
        raise ValueError(f"sizes beyond the {limit:,} numbers that are there: {options}")
    if kind == "cascade":
        return CascadeCombiner([1.0] * options["num_members"], 0.0)
    if kind == "mean":
        return MeanCombiner([1.0] * options["num_members"])
    members, features, classes = (options[name] for name in ("num_members", "num_features", "num_classes"))
    hidden = options["hidden_features"] if kind == "network" else classes
    if max(members * features, classes if kind == "network" else 1) * hidden > limit:
        raise ValueError(f"more weights than the {limit:,} numbers that are there: {options}")
    if kind == "linear":
        return LinearCombiner(members, features, num_classes=classes, log_probabilities=log_probabilities)
    return NetworkCombiner(members, features, num_classes=classes, hidden_features=hidden, residual=residual)
