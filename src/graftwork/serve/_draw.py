"""What the page shows, as HTML: sections of a run's report, and figures that compare runs."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork._files import damaged
from graftwork.errors import GraftworkError
from graftwork.reports import (
    SECTIONS,
    Bar,
    Curve,
    FileNames,
    ImageSource,
    RunData,
    bars_figure,
    curves_figure,
    figure_svg,
    inline_svg,
    read_run,
    render_section,
)
from graftwork.serve._shelf import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OpenData = Callable[[Path], tuple[ImageSource, FileNames]]
"""Gives images, and names of files, of the data set of a run folder."""
LIVE = ("outcome", "tree", "cost", "way")
"""Sections that change with every generation; the others do at the start and at the end of a run."""
_PENDING: Mapping[str, str] = {
    "data": "Known once the data are read.",
    "tree": "Known after the first round.",
    "grafts": "Members are stored at the end: drawn when the run is finished.",
    "right": "Predictions are stored at the end: known when the run is finished.",
    "errors": "The test split is opened at the end: confusions, mistakes and the table of classes are known when the "
    "run is finished.",
    "way": "Known after the first round.",
}
_PICTURED = ("right", "errors")
_MOST_KEPT = 200


class Drawings:
    """Sections of runs, each kept until its run changes. One is drawn at a time: matplotlib has settings for all.

    Args:
        open_data: Gives images and names of files; None leaves pictures out.
    """

    def __init__(self, open_data: OpenData | None = None) -> None:
        self._open_data = open_data
        self._kept: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()
        self._whole: tuple[tuple[str, int], RunData] | None = None
        self._data: tuple[str, ImageSource, FileNames] | None = None

    def kept(self, snapshot: Snapshot, name: str) -> str | None:
        """A section that was drawn before; None where its run has changed since."""
        revision, html = self._kept.get((snapshot.id, name), (None, ""))
        return html if revision == snapshot.revision else None

    def draw(self, snapshot: Snapshot, name: str) -> str:
        """Draw a section; what is wrong with the run's files is told in its place."""
        if (kept := self.kept(snapshot, name)) is not None:
            return kept
        try:
            with damaged(str(snapshot.path)):
                html = self._section(snapshot, name)
        except (GraftworkError, OSError) as error:
            html = _placeholder(name, f"This can’t be shown: {error}")
        self._kept[snapshot.id, name] = (snapshot.revision, html)
        self._kept.move_to_end((snapshot.id, name))
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return html

    def _section(self, snapshot: Snapshot, name: str) -> str:
        if snapshot.run is None:
            return _placeholder(name, "Nothing is known: the run folder can’t be read.")
        run, note = self._complete(snapshot, snapshot.run), ""
        images = names = None
        if name in _PICTURED and run.finished:
            images, names, note = self._pictures(snapshot)
        html = render_section(run, name, dataset=images, file_names=names)
        return f"{html}{note}" if html else _placeholder(name, _PENDING.get(name, ""))

    def _complete(self, snapshot: Snapshot, run: RunData) -> RunData:
        """A finished run with its members and predictions, which are read once."""
        if not run.finished:
            return run
        key = (snapshot.id, snapshot.revision)
        if self._whole is None or self._whole[0] != key:
            self._whole = (key, read_run(snapshot.path))
        return self._whole[1]

    def _pictures(self, snapshot: Snapshot) -> tuple[ImageSource | None, FileNames | None, str]:
        if self._open_data is None:
            return None, None, '<p class="note">To see images, start with <code>graftwork serve --with-data</code>.</p>'
        try:
            if self._data is None or self._data[0] != snapshot.id:
                self._data = (snapshot.id, *self._open_data(snapshot.path))
        except GraftworkError as error:
            return None, None, f'<p class="note">No images: {escape(str(error))}</p>'
        return self._data[1], self._data[2], ""


def _placeholder(name: str, text: str) -> str:
    return f'<section id="{name}"><h2>{escape(SECTIONS[name])}</h2><p class="pending">{escape(text)}</p></section>'


def comparison_figures(snapshots: Sequence[Snapshot]) -> list[str]:
    """Figures that put runs beside each other, as SVG for the page: accuracy by FLOPs and by seconds, and on test."""
    runs = [(one.name, one.run) for one in snapshots if one.run is not None]
    figures: list[tuple[str, str, Figure]] = []
    for against, label in (("training_flops", "training FLOPs"), ("seconds", "seconds")):
        curves = [curve for name, run in runs if (curve := _best_so_far(name, run, against)) is not None]
        if curves:
            title = f"Best member on validation, against {label}"
            drawn = curves_figure(curves, xlabel=label, ylabel="validation accuracy, %", title=title)
            figures.append((f"compare_{against}", title, drawn))
    bars = [
        Bar(name, 100 * best["test_accuracy"], *(100 * bound for bound in best["test_interval"]))
        for name, run in runs
        if run.result is not None
        for best in (run.result["best"],)
    ]
    if bars:
        title = "Best members on test, with 95 % intervals"
        figures.append(("compare_test", title, bars_figure(bars, xlabel="test accuracy, %", title=title)))
    return [inline_svg(figure_svg(figure), name, title) for name, title, figure in figures]


def _best_so_far(name: str, run: RunData, against: str) -> Curve | None:
    """Accuracy of the best member after each round of a run."""
    points = [
        (getattr(one, against), 100 * score.validation_accuracy)
        for one in run.rounds
        for score in run.scores.get(one.best, ())
        if score.generation == one.generation
    ]
    return Curve(name, *zip(*points, strict=True)) if points else None
