"""How differently members err, and what a group of them could get right.

The pairwise measures are those of Kuncheva & Whitaker, *Measures of Diversity in Classifier Ensembles and Their
Relationship with the Ensemble Accuracy*, Machine Learning 51 (2003), section 2. For two members, N11 counts the
examples that both get right, N00 those that both get wrong, N10 and N01 those that one of them alone gets right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics._check import check_correct, check_predictions


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Summary of a group; pairwise measures are means over pairs.

    Attributes:
        num_members: Number of members in the group.
        mean_accuracy: Mean accuracy of the members.
        best_accuracy: Accuracy of the best member.
        vote_accuracy: Accuracy of the majority vote.
        oracle_accuracy: Share of examples that at least one member gets right.
        disagreement: See ``disagreement``; None for a single member.
        double_fault: See ``double_fault``; None for a single member.
        q_statistic: See ``q_statistic``; None for a single member, or where it is undefined for every pair.
    """

    num_members: int
    mean_accuracy: float
    best_accuracy: float
    vote_accuracy: float
    oracle_accuracy: float
    disagreement: float | None
    double_fault: float | None
    q_statistic: float | None


def diversity(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> Diversity:
    """Measure a group of members on one set of examples.

    Args:
        predicted: Class that each member predicts, int64 [member, example].
        labels: True class of each example, int64 [example].

    Raises:
        InputError: If there are no members, no examples, or different numbers of examples.
    """
    check_predictions(predicted, labels)
    correct = predicted == labels
    check_correct(correct)
    counts = np.count_nonzero(correct, axis=1)
    vote = majority_vote(predicted)
    paired = len(correct) > 1
    pair_q = q_statistic(correct) if paired else float("nan")
    return Diversity(
        num_members=len(correct),
        mean_accuracy=int(counts.sum()) / correct.size,
        best_accuracy=int(counts.max()) / len(labels),
        vote_accuracy=int(np.count_nonzero(vote == labels)) / len(labels),
        oracle_accuracy=oracle_accuracy(correct),
        disagreement=disagreement(correct) if paired else None,
        double_fault=double_fault(correct) if paired else None,
        q_statistic=None if np.isnan(pair_q) else pair_q,
    )


def disagreement(correct: NDArray[np.bool_]) -> float:
    """Mean over pairs of (N01 + N10) / N, where exactly one of the two is right: 0 always agree, 1 never.

    Args:
        correct: Whether each member gets each example right, bool [member, example]; at least two members.

    Raises:
        InputError: If there are fewer than two members, or no examples.
    """
    _, n10, n01, _ = _pair_counts(correct)
    return float((n10 + n01).sum() / (len(n10) * correct.shape[1]))


def double_fault(correct: NDArray[np.bool_]) -> float:
    """Mean over pairs of N00 / N, where both are wrong: the lower, the better they back each other up.

    Arguments and errors are those of ``disagreement``.
    """
    _, _, _, n00 = _pair_counts(correct)
    return float(n00.sum() / (len(n00) * correct.shape[1]))


def q_statistic(correct: NDArray[np.bool_]) -> float:
    """Mean over pairs of Yule's Q = (N11·N00 - N01·N10) / (N11·N00 + N01·N10).

    0 means independent errors, 1 errors on the same examples, and below 0 errors on different ones. Pairs whose
    denominator is 0 (such as two members without errors) have no Q and are left out; NaN if that leaves none.

    Arguments and errors are those of ``disagreement``.
    """
    n11, n10, n01, n00 = _pair_counts(correct)
    alike, apart = n11 * n00, n10 * n01
    defined = alike + apart > 0
    if not defined.any():
        return float("nan")
    return float(((alike - apart)[defined] / (alike + apart)[defined]).mean())


def oracle_accuracy(correct: NDArray[np.bool_]) -> float:
    """Share of examples that at least one member gets right.

    Args:
        correct: Whether each member gets each example right, bool [member, example].

    Raises:
        InputError: If there are no members, or no examples.
    """
    check_correct(correct)
    return float(np.count_nonzero(correct.any(axis=0)) / correct.shape[1])


def majority_vote(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Let members vote; the first member, in row order, whose class is among the tied decides a tie.

    So with the best member in the first row, two members that differ follow the better one.

    Args:
        predicted: Class that each member predicts, int64 [member, example].

    Returns:
        The class with most votes, int64 [example].

    Raises:
        InputError: If there are no members, or a class is negative.
    """
    if predicted.ndim != 2 or len(predicted) == 0 or (predicted.size and predicted.min() < 0):
        raise InputError(
            "predicted: expected classes ≥ 0 [member, example] with at least one member, "
            f"got {predicted.dtype} {list(predicted.shape)}"
        )
    backers = (predicted[:, None] == predicted[None]).sum(axis=0)  # [member, example]: votes for that member's class
    winners: NDArray[np.int64] = predicted[backers.argmax(axis=0), np.arange(predicted.shape[1])]
    return winners.astype(np.int64)


def _pair_counts(correct: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """N11, N10, N01 and N00, each int64 [pair]."""
    check_correct(correct, min_members=2)
    # Whole numbers below 2^53 are exact in float64, whose matrix product is fast.
    right = correct.astype(np.float64)
    both = np.rint(right @ right.T).astype(np.int64)
    first, second = np.triu_indices(len(correct), k=1)
    totals = both.diagonal()
    n11 = both[first, second]
    n10, n01 = totals[first] - n11, totals[second] - n11
    return n11, n10, n01, correct.shape[1] - n11 - n10 - n01
