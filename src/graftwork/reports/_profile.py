"""Classification profiles: which validation examples each survivor gets right."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import RunError
from graftwork.metrics import Profile, ProfileRow, make_profile
from graftwork.reports._format import compact, percent
from graftwork.reports._read import Predictions, RunData, Split
from graftwork.reports._style import GRID, INK, MUTED, NEUTRAL, canvas, member_colors, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graftwork.typing import MemberId


_LEFT, _RIGHT, _WIDTH, _ROW = 70.0, 52.0, 600.0, 14.0


@dataclass(frozen=True, slots=True)
class Ruler:
    """Where a position of a profile stands, between 0 and 1: straight pieces between knots.

    Most examples are right or wrong for everybody. They are drawn narrow, so that those in dispute have room.

    Attributes:
        positions: of the knots, from 0 to the number of examples, ascending.
        places: of the knots, from 0 to 1.
    """

    positions: tuple[int, ...]
    places: tuple[float, ...]

    def place(self, position: NDArray[np.int64] | float) -> NDArray[np.float64]:
        """Map positions in the profile to places between 0 and 1."""
        return np.asarray(np.interp(position, self.positions, self.places))


def ruler_of(*profiles: Profile) -> Ruler:
    """One ruler under which everything that is in dispute in any of the profiles has room.

    Profiles that are grouped by class get an even ruler.
    """
    total = len(profiles[0].order)
    members = [_member_counts(profile) for profile in profiles]
    if any(profile.class_starts is not None for profile in profiles):
        return Ruler((0, total), (0.0, 1.0))
    left = min(int(np.count_nonzero(right == full)) for right, full in members)
    tail = min(int(np.count_nonzero(right == 0)) for right, _ in members)
    dispute = total - left - tail
    if dispute <= 0:
        return Ruler((0, total), (0.0, 1.0))
    ends = 0.3 if dispute / total < 0.7 else 1 - dispute / total
    # Both ends keep at least a sliver, and share the rest by their size.
    first = 0.0 if left == 0 else ends * (0.2 + 0.6 * left / (left + tail)) if tail else ends
    last = 0.0 if tail == 0 else ends - first
    return Ruler((0, left, left + dispute, total), (0.0, first, 1 - last, 1.0))


def _member_counts(profile: Profile) -> tuple[NDArray[np.int64], int]:
    """How many members get each position right, int64 [position]; and how many there are."""
    rows = [row.correct for row in profile.rows if row.kind == "member"]
    return np.sum(rows, axis=0, dtype=np.int64), len(rows)


def run_profile(run: RunData, *, split: Split = "validation", by_class: bool = False) -> Profile | None:
    """The profile of a run's survivors, best one first; None where no predictions are stored.

    Rows for ensembles are those whose predictions are stored under ``ensemble/<method>``.
    """
    predictions = run.predictions.get(split)
    members = [i for i in run.ranked if predictions is not None and i in predictions.logits]
    if predictions is None or not members:
        return None
    return make_profile(
        np.stack([predictions.predicted(i) for i in members]),
        predictions.labels,
        names=members,
        ensembles=_ensembles(predictions),
        by_class=by_class,
    )


def _ensembles(predictions: Predictions) -> dict[str, NDArray[np.int64]]:
    prefix = "ensemble/"
    names = sorted(name for name in predictions.logits if name.startswith(prefix))
    return {name.removeprefix(prefix): predictions.predicted(name) for name in names}


def profile_figure(
    run: RunData, run2: RunData | None = None, *, split: Split = "validation", by_class: bool = False
) -> "Figure":
    """The profile of one run, or of two runs one above the other on one ruler.

    Args:
        run: finished run.
        run2: another one on the same examples, such as greedy beside co-evolution.
        split: whose predictions to show.
        by_class: whether examples of one class stand together.

    Raises:
        RunError: If a run has no predictions, or the two are not about the same examples.
    """
    profiles: list[tuple[str, Profile, dict[MemberId, str]]] = []
    for one in (run,) if run2 is None else (run, run2):
        profile = run_profile(one, split=split, by_class=by_class)
        if profile is None:
            raise RunError(f"run {one.name!r} has no {split} predictions yet; a profile needs a finished run")
        selection = one.result.get("selection") if one.result else None
        title = one.name if not isinstance(selection, str) else f"{one.name} ({selection})"
        profiles.append((title, profile, member_colors(one.ranked)))
    if run2 is not None and not np.array_equal(run.predictions[split].index, run2.predictions[split].index):
        raise RunError(
            f"runs {run.name!r} and {run2.name!r} were scored on different {split} examples; "
            "compare runs on the same data with the same seed of the split"
        )
    titles = [title for title, _, _ in profiles] if run2 is not None else [""]
    colors = [{str(name): color for name, color in palette.items()} for _, _, palette in profiles]
    return profile_matrix_figure([profile for _, profile, _ in profiles], titles=titles, colors=colors, split=split)


@styled
def profile_matrix_figure(
    profiles: list[Profile], *, titles: list[str], colors: list[dict[str, str]], split: str = "validation"
) -> "Figure":
    """Draw profiles one above the other.

    Args:
        profiles: at least one, all of equally many examples.
        titles: one a profile; empty for none.
        colors: of the members by name, one mapping a profile.
        split: name of the examples, for the title.
    """
    ruler = ruler_of(*profiles)
    heads = [52.0 if title else 34.0 for title in titles]
    heights = [head + _ROW * len(profile.rows) for head, profile in zip(heads, profiles, strict=True)]
    figure, axes = canvas(_WIDTH, 20 + sum(heights) + 10)
    total = len(profiles[0].order)
    axes.text(10, 14, f"Who gets what right: {total:,} {split} examples", fontsize=9.5, fontweight="bold", va="center")
    top = 20.0
    for profile, title, palette, head, height in zip(profiles, titles, colors, heads, heights, strict=True):
        if title:
            axes.text(10, top + 18, title, fontsize=8.5, fontweight="bold", color=MUTED, va="center")
        _zones(axes, profile, ruler, top + head - 10)
        for number, row in enumerate(profile.rows):
            _row(axes, row, ruler, top + head + _ROW * number, palette.get(row.name))
        _loner_marks(axes, profile, ruler, top + head)
        top += height
    return figure


def _x(place: float) -> float:
    return _LEFT + place * (_WIDTH - _LEFT - _RIGHT)


def _zones(axes: "Axes", profile: Profile, ruler: Ruler, y: float) -> None:
    right, full = _member_counts(profile)
    if profile.class_starts is not None:
        for number, start in profile.class_starts:
            axes.text(_x(float(ruler.place(start))), y, f"class {number}", fontsize=6.5, color=MUTED, va="center")
        return
    bounds = [0, int(np.count_nonzero(right == full)), int(np.count_nonzero(right > 0)), len(right)]
    names = ("all right", "in dispute", "all wrong") if full > 1 else ("right", "", "wrong")
    for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True):
        if stop == start:
            continue
        left, end = _x(float(ruler.place(start))), _x(float(ruler.place(stop)))
        axes.plot([left + 1, end - 1], [y + 6, y + 6], color=NEUTRAL, lw=1)
        wide = end - left > 78
        text = f"{name} · {stop - start:,}" if wide else f"{name}\n{compact(stop - start)}"
        axes.text((left + end) / 2, y + 2, text, fontsize=7, color=MUTED, ha="center", va="bottom", linespacing=1)


def _row(axes: "Axes", row: ProfileRow, ruler: Ruler, y: float, color: str | None) -> None:
    from matplotlib.patches import Rectangle

    shade = color or {"oracle": INK, "vote": MUTED, "ensemble": "#7b5ea7"}.get(row.kind, NEUTRAL)
    axes.add_patch(Rectangle((_x(0), y + 1.5), _x(1) - _x(0), _ROW - 3, fc=GRID, ec="none", zorder=1))
    bars = []
    for start, stop in row.runs():
        left, right = _x(float(ruler.place(start))), _x(float(ruler.place(stop)))
        bars.append((left, max(right - left, 0.05)))
    axes.broken_barh(bars, (y + 1, _ROW - 2), facecolors=shade, lw=0, zorder=2)
    axes.text(_LEFT - 7, y + _ROW / 2, row.name[:13], fontsize=7.8, color=shade, ha="right", va="center")
    axes.text(_x(1) + 6, y + _ROW / 2, percent(row.accuracy), fontsize=7.5, color=MUTED, va="center")


def _loner_marks(axes: "Axes", profile: Profile, ruler: Ruler, top: float) -> None:
    """Frame the examples that one member alone gets right, where it stands against others."""
    from matplotlib.patches import Rectangle

    members = sum(row.kind == "member" for row in profile.rows)
    if members < 2 or profile.class_starts is not None:
        return
    for member in range(members):
        at = np.flatnonzero(profile.loners == member)
        if len(at) == 0:
            continue
        left, right = _x(float(ruler.place(int(at[0])))), _x(float(ruler.place(int(at[-1]) + 1)))
        box = Rectangle((left, top + _ROW * member), right - left, _ROW, fc="none", ec=INK, lw=1, zorder=4)
        axes.add_patch(box)


def profile_geometry() -> dict[str, float]:
    """Where the rows of a single profile stand in its figure, in points: for the page's pointer."""
    return {"left": _LEFT, "right": _RIGHT, "top": 50.0}
