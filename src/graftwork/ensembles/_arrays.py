"""Ensembles as functions of arrays: the mean, forward selection, temperature."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.ensembles._check import check_blend
from graftwork.errors import ConfigError, InputError

_FLOOR = float(np.finfo(np.float64).tiny)


def mean_probabilities(
    probabilities: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Average the members' probabilities.

    Args:
        probabilities: Probability of each class, float [example, member, class]; each row of classes sums to 1.
        weights: Weight of each member, float [member], not negative, not all zero; scaled to sum to 1. None: equal.

    Returns:
        The mean, float64 [example, class].

    Raises:
        InputError: If there are not three axes, or the weights don't fit.
    """
    if probabilities.ndim != 3 or probabilities.shape[1] == 0:
        raise InputError(f"probabilities: expected [example, member, class], got shape {list(probabilities.shape)}")
    if weights is None:
        return np.asarray(probabilities.mean(axis=1, dtype=np.float64))
    if weights.shape != probabilities.shape[1:2] or not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise InputError(f"weights: expected {probabilities.shape[1]} numbers ≥ 0 with a positive sum, got {weights!r}")
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    return np.asarray(np.einsum("emc,m->ec", probabilities.astype(np.float64), shares))


@dataclass(frozen=True, eq=False, kw_only=True)
class ForwardSelection:
    """What forward selection chose.

    Attributes:
        weights: How often each member was chosen up to the best step, as shares of 1, float64 [member].
        order: Members in the order of choice, up to the best step.
        scores: Score after every step that was tried; see ``criterion``.
    """

    weights: NDArray[np.float64]
    order: tuple[int, ...]
    scores: tuple[float, ...]


def greedy_forward_selection(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    num_steps: int = 20,
    criterion: Literal["nll", "accuracy"] = "nll",
    weights: NDArray[np.floating] | None = None,
) -> ForwardSelection:
    """Build an ensemble by repeatedly adding the member that helps most (Caruana et al. 2004).

    Members may be added repeatedly, which gives them weight. Every step is taken, even one that harms; the result
    is the ensemble after the best step, the shortest of equals.

    Args:
        probabilities: Probability of each class on the blend split, float [example, member, class].
        labels: True class of each example, int64 [example].
        num_steps: Number of members to add, at least 1. More steps make finer weights.
        criterion: ``nll`` minimizes the negative log-likelihood, and ``accuracy`` maximizes the number of correct
            examples, equals by likelihood. Full ties go to the lower member.
        weights: Weight of each example in both criteria, float [example]. None: 1.

    Raises:
        InputError: If shapes don't fit, a label names no class, or there are no examples.
        ConfigError: If ``num_steps`` is below 1, or the criterion is unknown.
    """
    check_blend(probabilities, labels)
    if num_steps < 1 or criterion not in {"nll", "accuracy"}:
        raise ConfigError(
            f"num_steps and criterion: expected a number >= 1, and nll or accuracy, got {num_steps!r} and {criterion!r}"
        )
    candidates = probabilities.astype(np.float64).swapaxes(0, 1)  # [member, example, class]
    shares: NDArray[np.float64] = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    total = np.zeros_like(candidates[0])
    order: list[int] = []
    scores: list[tuple[float, float]] = []
    for step in range(1, num_steps + 1):
        trials = [_score((total + one) / step, labels, criterion, shares) for one in candidates]
        chosen = trials.index(max(trials))
        order.append(chosen)
        scores.append(trials[chosen])
        total += candidates[chosen]
    best = scores.index(max(scores)) + 1
    counts = np.bincount(order[:best], minlength=len(candidates))
    return ForwardSelection(
        weights=counts / best, order=tuple(order[:best]), scores=tuple(score for score, _ in scores)
    )


def _score(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], criterion: str, weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Return (score, tie-break) of [example, class]; more is better, whatever the order of examples."""
    if labels.max() >= probabilities.shape[1]:
        raise InputError(f"labels: expected classes in 0 … {probabilities.shape[1] - 1}, got up to {labels.max()}")
    likelihood = probabilities[np.arange(len(labels)), labels]
    # Rounded so that (p + p + p) / 3, which isn't quite p, is no progress.
    whole = math.fsum(weights)
    mean_log = round(math.fsum(weights * np.log(np.maximum(likelihood, _FLOOR))) / whole, 12)
    if criterion == "nll":
        return mean_log, 0.0
    return math.fsum(weights[probabilities.argmax(axis=1) == labels]) / whole, mean_log


def fit_temperature(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, weights: NDArray[np.floating] | None = None
) -> float:
    """Find the temperature T that minimizes the negative log-likelihood of softmax(logits / T) (Guo et al. 2017).

    The likelihood is convex in 1/T, so the slope is bisected. Scaling keeps the order of classes.

    Args:
        logits: Logits, float [example, class]; log-probabilities are logits too.
        labels: True class of each example, int64 [example].
        weights: Weight of each example in the likelihood, float [example]. None: 1.

    Returns:
        T in [0.01, 100]; an end of that range where the best lies beyond, as when every example is right.

    Raises:
        InputError: If shapes don't fit, values aren't finite, or a label names no class.
    """
    check_blend(logits[:, None], labels)
    if labels.max() >= logits.shape[1]:
        raise InputError(f"labels: expected classes in 0 … {logits.shape[1] - 1}, got up to {labels.max()}")
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    true_mean = np.average(scores[np.arange(len(labels)), labels], weights=weights)
    low, high = math.log(0.01), math.log(100)  # of 1/T
    for _ in range(60):
        middle = (low + high) / 2
        powers = np.exp(scores * math.exp(middle))
        expected = (powers * scores).sum(axis=1) / powers.sum(axis=1)
        if np.average(expected, weights=weights) < true_mean:  # the slope of the loss in 1/T is their difference
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)
