"""Stacking by regularised logistic regression."""

import warnings
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.ensembles._combiners import LinearCombiner
from graftwork.ensembles._folds import cross_fit, mean_loss

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C, scikit-learn's inverse strength of the L2 penalty, that are tried."""

_MAX_ITERATIONS = 100
_SMALLEST_SPREAD = 1e-6
"""Features that spread less are constants, and aren't scaled up."""


def fit_linear(
    outputs: Tensor,
    labels: Tensor,
    folds: Tensor,
    *,
    num_classes: int,
    log_probabilities: bool,
    class_weights: Tensor | None = None,
) -> tuple[LinearCombiner, Tensor]:
    """Fit multinomial logistic regression to the outputs of all members, each feature standardised.

    How strongly it is regularised is chosen by cross-fitting: that strength whose held-out examples are most likely.
    Where it reads log-probabilities, the plain mean of them is in the choice, too, and wins equals. So the result is
    never worse than that mean on held-out examples.

    Args:
        outputs: Outputs of the members, float [example, member, feature].
        labels: True class of each example, int64 [example]; each class at least twice.
        folds: Fold of each example, int64 [example].
        num_classes: Number of classes.
        log_probabilities: Whether the outputs are logits, to be read as log-probabilities.
        class_weights: Weight of the examples of each class in all losses, float [class]. None: 1.

    Returns:
        The combiner, and log-probabilities of each example, float [example, class], by one that never saw it.
    """
    make = partial(_regression, num_classes=num_classes, log_probabilities=log_probabilities, weights=class_weights)
    best = float("inf")
    chosen: float | None = None
    held_out = torch.empty(0)
    if log_probabilities:
        held_out = LinearCombiner.mean(outputs.shape[1], num_classes)(outputs)
        best = mean_loss(held_out, labels, class_weights)
    for strength in STRENGTHS:
        found = cross_fit(partial(make, strength=strength), outputs, labels, folds)
        loss = mean_loss(found, labels, class_weights)
        if loss < best:
            best, chosen, held_out = loss, strength, found
    if chosen is None:
        return LinearCombiner.mean(outputs.shape[1], num_classes), held_out
    return make(outputs, labels, strength=chosen), held_out


@torch.no_grad()
def _regression(
    outputs: Tensor,
    labels: Tensor,
    *,
    strength: float,
    num_classes: int,
    log_probabilities: bool,
    weights: Tensor | None,
) -> LinearCombiner:
    _, num_members, num_features = outputs.shape
    combiner = LinearCombiner(num_members, num_features, num_classes=num_classes, log_probabilities=log_probabilities)
    by_class = None if weights is None else dict(enumerate(weights.tolist()))
    weight, bias = _solve(combiner.rows(outputs.double()).numpy(), labels.numpy(), strength, by_class)
    combiner.out.weight.copy_(torch.from_numpy(weight))
    combiner.out.bias.copy_(torch.from_numpy(bias))
    return combiner.requires_grad_(requires_grad=False)


def _solve(
    rows: NDArray[np.float64], labels: NDArray[np.int64], strength: float, weights: Mapping[int, float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [class, feature] and bias [class] for features [example, feature] as they are."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(spread > _SMALLEST_SPREAD, spread, 1.0)
    model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS, class_weight=weights)
    # One thread: the number of them would change the last bits. A solver that stops early regularises, too.
    with warnings.catch_warnings(), _blas().limit(limits=1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((rows - mean) / scale, labels)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # of two classes scikit-learn gives the difference
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        weight = weight / scale
        return weight, bias - weight @ mean


@cache
def _blas() -> Any:
    """The libraries of linear algebra that this process has loaded: looking for them takes as long as a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
