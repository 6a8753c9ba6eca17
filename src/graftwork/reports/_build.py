"""From a run folder to its figures and its page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork._files import inside, make_folder, sweep, write_bytes, write_text
from graftwork.reports._accuracy import accuracy_figure, standing_figure
from graftwork.reports._calibration import calibration_figure
from graftwork.reports._confusion import confusion_figure
from graftwork.reports._diversity import diversity_figure, has_diversity
from graftwork.reports._format import percent
from graftwork.reports._genome_drawing import genome_figure
from graftwork.reports._grafts import graft_generations
from graftwork.reports._images import FileNames, ImageSource
from graftwork.reports._lineage import lineage_figure
from graftwork.reports._page import render_page
from graftwork.reports._pareto import pareto_figure
from graftwork.reports._profile import profile_figure, run_profile
from graftwork.reports._read import CONTROL, MemberFile, RunData, read_run
from graftwork.reports._standing import difference, standings
from graftwork.reports._style import INK, figure_png, figure_svg, member_colors
from graftwork.reports._training import training_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

    from graftwork.metrics import Profile


_MAX_GENOMES = 4
_MOST_GENERATIONS, _MOST_LAYERS = 500, 500
"""More would not fit into a picture."""
_FIGURES: Mapping[str, tuple[str, ...]] = {
    "outcome": ("accuracy_flops", "standing"),
    "tree": ("lineage",),
    "grafts": ("genome_",),
    "cost": ("pareto_",),
    "right": ("profile",),
    "errors": ("calibration",),
    "way": ("training", "accuracy_seconds", "accuracy_steps", "diversity"),
}
"""Figures of each section, by the beginnings of their names."""


def build_report(run_folder: Path, *, dataset: ImageSource | None = None, file_names: FileNames | None = None) -> Path:
    """Write ``figures/*.svg``, ``figures/*.png`` and ``report.html`` into a run folder.

    Works on unfinished runs, too: what there is so far is shown, and the page says so. The same folder gives the same
    bytes.

    Args:
        run_folder: ``runs/NAME``.
        dataset: gives the data set's images, for mistakes and profiles; None leaves pictures out.
        file_names: gives the names of their files; None leaves them out.

    Returns:
        Path of ``report.html``.

    Raises:
        RunError: If it is no run folder, or one of its files can't be read.
    """
    run = read_run(run_folder)
    page = inside(Path(run_folder), "report.html")
    sweep(page.parent, of=page.name)
    sweep(inside(page.parent, "figures"))
    svgs: dict[str, str] = {}
    for name, draw in run_figures(run):
        figure = draw()
        svgs[name] = write_figure(figure, inside(page.parent, f"figures/{name}"))
    profile: Profile | None = run_profile(run) if "profile" in svgs else None
    write_text(page, render_page(run, svgs, profile=profile, images=dataset, file_names=file_names))
    return page


def render_section(
    run: RunData, name: str, *, dataset: ImageSource | None = None, file_names: FileNames | None = None
) -> str:
    """Draw one section of the page.

    Args:
        run: what it tells of.
        name: id of the section, one of `SECTIONS`.
        dataset: gives the data set's images; None leaves pictures out.
        file_names: gives the names of their files; None leaves them out.

    Returns:
        HTML; empty where the run has nothing for it so far.
    """
    wanted = _FIGURES.get(name, ())
    svgs = {figure: figure_svg(draw()) for figure, draw in run_figures(run) if figure.startswith(wanted)}
    profile = run_profile(run) if name == "right" else None
    return render_page(run, svgs, section=name, profile=profile, images=dataset, file_names=file_names)


def run_figures(run: RunData) -> "Iterator[tuple[str, Callable[[], Figure]]]":
    """Name every figure that a run has the data for, with a function that draws it."""
    if run.births and max(one.generation for one in run.rounds) <= _MOST_GENERATIONS:
        yield "lineage", lambda: lineage_figure(run)
    for member in _drawn(run):
        yield f"genome_{member.id}", lambda member=member: _genome(run, member)  # type: ignore[misc]
    if run.scores or run.control:
        yield "accuracy_flops", lambda: accuracy_figure(run, against="training_flops")
        yield "accuracy_seconds", lambda: accuracy_figure(run, against="seconds")
        yield "accuracy_steps", lambda: accuracy_figure(run, against="steps")
    rows = standings(run)
    if rows:
        yield "standing", lambda: standing_figure(run, rows)
    if run.scores:
        yield "pareto_flops", lambda: pareto_figure(run, cost="flops")
        yield "pareto_parameters", lambda: pareto_figure(run, cost="parameters")
    if run.scores and run.result is not None:
        yield "pareto_latency", lambda: pareto_figure(run, cost="latency")
    if run_profile(run) is not None:
        yield "profile", lambda: profile_figure(run)
    best, test = run.best, run.predictions.get("test")
    if test is not None and best is not None and best in test.logits:
        yield "confusion", lambda: confusion_figure(test, best, run.class_names)
        yield "calibration", lambda: _calibration(run)
    if run.losses:
        yield "training", lambda: training_figure(run)
    if has_diversity(run):
        yield "diversity", lambda: diversity_figure(run)


def _drawn(run: RunData) -> list[MemberFile]:
    """The seed, where the run has a control, and the best survivors."""
    survivors = list(run.genomes.values())[:_MAX_GENOMES]
    control = [run.members[CONTROL]] if survivors and CONTROL in run.members else []
    return [member for member in (*control, *survivors) if len(member.genome.body) <= _MOST_LAYERS]


def _genome(run: RunData, member: MemberFile) -> "Figure":
    ancestors = member.ancestors or run.ancestors(member.id)
    generations = max((one.generation for one in run.rounds), default=0)
    if member.id == CONTROL:
        title = "The seed network"
        grafted = dict.fromkeys((block.id for block in member.genome.blocks()), 0)
        return genome_figure(member.genome, title=title, grafted=grafted, generations=generations)
    accuracy = member.validation_accuracy if member.test_accuracy is None else member.test_accuracy
    split = "validation" if member.test_accuracy is None else "test"
    title = f"{member.id}: {percent(accuracy)} on {split}" + (", the best member" if member.id == run.best else "")
    grafts = graft_generations(member.genome, ancestors)
    return genome_figure(member.genome, title=title, grafted=grafts, generations=generations)


def _calibration(run: RunData) -> "Figure":
    test, colors = run.predictions["test"], member_colors(run.ranked)
    assert run.best is not None
    series = [(str(run.best), test.probabilities(run.best), colors[run.best])]
    ensemble = f"ensemble/{run.recommended}"
    if ensemble in test.logits:
        series.append((str(run.recommended), test.probabilities(ensemble), "#7b5ea7"))
    if CONTROL in test.logits:
        series.append(("seed network", test.probabilities(CONTROL), INK))
    return calibration_figure(series, test.labels)


def report_data(run: RunData) -> dict[str, Any]:
    """What the page's numbers are made from, ready for JSON."""
    gap = difference(run)
    return {
        "run": run.name,
        "finished": run.finished,
        "best": run.best,
        "survivors": list(run.survivors),
        "members_tried": len(run.births),
        "generations": run.rounds[-1].generation if run.rounds else None,
        "standings": [asdict(row) for row in standings(run)],
        "difference_to_control": None if gap is None else {**asdict(gap), "verdict": gap.verdict},
        "figures": [name for name, _ in run_figures(run)],
    }


def write_figure(figure: "Figure", path: Path) -> str:
    """Write a figure as ``path.svg`` and ``path.png``, each at once or not at all.

    Args:
        figure: from any plot function of this package.
        path: without suffix; its folder is made.

    Returns:
        Text of the SVG.
    """
    make_folder(path.parent)
    svg = figure_svg(figure)
    write_text(path.with_name(path.name + ".svg"), svg)
    write_bytes(path.with_name(path.name + ".png"), figure_png(figure))
    return svg
