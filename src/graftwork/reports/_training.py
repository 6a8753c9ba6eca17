"""Loss and learning rate, from the first update on."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.reports._format import compact
from graftwork.reports._read import RunData
from graftwork.reports._style import GRID, INK, MEMBERS, styled
from graftwork.runs import LossRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMOOTH = 9
"""Recorded losses that the line goes through the mean of."""
_MOST_LINES = 50
"""Generations whose ends are marked."""


@styled
def training_figure(run: RunData) -> "Figure":
    """Loss of single batches (dots) and their moving mean, above the factor of the schedule on the learning rates."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.set_title("Loss of a batch, and rate (1: the recipe's)")
    for stage, name, color, dash in (
        ("search", "search", MEMBERS[0], "-"),
        ("control", "seed network alone", INK, (0, (4, 2))),
    ):
        rows = [row for row in run.losses if row.stage == stage]
        if rows:
            _curves(above, below, rows, name, color, dash)
    for one in run.rounds[:-1][:_MOST_LINES]:
        for axes in (above, below):
            axes.axvline(one.step, color=GRID, lw=1, zorder=0)
    above.set_ylabel("loss")
    below.set_ylabel("rate")
    below.set_ylim(bottom=0)
    below.set_xlim(left=0)
    below.set_xlabel("updates (lines: generations)")
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value) if value else "0"))
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _curves(above: "Axes", below: "Axes", rows: list[LossRow], name: str, color: str, dash: Any) -> None:
    steps, losses = np.array([row.step for row in rows]), np.array([row.loss for row in rows])
    above.plot(steps, losses, ".", ms=2.5, color=color, alpha=0.35)
    above.plot(steps, _smooth(losses), color=color, lw=1.7, ls=dash, label=name)
    below.plot(steps, [row.rate for row in rows], color=color, lw=1.4, ls=dash)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each value and its neighbours, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places, reach = np.arange(len(values)), _SMOOTH // 2
    near = np.minimum(reach, np.minimum(places, len(values) - 1 - places))
    smooth: NDArray[np.float64] = (sums[places + near + 1] - sums[places - near]) / (2 * near + 1)
    return smooth
