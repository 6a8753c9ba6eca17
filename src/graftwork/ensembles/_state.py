"""Combiners as data: what they are in JSON, what they hold in tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graftwork.ensembles._combiners import Combiner, MeanCombiner, StackedCombiner, TemperatureCombiner
from graftwork.errors import RunError


def describe_combiner(combiner: Combiner) -> dict[str, Any]:
    """Return plain data from which, with its ``state_dict``, ``combiner_from`` makes the same combiner again."""
    if isinstance(combiner, TemperatureCombiner):
        return {"kind": "temperature", "combiner": describe_combiner(combiner.combiner)}
    if isinstance(combiner, MeanCombiner):
        return {"kind": "mean", "num_members": len(combiner.log_weights)}
    return {
        "kind": "stacked",
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
    try:
        combiner = _blank(description)
        combiner.load_state_dict(dict(tensors))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"combiner: expected what describe_combiner writes, with its tensors, got {description!r}: {error}"
        ) from error
    return combiner.requires_grad_(requires_grad=False).eval()


def _blank(description: Mapping[str, Any]) -> Combiner:
    options = dict(description)
    kind = options.pop("kind")
    if kind == "temperature":
        inner = _blank(options["combiner"])
        if isinstance(inner, TemperatureCombiner):
            raise ValueError("a temperature inside a temperature")
        return TemperatureCombiner(inner, 1.0)
    if kind == "mean":
        return MeanCombiner([1.0] * options["num_members"])
    if kind == "stacked":
        return StackedCombiner(options.pop("num_members"), options.pop("num_features"), **options)
    raise ValueError(f"no combiner of kind {kind!r}")
