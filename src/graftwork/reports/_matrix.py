"""The confusion matrix of the page: named at any number of classes, what is confused side by side."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 20
"""So many classes are shown at once; of more only those in a confusion, and folded up."""

_LETTER, _LONGEST = 6.2, 22
"""Width of a letter, in pixels, and letters of a name at most."""


def confusion_order(confusion: NDArray[np.int64]) -> list[int]:
    """Order classes so that those taken for each other stand side by side.

    Begins with the class that is most often in a confusion, and goes on with the one most often confused with the last.

    Args:
        confusion: Number of examples, int64 [true class, predicted class].

    Returns:
        Every class once.
    """
    both = confusion + confusion.T
    np.fill_diagonal(both, 0)
    totals = both.sum(axis=1)
    left, order = set(range(len(both))), list[int]()
    while left:
        last = order[-1] if order else None
        order.append(max(left, key=lambda one: (0 if last is None else both[last, one], totals[one], -one)))
        left.remove(order[-1])
    return order


def matrix_view(confusion: NDArray[np.int64], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Lay out a confusion matrix for the page: names, cells that hold examples, and what each says.

    Args:
        confusion: Number of examples, int64 [true class, predicted class].
        class_names: Names of the classes.
    """
    order = confusion_order(confusion)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    if len(order) > FEW:
        confused = wrong.sum(axis=0) + wrong.sum(axis=1) > 0
        order = [one for one in order if confused[one]]
    shares = wrong / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    top = max(0.02, float(shares.max(initial=0)))
    taken = confusion[np.ix_(order, order)]
    names = [class_names[one] for one in order]
    side = max(18, 7 + 6 * len(str(taken.max(initial=0))))
    margin = 14 + _LETTER * max((min(len(name), _LONGEST) for name in names), default=0)
    return {
        "names": [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names],
        "cells": [_cell(confusion, order, place, class_names, top) for place in np.argwhere(taken > 0).tolist()],
        "side": side,
        "margin": round(margin),
        "size": round(margin) + side * len(order) + 2,
        "folded": len(class_names) > FEW,
        "left_out": len(class_names) - len(order),
    }


def _cell(
    confusion: NDArray[np.int64], order: list[int], place: list[int], class_names: tuple[str, ...], top: float
) -> dict[str, Any]:
    row, column = place
    true, taken = order[row], order[column]
    count, total = int(confusion[true, taken]), int(confusion[true].sum())
    share = count / total
    said = "told right" if true == taken else f"taken for {class_names[taken]}"
    return {
        "row": row,
        "column": column,
        "count": count,
        "right": true == taken,
        "strength": 0.1 if true == taken else round(0.15 + 0.85 * share / top, 3),
        "says": f"{class_names[true]} {said}: {count:,} of {total:,} ({share:.1%})",
    }
