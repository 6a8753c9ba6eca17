"""What accuracy costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from graftwork.reports._format import compact
from graftwork.reports._read import CONTROL, RunData
from graftwork.reports._standing import standings
from graftwork.reports._style import FAINT, INK, PAPER, member_colors, styled
from graftwork.runs import MemberRow
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


_Marks = tuple[list[tuple[float, float]], list[tuple[float, float, MemberId, str]]]


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, accuracy) that no other point beats at less or equal cost, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


Cost = Literal["flops", "parameters", "latency"]
_WORDS: Mapping[Cost, tuple[str, str]] = {
    "flops": ("FLOPs an image", "FLOPs of one image, forward"),
    "parameters": ("parameters", "parameters"),
    "latency": ("time an image", "milliseconds for one image, measured"),
}


def _cost(run: RunData, entry: MemberRow, cost: Cost) -> float | None:
    """What a scored network costs; ``None`` where its time was not measured: it was at the end of the run."""
    if cost != "latency":
        return float(getattr(entry, cost))
    measured = run.result["latency"]["networks"].get(entry.id) if run.result else None
    return None if measured is None else measured["one"]


@styled
def pareto_figure(run: RunData, *, cost: Cost) -> "Figure":
    """Accuracy against the cost of a network: test as full marks with intervals, validation as light ones.

    Args:
        run: what to draw.
        cost: FLOPs of one forward pass over one image, parameters, or measured milliseconds for one image.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    against, label = _WORDS[cost]
    axes.set_title(f"Accuracy against {against}{run.left_out}")
    for member_id, scores in run.scores.items():
        if member_id in run.drawn and member_id not in run.survivors:
            last = scores[-1]
            if (x := _cost(run, last, cost)) is None:
                continue
            axes.plot(x, 100 * last.validation_accuracy, "o", ms=3.5, color=FAINT, zorder=1)
    tested, labels = _survivors(axes, run, cost)
    front = pareto_front(tested)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=INK, lw=0.9, ls=(0, (1, 2)), zorder=2)
    _control(axes, run, cost)
    cascaded = cost == "flops" and _cascade(axes, run)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if cost == "latency" else compact(value))
    )
    axes.margins(x=0.1, y=0.12)
    _name(axes, labels)
    figure.legend(
        handles=_legend(run, tested=bool(tested), others=cost != "latency", cascade=cascaded),
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _survivors(axes: "Axes", run: RunData, cost: Cost) -> _Marks:
    colors = member_colors(run.ranked)
    standing = {row.id: row for row in standings(run)}
    tested: list[tuple[float, float]] = []
    labels: list[tuple[float, float, MemberId, str]] = []
    for member_id in run.ranked:
        if member_id not in run.scores:
            continue
        last = run.scores[member_id][-1]
        x, validation, color = _cost(run, last, cost), 100 * last.validation_accuracy, colors[member_id]
        if x is None:
            continue
        axes.plot(x, validation, "o", ms=6, mfc=PAPER, mec=color, mew=1.1, alpha=0.75, zorder=3)
        label_at = validation
        if member_id in standing:
            label_at = 100 * standing[member_id].test_accuracy
            tested.append((x, label_at))
            axes.plot([x, x], [validation, label_at], color=color, lw=0.8, alpha=0.6, zorder=2)
            interval = [100 * bound for bound in standing[member_id].interval]
            axes.plot([x, x], interval, color=color, lw=3, alpha=0.25, zorder=2)
            axes.plot(x, label_at, "o", ms=7, color=color, mec=PAPER, mew=0.8, zorder=4)
        labels.append((x, label_at, member_id, color))
    return tested, labels


def _name(axes: "Axes", labels: list[tuple[float, float, MemberId, str]]) -> None:
    """Write names beside marks; where marks stand close, one above the other."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for x, y, name, color in sorted(labels, key=lambda label: label[1]):
        near = [height for place, height in taken if abs(place - x) < 0.12 * (right - left)]
        height = max([y, *(other + 0.085 * (top - bottom) for other in near)])
        taken.append((x, height))
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0}  # or a line would cross the name
        axes.annotate(name, (x, height), xytext=(9, 0), textcoords="offset points", va="center", color=color, bbox=box)


def _control(axes: "Axes", run: RunData, cost: Cost) -> None:
    entry = run.entry(CONTROL)
    x = _cost(run, run.control[-1], cost) if run.control else None
    if x is None:
        return
    if entry is not None:
        validation, y = 100 * entry["validation_accuracy"], 100 * entry["test_accuracy"]
        axes.plot([x, x], [validation, y], color=INK, lw=0.8, alpha=0.6)
        axes.plot(x, validation, "D", ms=5, mfc=PAPER, mec=INK, alpha=0.75)
        axes.plot(x, y, "D", ms=6, color=INK, mec=PAPER, mew=0.8, zorder=4)
    else:
        last = run.control[-1]
        axes.plot(x, 100 * last.validation_accuracy, "D", ms=5, mfc=PAPER, mec=INK)


def _cascade(axes: "Axes", run: RunData) -> bool:
    """Draw what a cascade gives on test against its mean cost, with a square at the threshold that blend chose.

    Returns:
        Whether there is one.
    """
    found = run.result["cascade"] if run.result else None
    if found is None:
        return False
    points = [(point["flops"], 100 * point["test_accuracy"]) for point in found["curve"]]
    axes.plot(*zip(*points, strict=True), color=INK, lw=1.1, alpha=0.7, zorder=2)
    chosen = [100 * point["test_accuracy"] for point in found["curve"] if point["threshold"] == found["threshold"]]
    axes.plot([found["flops"]] * len(chosen), chosen, "s", ms=6, color=INK, mec=PAPER, mew=0.8, zorder=4)
    return True


def _legend(run: RunData, *, tested: bool, others: bool, cascade: bool) -> "list[Line2D]":
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], lw=0, marker="o", ms=6, mfc=PAPER, mec=INK, label="survivor, validation")]
    if tested:
        entries.insert(0, Line2D([], [], lw=0, marker="o", ms=6, color=INK, label="survivor, test"))
    if others and len(run.scores) > len(run.survivors):
        entries.append(Line2D([], [], lw=0, marker="o", ms=3.5, color=FAINT, label="others, validation"))
    if run.control:
        entries.append(Line2D([], [], lw=0, marker="D", ms=5, color=INK, label="seed network alone"))
    if cascade:
        entries.append(Line2D([], [], lw=1.1, marker="s", ms=6, color=INK, label="cascade, test: mean of an image"))
    return entries
