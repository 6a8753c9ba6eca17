"""``graftwork report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, say, tell

if TYPE_CHECKING:
    from graftwork.session import Problem


def write_report(path: Path, *, problem: "Problem | None" = None) -> Path:
    """Write ``report.html`` and the figures of a run; with images and names of files where the data are at hand."""
    from graftwork.reports import build_report

    if problem is None:
        return build_report(path)
    return build_report(path, dataset=problem.pictures, file_names=problem.file_names)


@app.command()
def report(
    run: options.Run,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Open the data set that the run names, to show images.")
    ] = False,
) -> None:
    """Write the report of a run, finished or not."""
    from graftwork.errors import InputError
    from graftwork.runs import RunFolder
    from graftwork.session import Problem, SearchConfig

    folder = RunFolder.open(run)
    problem = None
    if with_data:  # a path of the run, which may come from somebody else
        try:
            problem = Problem.load(SearchConfig.load(folder.config_path))
        except InputError as error:
            say(f"note: the report has no images: {error}")
    tell(str(write_report(run, problem=problem)))
