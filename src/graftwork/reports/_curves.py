"""Plots for experiments: curves with bands, and bars with intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from graftwork.errors import InputError
from graftwork.reports._format import compact
from graftwork.reports._style import FAINT, INK, MEMBERS, MUTED, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGEND, _LONG = 8, 1e5
"""Most curves that are named inside the plot, more are named below it; numbers from which on ``100 k`` is written."""


class Curve(NamedTuple):
    """One line of `curves_figure`: its mean, and a band from low to high where both are given."""

    label: str
    x: ArrayLike
    mean: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


class Bar(NamedTuple):
    """One bar of `bars_figure`, with an interval where both ends are given."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@styled
def curves_figure(
    series: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[str, float] | None = None,
) -> "Figure":
    """Draw curves, each with the band that its repetitions span.

    Args:
        series: at least one; plain tuples will do.
        xlabel: with its unit.
        ylabel: with its unit.
        title: above the plot.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        reference: a named horizontal line, such as a published number.

    Raises:
        InputError: no curves, or one whose arrays differ in length.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    if not series:
        raise InputError("curves: expected at least one, got none")
    below = max(0, len(series) - _LEGEND) and (len(series) + 1) // 2
    figure = Figure(figsize=(5.2, 3.4 + 0.2 * below), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    dashes = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
    for place, entry in enumerate(series):
        curve = Curve(*entry)
        x, mean = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.mean, dtype=np.float64)
        if x.ndim != 1 or x.shape != mean.shape:
            raise InputError(
                f"curve {curve.label!r}: x and mean must be as long as each other, got {x.shape} and {mean.shape}"
            )
        color, dash = MEMBERS[place % len(MEMBERS)], dashes[(place + place // len(MEMBERS)) % len(dashes)]
        if curve.low is not None and curve.high is not None:
            axes.fill_between(x, np.asarray(curve.low), np.asarray(curve.high), color=color, alpha=0.16, lw=0)
        axes.plot(x, mean, color=color, lw=1.7, ls=dash, label=curve.label, marker="o" if len(x) == 1 else None)
    if reference is not None:
        axes.axhline(reference[1], color=INK, lw=0.9, ls=(0, (1, 2)), label=reference[0])
    if log_x:
        axes.set_xscale("log")
    elif axes.get_xlim()[1] >= _LONG:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value) if value else "0"))
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if below:
        figure.legend(loc="outside lower center", ncols=2)
    else:
        axes.legend(loc="best")
    return figure


@styled
def bars_figure(
    bars: Sequence[Bar],
    *,
    xlabel: str,
    title: str = "",
    highlight: Sequence[str] = (),
    digits: int = 2,
    reference: tuple[str, float] | None = None,
) -> "Figure":
    """Draw horizontal bars with their values and intervals.

    Args:
        bars: at least one, the first at the top; plain tuples will do.
        xlabel: with its unit.
        title: above the plot.
        highlight: labels of the bars that get color; empty: all.
        digits: behind the decimal point of the values.
        reference: a named vertical line, such as a published number.

    Raises:
        InputError: no bars.
    """
    from matplotlib.figure import Figure

    if not bars:
        raise InputError("bars: expected at least one, got none")
    entries = [Bar(*entry) for entry in bars]
    figure = Figure(figsize=(5.2, 0.95 + 0.3 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    for row, bar in enumerate(entries):
        color = MEMBERS[0] if not highlight or bar.label in highlight else FAINT
        axes.barh(row, bar.value, height=0.62, color=color)
        end = bar.value
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [row, row], color=INK, lw=1.3)
            end = max(end, bar.high)
        axes.annotate(
            f"{bar.value:.{digits}f}", (end, row), xytext=(5, 0), textcoords="offset points", va="center", color=MUTED
        )
    if reference is not None:
        axes.axvline(reference[1], color=INK, lw=0.9, ls=(0, (1, 2)), label=reference[0])
        axes.legend(loc="lower right")
    axes.set_yticks(range(len(entries)), [bar.label for bar in entries])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.set_xlabel(xlabel)
    return figure
