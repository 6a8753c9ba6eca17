"""Reports: what a run folder tells, as figures and one page.

Everything here reads a run folder (`docs/run-folder.md`), never a live object, so a run can be reported on while it
goes on and long after. `build_report` writes all of it: ``figures/*.svg``, ``figures/*.png`` and a ``report.html`` that
loads nothing.

* reading: `read_run`, `sketch_run`, `report_data`
* the page in parts: `SECTIONS`, `render_section`, `page_style`, `page_script`
* figures of a run: `accuracy_figure`, `standing_figure`, `pareto_figure`, `lineage_figure`, `genome_figure`,
  `profile_figure`, `confusion_figure`, `calibration_figure`, `training_figure`, `diversity_figure`
* figures for experiments: `curves_figure`, `bars_figure`
* words and numbers: `compact`, `percent`, `interval_text`
* `write_figure` saves any of them as SVG and PNG, the same data give the same bytes; `inline_svg` makes one a part of
  a page

matplotlib, jinja2 and pillow are imported when something is drawn, not before.
"""

from graftwork.reports._accuracy import accuracy_figure, standing_figure
from graftwork.reports._build import build_report, render_section, report_data, run_figures, write_figure
from graftwork.reports._calibration import calibration_figure
from graftwork.reports._confusion import Mistake, confusion_figure, worst_mistakes
from graftwork.reports._curves import Bar, Curve, bars_figure, curves_figure
from graftwork.reports._diversity import diversity_figure
from graftwork.reports._format import compact, interval_text, percent
from graftwork.reports._genome_drawing import genome_figure
from graftwork.reports._grafts import graft_generations
from graftwork.reports._images import FileNames, ImageSource
from graftwork.reports._lineage import lineage_figure
from graftwork.reports._page import SECTIONS, page_script, page_style
from graftwork.reports._pareto import pareto_figure, pareto_front
from graftwork.reports._profile import profile_figure, profile_matrix_figure
from graftwork.reports._read import Predictions, RunData, read_run, sketch_run
from graftwork.reports._standing import Difference, Standing, difference, standings
from graftwork.reports._style import figure_png, figure_svg, inline_svg
from graftwork.reports._training import training_figure

__all__ = [
    "SECTIONS",
    "Bar",
    "Curve",
    "Difference",
    "FileNames",
    "ImageSource",
    "Mistake",
    "Predictions",
    "RunData",
    "Standing",
    "accuracy_figure",
    "bars_figure",
    "build_report",
    "calibration_figure",
    "compact",
    "confusion_figure",
    "curves_figure",
    "difference",
    "diversity_figure",
    "figure_png",
    "figure_svg",
    "genome_figure",
    "graft_generations",
    "inline_svg",
    "interval_text",
    "lineage_figure",
    "page_script",
    "page_style",
    "pareto_figure",
    "pareto_front",
    "percent",
    "profile_figure",
    "profile_matrix_figure",
    "read_run",
    "render_section",
    "report_data",
    "run_figures",
    "sketch_run",
    "standing_figure",
    "standings",
    "training_figure",
    "worst_mistakes",
    "write_figure",
]
