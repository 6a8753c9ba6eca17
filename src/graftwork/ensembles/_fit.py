"""Ensembles by name: fitting a combiner on the blend split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.ensembles._arrays import fit_temperature, greedy_forward_selection
from graftwork.ensembles._cascade import fit_cascade
from graftwork.ensembles._check import check_blend, check_stackable
from graftwork.ensembles._combiners import (
    CascadeCombiner,
    Combiner,
    LinearCombiner,
    MeanCombiner,
    NetworkCombiner,
    TemperatureCombiner,
)
from graftwork.ensembles._folds import cross_fit, deal_folds, labels_of_groups, mean_loss
from graftwork.ensembles._linear import fit_linear
from graftwork.ensembles._network import NetworkSettings, fit_network
from graftwork.errors import ConfigError, did_you_mean


@dataclass(frozen=True, eq=False, kw_only=True)
class CombinerFit:
    """A fitted combiner and how it would do on new examples.

    Attributes:
        combiner: Module without gradients, in evaluation mode.
        held_out: Log-probabilities of each example of the blend split by a combiner that was fitted without it, float
            [example, class].
    """

    combiner: Combiner
    held_out: Tensor

    def held_out_nll(self, labels: Tensor, class_weights: Tensor | None = None) -> float:
        """Mean negative log-likelihood of the held-out predictions, in nats; arguments as in ``fit_combiner``."""
        return mean_loss(self.held_out, labels, class_weights)


@dataclass(frozen=True, eq=False)
class _Blend:
    """What a method is fitted on; see ``fit_combiner``."""

    outputs: Tensor
    labels: Tensor
    group_labels: Tensor
    folds: Tensor
    generator: torch.Generator
    class_weights: Tensor | None


Fitted = tuple[MeanCombiner | LinearCombiner | NetworkCombiner | CascadeCombiner, Tensor]
"""A combiner, and the log-probabilities [example, class] by combiners that were fitted without the example."""


def _fit_mean(blend: _Blend) -> Fitted:
    combiner = MeanCombiner([1.0] * blend.outputs.shape[1])
    return combiner, combiner(blend.outputs)


def _fit_greedy(blend: _Blend, **options: Any) -> Fitted:
    def fit(outputs: Tensor, labels: Tensor) -> MeanCombiner:
        probabilities = F.softmax(outputs.double(), dim=2).numpy()
        weights = None if blend.class_weights is None else blend.class_weights[labels].numpy()
        selection = greedy_forward_selection(probabilities, labels.numpy(), weights=weights, **options)
        return MeanCombiner(selection.weights.tolist())

    return fit(blend.outputs, blend.labels), cross_fit(fit, blend.outputs, blend.labels, blend.folds)


def _fit_stacked(blend: _Blend, *, num_classes: int | None = None) -> Fitted:
    classes = blend.outputs.shape[2] if num_classes is None else num_classes
    check_stackable(blend.group_labels, classes)
    return fit_linear(
        blend.outputs,
        blend.labels,
        blend.folds,
        num_classes=classes,
        log_probabilities=num_classes is None,
        class_weights=blend.class_weights,
    )


def _fit_stacked_network(blend: _Blend, **options: Any) -> Fitted:
    check_stackable(blend.group_labels, blend.outputs.shape[2])
    fit = fit_network(
        blend.outputs,
        blend.labels,
        num_classes=blend.outputs.shape[2],
        generator=blend.generator,
        settings=NetworkSettings(**options),
        folds=blend.folds,
        class_weights=blend.class_weights,
    )
    return fit.combiner, fit.held_out


def _fit_cascade(blend: _Blend, *, costs: Sequence[float] | None = None) -> Fitted:
    costs = range(1, blend.outputs.shape[1] + 1) if costs is None else costs

    def fit(outputs: Tensor, labels: Tensor) -> CascadeCombiner:
        return fit_cascade(outputs, labels, costs=costs, class_weights=blend.class_weights)

    return fit(blend.outputs, blend.labels), cross_fit(fit, blend.outputs, blend.labels, blend.folds)


COMBINERS: Mapping[str, Callable[..., Fitted]] = MappingProxyType(
    {
        "mean": _fit_mean,
        "greedy": _fit_greedy,
        "stacked": _fit_stacked,
        "stacked-network": _fit_stacked_network,
        "cascade": _fit_cascade,
    }
)
"""Methods by the name that ``--method`` takes."""


def fit_combiner(
    method: str,
    outputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    calibrated: bool = False,
    class_weights: Tensor | None = None,
    groups: Tensor | None = None,
    **options: Any,
) -> CombinerFit:
    """Fit the combiner of a method on the blend split, which neither training nor selection has seen.

    Args:
        method: A key of ``COMBINERS``.
        outputs: Logits of the frozen members, float [example, member, class]; for ``stacked`` also other features,
            and then with ``num_classes``.
        labels: True class of each example, int64 [example].
        generator: Source of all randomness.
        calibrated: Whether to scale the temperature afterwards. It is fitted on held-out predictions of cross-fitting,
            since a combiner is overconfident on what it was fitted on.
        class_weights: Weight of the examples of each class, float [class]. None: 1.
        groups: Group of each example, int64 [example], such as the patient: no group is on both sides of
            cross-fitting. None: each example is one of its own.
        **options: Options of the method: ``num_steps`` and ``criterion`` of ``greedy_forward_selection``,
            ``num_classes`` of ``stacked`` (None: outputs are logits), ``costs`` of ``cascade`` (see ``fit_cascade``;
            None: each member costs the same more), or the fields of ``NetworkSettings``.

    Raises:
        ConfigError: If the method is unknown, doesn't take these options, or has too few examples.
        InputError: If shapes don't fit, or values aren't finite.
    """
    if method not in COMBINERS:
        hint = did_you_mean(method, COMBINERS)
        raise ConfigError(f"ensemble method: expected one of {', '.join(COMBINERS)}, got {method!r}{hint}")
    check_blend(outputs, labels)
    group_labels, _ = labels_of_groups(labels, groups)
    if len(group_labels) < 2 and (calibrated or method != "mean"):
        raise ConfigError(
            f"ensemble method {method}: expected two examples at least, got {len(group_labels)} (groups, if any); take "
            "mean"
        )
    folds = deal_folds(labels, generator, groups=groups)
    blend = _Blend(outputs.detach(), labels, group_labels, folds, generator, class_weights)
    try:
        combiner, held_out = COMBINERS[method](blend, **options)
    except TypeError as error:
        raise ConfigError(
            f"ensemble method {method}: expected options that it takes, got {options!r}: {error}"
        ) from error
    if not calibrated or isinstance(combiner, CascadeCombiner):  # whose members are calibrated one by one
        return CombinerFit(combiner=combiner.eval(), held_out=held_out)

    def temperature_of(log_probabilities: Tensor, labels: Tensor) -> float:
        weights = None if class_weights is None else class_weights[labels].numpy()
        return fit_temperature(log_probabilities.double().numpy(), labels.numpy(), weights=weights)

    def rescale(outputs: Tensor, labels: Tensor) -> TemperatureCombiner:
        return TemperatureCombiner(MeanCombiner([1.0]), temperature_of(outputs[:, 0], labels))

    found = TemperatureCombiner(combiner, temperature_of(held_out, labels)).eval()
    return CombinerFit(combiner=found, held_out=cross_fit(rescale, held_out[:, None], labels, blend.folds))
