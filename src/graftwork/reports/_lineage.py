"""The family tree: time from left to right, one row a member, transforms where branches begin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.reports._format import percent, short_transform
from graftwork.reports._read import Birth, RunData
from graftwork.reports._style import FAINT, GRID, INK, MUTED, PAPER, canvas, generation_colors, member_colors, styled
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LEFT, _TOP, _RIGHT = 26.0, 58.0, 104.0


@dataclass(frozen=True, slots=True)
class Branch:
    """One member in the tree.

    Attributes:
        row: 0 at the top; every member has its own.
        last: generation in which it was scored last.
        kin: whether it is a survivor or an ancestor of one.
    """

    birth: Birth
    row: int
    last: int
    kin: bool


def lay_out_lineage(births: Mapping[MemberId, Birth], last: Mapping[MemberId, int], kin: set[MemberId]) -> list[Branch]:
    """Give every member a row so that no edge crosses a line of life.

    A member lives from the start of the generation it was born in to the end of the one it was scored last in. An edge
    drops from the parent's row to the child's at the moment of birth; so later children stand nearer to
    their parent, and whatever lies between begins to the right of the edge.

    Args:
        births: by id, parents before children.
        last: generation in which each was scored last; a member that is missing lived for its birth alone.
        kin: survivors and their ancestors.

    Returns:
        Branches by row.
    """
    children: dict[MemberId | None, list[Birth]] = {}
    for birth in births.values():
        parent = birth.parent if birth.parent in births else None
        children.setdefault(parent, []).append(birth)
    order: list[Birth] = []
    stack = children.get(None, [])[::-1]
    while stack:
        birth = stack.pop()
        order.append(birth)
        stack += sorted(children.get(birth.id, []), key=lambda child: child.generation)
    return [
        Branch(birth, row, max(birth.generation, last.get(birth.id, 0)), birth.id in kin)
        for row, birth in enumerate(order)
    ]


@styled
def lineage_figure(run: RunData) -> "Figure":
    """The family tree of the search; the ancestry of the survivors stands out."""
    last = {member_id: one.generation for one in run.rounds for member_id in one.members}
    kin = {birth.id for survivor in run.survivors for birth in run.ancestors(survivor)}
    branches = lay_out_lineage({i: birth for i, birth in run.births.items() if i in run.drawn}, last, kin)
    generations = max((branch.last for branch in branches), default=0)
    labeled = len(branches) <= 40
    heights = [17.0 if branch.kin else 13.0 if labeled else 4.5 for branch in branches]
    step = min(120.0, max(54.0, 600.0 / (generations + 1)))
    figure, axes = canvas(_LEFT + step * (generations + 1) + _RIGHT, _TOP + sum(heights) + 12)
    y_of: dict[MemberId, float] = {}
    y = _TOP
    for branch, height in zip(branches, heights, strict=True):
        y_of[branch.birth.id] = y + height / 2
        y += height
    _time_axis(axes, generations, step, y)
    if run.left_out:
        axes.text(_LEFT + 62, 28, f"members that are drawn:{run.left_out}", fontsize=7.5, color=MUTED)
    shades = generation_colors(generations)
    for branch in sorted(branches, key=lambda b: b.kin):  # what stands out is drawn last
        _branch(axes, branch, y_of, step, shades)
        if branch.birth.parent in y_of and (branch.kin or labeled):
            _transform_label(axes, branch, y_of[branch.birth.id], step)
    _survivor_labels(axes, run, y_of, _LEFT + step * (generations + 1))
    return figure


def _time_axis(axes: "Axes", generations: int, step: float, bottom: float) -> None:
    axes.text(_LEFT - 16, 15, "Family tree", fontsize=9.5, fontweight="bold", va="center")
    axes.text(
        _LEFT + 62,
        15,
        "□ widened · △ deepened · ○ seed · filled: leads to a survivor",
        fontsize=7.5,
        color=MUTED,
        va="center",
    )
    every = max(1, round(generations / 16))
    for number in range(generations + 2):
        x = _LEFT + step * number
        axes.plot([x, x], [_TOP - 8, bottom], color=GRID, lw=0.8, zorder=0)
        if number % every == 0 and number <= generations:
            name = "generation 0" if number == 0 else str(number)
            axes.text(x + step / 2, _TOP - 12, name, fontsize=7.5, color=MUTED, ha="center", va="center")


def _branch(axes: "Axes", branch: Branch, y_of: Mapping[MemberId, float], step: float, shades: list[str]) -> None:
    birth, y = branch.birth, y_of[branch.birth.id]
    x = _LEFT + step * birth.generation
    color = shades[birth.generation]
    line, width, rank = (color, 2.2, 3) if branch.kin else (FAINT, 0.9, 1)
    if birth.parent is not None and birth.parent in y_of:
        axes.plot([x, x], [y_of[birth.parent], y], color=line, lw=width * 0.75, zorder=rank)
    axes.plot([x, _LEFT + step * (branch.last + 1)], [y, y], color=line, lw=width, zorder=rank)
    marker = "o" if birth.parent is None else "^" if birth.transform.startswith("deepen") else "s"
    if branch.kin:
        axes.plot(x, y, marker, ms=6.5, color=color, mec=PAPER, mew=0.8, zorder=5)
    else:
        axes.plot(x, y, marker, ms=3.2, mfc=PAPER, mec=FAINT, mew=0.8, zorder=2)


def _transform_label(axes: "Axes", branch: Branch, y: float, step: float) -> None:
    x = _LEFT + step * branch.birth.generation + 6
    axes.text(
        x,
        y - 4.6,
        short_transform(branch.birth.transform, limit=30),
        fontsize=6.8 if branch.kin else 6.4,
        color=INK if branch.kin else MUTED,
        va="center",
        zorder=6,
    )


def _survivor_labels(axes: "Axes", run: RunData, y_of: Mapping[MemberId, float], right: float) -> None:
    colors = member_colors(run.ranked)
    for member_id in run.survivors:
        if member_id not in y_of:
            continue
        y, color = y_of[member_id], colors[member_id]
        axes.plot(right + 14, y, "o", ms=7, color=color, mec=PAPER, mew=0.8, zorder=6)
        score = run.scores.get(member_id)
        text = f"{member_id}  {percent(score[-1].validation_accuracy, digits=1)}" if score else str(member_id)
        weight = "bold" if member_id == run.best else "normal"
        axes.text(right + 22, y, text, fontsize=8, color=color, fontweight=weight, va="center")
