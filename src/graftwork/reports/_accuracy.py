"""Accuracy while the population grows, and the final standing with its noise."""

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from graftwork.reports._format import compact, percent
from graftwork.reports._read import Birth, RunData
from graftwork.reports._standing import Standing
from graftwork.reports._style import FAINT, INK, MUTED, NEUTRAL, PAPER, member_colors, styled
from graftwork.runs import MemberRow
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Against = Literal["steps", "training_flops", "seconds"]
_FIELDS: Mapping[Against, tuple[str, str]] = {
    "steps": ("step", "updates"),
    "training_flops": ("training_flops", "training FLOPs"),
    "seconds": ("seconds", "seconds"),
}
"""Field of a row, and what it is called."""


@styled
def accuracy_figure(run: RunData, *, against: Against) -> "Figure":
    """Validation accuracy of every member over the search, with the control's curve.

    A child's curve begins at its parent's last point: growth itself changes nothing.

    Args:
        run: what to draw.
        against: updates, training FLOPs, or seconds, of the whole search; the control's begin with it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(5.2, 3.7), layout="constrained")
    axes = figure.add_subplot()
    members = f"Members{run.left_out}" if run.left_out else "Every member"
    field, words = _FIELDS[against]
    axes.set_title(f"{members} on validation, against {words}")
    place: Callable[[MemberRow], float] = attrgetter(field)
    colors = member_colors(run.ranked)
    ancestors = {birth.id for survivor in run.survivors for birth in run.ancestors(survivor)}
    others: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for member_id, scores in run.scores.items():
        if member_id not in run.drawn:
            continue
        start = _graft_point(run, run.births.get(member_id), scores[0])
        points = [(place(score), 100 * score.validation_accuracy) for score in (*([start] if start else []), *scores)]
        if member_id in colors:
            _curve(axes, points, colors[member_id], grafted=start is not None)
        else:
            others[member_id in ancestors] += [*points, (math.nan, math.nan)]
    for kin, points in others.items():  # one line for all that look alike: a hundred take their time
        if points:
            along, heights = zip(*points, strict=True)
            axes.plot(along, heights, color=NEUTRAL if kin else FAINT, lw=1.0, marker="o", ms=2, zorder=2 if kin else 1)
    if run.control:
        began = run.rounds[-1].seconds if against == "seconds" and run.rounds else 0.0  # it follows the search
        x = [max(0.0, place(score) - began) for score in run.control]
        y = [100 * score.validation_accuracy for score in run.control]
        axes.plot(x, y, color=INK, lw=1.5, ls=(0, (4, 2)), marker="D", ms=3, zorder=4)
    _ends(axes, run, colors, place)
    axes.set_ylim(*_limits(run))
    axes.set_xlim(left=0)
    axes.set_xlabel(words)
    axes.set_ylabel("validation accuracy, %")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value) if value else "0"))
    figure.legend(handles=_legend(run, colors), loc="outside lower center", ncols=3, columnspacing=1.2)
    return figure


def _graft_point(run: RunData, birth: Birth | None, first: MemberRow) -> MemberRow | None:
    """Where a member's curve begins: its parent's last score before its own first one."""
    if birth is None or birth.parent is None:
        return None
    before = [score for score in run.scores.get(birth.parent, ()) if score.generation < first.generation]
    return before[-1] if before else None


def _curve(axes: "Axes", points: list[tuple[float, float]], color: str, *, grafted: bool) -> None:
    """The curve of a survivor; where it was grafted, its first point is its parent's."""
    x, y = zip(*points, strict=True)
    if grafted:
        axes.plot(x[:2], y[:2], color=color, lw=0.9, zorder=3)
    axes.plot(x[grafted:], y[grafted:], color=color, lw=1.8, marker="o", ms=3.6, zorder=3)


def _ends(axes: "Axes", run: RunData, colors: dict[MemberId, str], place: Callable[[MemberRow], float]) -> None:
    if run.best is not None and run.best in run.scores:
        last = run.scores[run.best][-1]
        axes.plot(place(last), 100 * last.validation_accuracy, "o", ms=8, mfc="none", mec=colors[run.best], mew=1.5)


def _limits(run: RunData) -> tuple[float, float]:
    values = [100 * score.validation_accuracy for scores in run.scores.values() for score in scores]
    if not values:
        return 0, 100
    highest = max([*values, *(100 * score.validation_accuracy for score in run.control)])
    margin = max(0.5, 0.08 * (highest - min(values)))
    # The control may be scored long before the first member is: its low start would flatten everything else.
    return max(0.0, min(values) - margin), min(100.0 + 0.2 * margin, highest + margin)


def _legend(run: RunData, colors: dict[MemberId, str]) -> "list[Line2D]":
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=colors[i], lw=1.8, marker="o", ms=3.6, label=f"{i} (best)" if i == run.best else str(i))
        for i in run.ranked[:5]
    ]
    if len(run.ranked) > 5:
        entries.append(Line2D([], [], lw=0, label=f"and {len(run.ranked) - 5} more survivors"))
    if len(run.scores) > len(run.ranked):
        entries.append(Line2D([], [], color=NEUTRAL, lw=1, marker="o", ms=2, label="others"))
    if run.control:
        entries.append(Line2D([], [], color=INK, lw=1.5, ls=(0, (4, 2)), marker="D", ms=3, label="seed network alone"))
    return entries


@styled
def standing_figure(run: RunData, standings: list[Standing]) -> "Figure":
    """Test accuracy of survivors, ensembles and control, each with its interval: what is noise and what is not.

    Args:
        run: for the colors.
        standings: at least one, in order from the top.
    """
    from matplotlib.figure import Figure

    shown = standings[:14]
    figure = Figure(figsize=(5.2, 1.0 + 0.28 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("On the test split")
    colors = member_colors(run.ranked)
    for row, standing in enumerate(shown):
        color = colors.get(MemberId(standing.id), INK)
        value = 100 * standing.test_accuracy
        low, high = (100 * bound for bound in standing.interval)
        axes.plot([low, high], [row, row], color=color, lw=2.2, alpha=0.55)
        marker = {"control": "D", "ensemble": "s"}.get(standing.kind, "o")
        axes.plot(value, row, marker, ms=6, color=color, mec=PAPER, mew=0.8)
        axes.annotate(
            percent(standing.test_accuracy),
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=9.9,
        )
    axes.set_yticks(range(len(shown)), [standing.name for standing in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("test accuracy, %, with 95 % intervals")
    return figure
