"""Ensembles by name: fitting a combiner on the blend split."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.ensembles._arrays import fit_temperature, greedy_forward_selection
from graftwork.ensembles._check import check_blend
from graftwork.ensembles._combiners import Combiner, MeanCombiner, StackedCombiner, TemperatureCombiner
from graftwork.ensembles._stack import StackSettings, fit_stacked
from graftwork.errors import ConfigError, did_you_mean

Fitted = tuple[MeanCombiner | StackedCombiner, Tensor]
"""A combiner, and the log-probabilities [example, class] with which its temperature can be fitted fairly."""


def _fit_mean(outputs: Tensor, labels: Tensor, generator: torch.Generator) -> Fitted:
    combiner = MeanCombiner([1.0] * outputs.shape[1])
    return combiner, combiner(outputs)


def _fit_greedy(outputs: Tensor, labels: Tensor, generator: torch.Generator, **options: Any) -> Fitted:
    probabilities = F.softmax(outputs.double(), dim=2).numpy()
    selection = greedy_forward_selection(probabilities, labels.numpy(), **options)
    combiner = MeanCombiner(selection.weights.tolist())
    return combiner, combiner(outputs)


def _fit_stacked(
    outputs: Tensor, labels: Tensor, generator: torch.Generator, *, num_classes: int | None = None, **options: Any
) -> Fitted:
    classes = outputs.shape[2] if num_classes is None else num_classes
    fit = fit_stacked(outputs, labels, num_classes=classes, generator=generator, settings=StackSettings(**options))
    return fit.combiner, fit.held_out


def _fit_grafted(outputs: Tensor, labels: Tensor, generator: torch.Generator, **options: Any) -> Fitted:
    return _fit_stacked(outputs, labels, generator, residual=True, **options)


COMBINERS: Mapping[str, Callable[..., Fitted]] = MappingProxyType(
    {
        "mean": _fit_mean,
        "greedy": _fit_greedy,
        "stacked": _fit_stacked,
        "grafted": _fit_grafted,
    }
)
"""Methods by the name that ``--method`` takes. ``grafted`` is ``stacked`` that starts from the mean."""


def fit_combiner(
    method: str,
    outputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    calibrated: bool = False,
    **options: Any,
) -> Combiner:
    """Fit the combiner of a method on the blend split, which neither training nor selection has seen.

    Args:
        method: A key of ``COMBINERS``.
        outputs: Logits of the frozen members, float [example, member, class]; for ``stacked`` also other features,
            and then with ``num_classes``.
        labels: True class of each example, int64 [example].
        generator: Source of all randomness.
        calibrated: Whether to scale the temperature afterwards. A stacker's is fitted on held-out predictions of
            cross-fitting, since it is overconfident on its own training examples.
        **options: Options of the method: ``num_steps`` and ``criterion`` of ``greedy_forward_selection``, or the
            fields of ``StackSettings`` and ``num_classes`` (None: as many as outputs).

    Returns:
        A module without gradients, in evaluation mode.

    Raises:
        ConfigError: If the method is unknown, or doesn't take these options.
        InputError: If shapes don't fit, or values aren't finite.
    """
    if method not in COMBINERS:
        hint = did_you_mean(method, COMBINERS)
        raise ConfigError(f"ensemble method: expected one of {', '.join(COMBINERS)}, got {method!r}{hint}")
    check_blend(outputs, labels)
    outputs = outputs.detach()
    try:
        combiner, held_out = COMBINERS[method](outputs, labels, generator, **options)
    except TypeError as error:
        raise ConfigError(
            f"ensemble method {method}: expected options that it takes, got {options!r}: {error}"
        ) from error
    if not calibrated:
        return combiner.eval()
    temperature = fit_temperature(held_out.double().numpy(), labels.numpy())
    return TemperatureCombiner(combiner, temperature).eval()
