"""How different the members' mistakes are, generation by generation."""

from typing import TYPE_CHECKING

from graftwork.reports._read import RunData
from graftwork.reports._style import INK, MEMBERS, PAPER, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_ACCURACIES = (
    ("oracle_accuracy", "oracle: any member is right", MEMBERS[2]),
    ("vote_accuracy", "majority vote", MEMBERS[3]),
    ("best_accuracy", "best member", MEMBERS[0]),
    ("mean_accuracy", "mean of members", INK),
)
_PAIRS = (
    ("disagreement", "disagreement", MEMBERS[1]),
    ("double_fault", "both wrong (double fault)", MEMBERS[6]),
)


def has_diversity(run: RunData) -> bool:
    """Whether at least two generations recorded how different their members were."""
    return sum(bool(one.measures) for one in run.rounds) >= 2


@styled
def diversity_figure(run: RunData) -> "Figure":
    """What the population could get right together, above; how often pairs of members differ, below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.set_title("Diversity of the population, on validation")
    _lines(above, run, _ACCURACIES)
    above.set_ylabel("accuracy, %")
    _lines(below, run, _PAIRS)
    below.set_ylabel("share, %")
    below.set_xlabel("generation")
    below.set_ylim(bottom=0)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any("q_statistic" in one.measures for one in run.rounds):
        _q_axis(below, run)
    return figure


def _lines(axes: "Axes", run: RunData, measures: tuple[tuple[str, str, str], ...]) -> None:
    for name, label, color in measures:
        points = [(one.generation, 100 * one.measures[name]) for one in run.rounds if name in one.measures]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=color, lw=1.5, ms=3, label=label)
    axes.legend(loc="best", frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.8)


def _q_axis(axes: "Axes", run: RunData) -> None:
    points = [(one.generation, one.measures["q_statistic"]) for one in run.rounds if "q_statistic" in one.measures]
    last = points[-1][1]
    axes.set_title(f"Q statistic at the end: {last:.2f} (1: same mistakes)", fontsize=9.9)
