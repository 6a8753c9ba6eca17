"""Cross-fitting: every example predicted by a combiner that was fitted without it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import InputError

NUM_FOLDS = 5

Predictor = Callable[[Tensor], Tensor]
"""Function of outputs [example, member, feature] that returns log-probabilities [example, class]."""


def labels_of_groups(labels: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Class of each group, that of its first example.

    Args:
        labels: Class of each example, int64 [example].
        groups: Group of each example, any int64 [example]; None: each is one of its own.

    Returns:
        Class of each group, int64 [group], and the place of each example's group there, int64 [example].

    Raises:
        InputError: If there is not one group for each example.
    """
    places = torch.arange(len(labels))
    if groups is None:
        return labels, places
    if groups.shape != labels.shape or groups.is_floating_point():
        raise InputError(
            f"groups: expected one whole number for each of {len(labels)} examples, got {groups.dtype} of shape "
            f"{list(groups.shape)}"
        )
    numbers, of_example = torch.unique(groups, return_inverse=True)
    first = torch.full((len(numbers),), len(labels)).scatter_reduce(0, of_example, places, "amin")
    return labels[first], of_example


def deal_folds(
    labels: Tensor, generator: torch.Generator, *, groups: Tensor | None = None, num_folds: int = NUM_FOLDS
) -> Tensor:
    """Deal examples into folds at random, the examples of each class evenly, and those of a group into one.

    A class that two groups or more have (see `labels_of_groups`) is in the rest of every fold.

    Args:
        labels: Class of each example, int64 [example].
        generator: Source of all randomness.
        groups: Group of each example, int64 [example], such as the patient: what is fitted on some images of a group
            tells its others too well. None: each example is one of its own.
        num_folds: Number of folds.

    Returns:
        Fold of each example, int64 [example].
    """
    labels, of_example = labels_of_groups(labels, groups)
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]  # by class, and at random within
    folds = torch.empty_like(order)
    folds[order] = torch.arange(len(order)) % num_folds
    return folds[of_example]


def cross_fit(fit: Callable[[Tensor, Tensor], Predictor], outputs: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """Predict each fold by what was fitted on the others.

    Args:
        fit: Function of outputs and labels that returns a fitted predictor.
        outputs: Outputs of the members, float [example, member, feature].
        labels: True class of each example, int64 [example].
        folds: Fold of each example, int64 [example]; at least two different ones.

    Returns:
        Log-probabilities, float [example, class].
    """
    numbers = sorted(set(folds.tolist()))
    parts = [(folds == fold, fit(outputs[folds != fold], labels[folds != fold])) for fold in numbers]
    predicted = [(where, predict(outputs[where])) for where, predict in parts]
    held_out = predicted[0][1].new_empty(len(labels), predicted[0][1].shape[1])
    for where, values in predicted:
        held_out[where] = values
    return held_out


def mean_loss(log_probabilities: Tensor, labels: Tensor, class_weights: Tensor | None) -> float:
    """Mean negative log-likelihood in nats, summed in double precision; weights float [class], None: 1."""
    weights = None if class_weights is None else class_weights.double()
    return float(F.nll_loss(log_probabilities.double(), labels, weights))
