"""Classification profiles: which example each member gets right, ordered so that the structure can be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics._check import check_correct, check_predictions
from graftwork.metrics._diversity import majority_vote


@dataclass(frozen=True, eq=False, kw_only=True)
class ProfileRow:
    """One row of the picture.

    Attributes:
        name: Label of the row.
        kind: What made the predictions.
        correct: Right or wrong, bool [position], in the order of the profile.
        accuracy: Share of correct predictions.
    """

    name: str
    kind: Literal["member", "vote", "ensemble", "oracle"]
    correct: NDArray[np.bool_]
    accuracy: float

    def runs(self) -> list[tuple[int, int]]:
        """Half-open spans of positions that are right: what to draw, instead of thousands of cells."""
        steps = np.diff(np.concatenate(([False], self.correct, [False])).astype(np.int8))
        return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile:
    """All rows over one order of examples.

    Attributes:
        rows: Rows of the members, in the order given, then of the vote, the ensembles and the oracle.
        order: Example that stands at each position, int64 [position].
        loners: The only member that gets the example right, int64 [position], or -1 if none or several do.
        class_starts: Each class with the position at which it begins; None unless grouped by class.
    """

    rows: tuple[ProfileRow, ...]
    order: NDArray[np.int64]
    loners: NDArray[np.int64]
    class_starts: tuple[tuple[int, int], ...] | None


def order_examples(correct: NDArray[np.bool_], *, groups: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Order examples from those that all members get right to those that none does.

    Examples that equally many members get right are sorted by the set of these members, along the reflected Gray code.
    There, neighboring sets of equal size differ by one exchanged member, so a member's row changes as seldom as
    possible. Examples with the same set keep their own order. The order of one selection can be used for the rows of
    another, to compare them side by side.

    Args:
        correct: Whether each member gets each example right, bool [member, example].
        groups: Group of each example, int64 [example], such as its label: groups are kept together, in ascending
            order. None: one group.

    Returns:
        A permutation of the examples, int64 [example].

    Raises:
        InputError: If there are no members or examples, or ``groups`` is of another length.
    """
    check_correct(correct)
    if groups is not None and groups.shape != correct.shape[1:]:
        raise InputError(
            f"groups: expected one number for each example, shape [{correct.shape[1]}], got shape {list(groups.shape)}"
        )
    # The rank of a code word in the reflected Gray code has as its bits the prefix parities of the word.
    rank_bits = np.logical_xor.accumulate(correct, axis=0)
    num_wrong = len(correct) - correct.sum(axis=0)
    keys = [*rank_bits[::-1], num_wrong]  # lexsort: the last key counts most
    if groups is not None:
        keys.append(groups)
    return np.lexsort(keys).astype(np.int64)


def make_profile(
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    names: Sequence[str],
    ensembles: Mapping[str, NDArray[np.int64]] | None = None,
    by_class: bool = False,
    order: NDArray[np.int64] | None = None,
) -> Profile:
    """Lay out the profile of some members.

    Args:
        predicted: Class that each member predicts, int64 [member, example].
        labels: True class of each example, int64 [example].
        names: Name of each member.
        ensembles: Predictions of ensembles by name, int64 [example]; each gets a row of its own. None: no such rows.
        by_class: Whether examples of one class stand together.
        order: Order of the examples, int64 [example], for comparison; None: the profile's own (``order_examples``).

    Raises:
        InputError: If the numbers of members, names or examples don't fit.
    """
    check_predictions(predicted, labels)
    correct = predicted == labels
    check_correct(correct)
    if len(names) != len(predicted):
        raise InputError(f"names: expected one for each of {len(predicted)} members, got {len(names)}: {list(names)!r}")
    if order is None:
        order = order_examples(correct, groups=labels if by_class else None)
    kinds: list[tuple[str, Literal["member", "vote", "ensemble", "oracle"], NDArray[np.bool_]]]
    kinds = [(name, "member", row) for name, row in zip(names, correct, strict=True)]
    kinds.append(("vote", "vote", majority_vote(predicted) == labels))
    for name, classes in (ensembles or {}).items():
        check_predictions(classes, labels)
        kinds.append((name, "ensemble", classes == labels))
    kinds.append(("oracle", "oracle", correct.any(axis=0)))
    rows = tuple(
        ProfileRow(name=name, kind=kind, correct=row[order], accuracy=int(row.sum()) / len(labels))
        for name, kind, row in kinds
    )
    loners = np.where(correct.sum(axis=0) == 1, correct.argmax(axis=0), -1)[order]
    starts = _class_starts(labels[order]) if by_class else None
    return Profile(rows=rows, order=order, loners=loners.astype(np.int64), class_starts=starts)


def _class_starts(labels: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Class and first position of each class in int64 [position]."""
    classes, starts = np.unique(labels, return_index=True)
    return tuple(zip(classes.tolist(), starts.tolist(), strict=True))
