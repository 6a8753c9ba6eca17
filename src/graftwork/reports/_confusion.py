"""Which classes the winner takes for which, and its worst mistakes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics import confusion_matrix
from graftwork.reports._matrix import confusion_order
from graftwork.reports._read import Predictions
from graftwork.reports._style import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrongly classified example.

    Attributes:
        position: in the predictions.
        index: row in the data set's images.
        confidence: probability given to the wrong class.
        true_probability: probability given to the right one.
    """

    position: int
    index: int
    label: int
    predicted: int
    confidence: float
    true_probability: float


def worst_mistakes(predictions: Predictions, member_id: str, *, count: int = 18) -> list[Mistake]:
    """The mistakes made with the most confidence, the worst first; ties in order of the examples."""
    shares = predictions.probabilities(member_id)
    predicted = predictions.predicted(member_id)
    wrong = np.flatnonzero(predicted != predictions.labels)
    order = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")][:count]
    return [
        Mistake(
            position=position,
            index=int(predictions.index[position]),
            label=int(predictions.labels[position]),
            predicted=int(predicted[position]),
            confidence=float(shares[position, predicted[position]]),
            true_probability=float(shares[position, predictions.labels[position]]),
        )
        for position in order.tolist()
    ]


def confused_pairs(confusion: NDArray[np.int64], *, count: int = 8) -> list[tuple[int, int, int]]:
    """The most frequent confusions as (true class, predicted class, examples), the most frequent first."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, errors.shape)
    pairs = zip(rows.tolist(), columns.tolist(), errors[rows, columns].tolist(), strict=True)
    return [pair for pair in pairs if pair[2] > 0]


@styled
def confusion_figure(predictions: Predictions, member_id: str, class_names: tuple[str, ...]) -> "Figure":
    """True against predicted class; color is the share of the true class, the diagonal is left pale.

    Classes that are confused stand side by side. Up to 20 classes are named and counted in their cells; more are shown
    as a map.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    count = len(class_names)
    confusion = confusion_matrix(predictions.predicted(member_id), predictions.labels, count)
    order = confusion_order(confusion)
    confusion, class_names = confusion[np.ix_(order, order)], tuple(class_names[one] for one in order)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    errors = np.where(np.eye(count, dtype=bool), np.nan, shares)
    top = max(0.02, float(np.nan_to_num(errors).max()))
    figure = Figure(figsize=(5.2, 4.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"What {member_id} takes for what, on test")
    warm = LinearSegmentedColormap.from_list("mistakes", ["#fdf3e7", "#f2a65a", "#b5330b"])
    shown = np.ma.masked_where((errors == 0) | np.isnan(errors), errors)
    axes.imshow(shown, cmap=warm, vmin=0, vmax=top, interpolation="nearest")
    axes.grid(visible=False)
    cells = range(count)
    if count <= 20:
        names = [name if len(name) <= 14 else name[:13] + "…" for name in class_names]
        axes.set_xticks(
            cells, names, rotation=45 if max(map(len, names)) > 3 else 0, ha="right", rotation_mode="anchor"
        )
        if max(map(len, names)) <= 3:
            axes.set_xticks(cells, names)
        axes.set_yticks(cells, names)
        _count_cells(axes, confusion, errors, top)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color="#0072b2", lw=0.8, alpha=0.25 if count <= 20 else 0.6)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _count_cells(axes: "Axes", confusion: NDArray[np.int64], errors: NDArray[np.float64], top: float) -> None:
    size = 7.5 if len(confusion) <= 12 else 5.5
    for row, column in np.argwhere(confusion > 0).tolist():
        right = row == column
        deep = not right and errors[row, column] > 0.55 * top
        color = "#0072b2" if right else "#ffffff" if deep else "#18202a"
        axes.text(
            column, row, str(confusion[row, column]), color=color, fontsize=size, ha="center", va="center",
            fontweight="bold" if right else "normal",
        )  # fmt: skip
