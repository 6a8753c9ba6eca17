"""``graftwork serve``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli._app import app, say, tell

if TYPE_CHECKING:
    from graftwork.reports import FileNames, ImageSource


@app.command()
def serve(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders of them. \\[default: runs]")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any free one.")] = 8420,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Open the data sets that runs name, to show images.")
    ] = False,
) -> None:
    """Show runs on a live page, running or done; Ctrl-C ends it."""
    from graftwork import serve as live

    def announce(address: str) -> None:
        tell(address)
        say("open this address on this machine; Ctrl-C ends the page, runs go on")

    live.serve(runs or [Path("runs")], port=port, announce=announce, open_data=_open_data if with_data else None)


def _open_data(run: Path) -> "tuple[ImageSource, FileNames]":
    from graftwork.runs import RunFolder
    from graftwork.session import Problem, SearchConfig

    problem = Problem.load(SearchConfig.load(RunFolder.open(run).config_path))
    return problem.pictures, problem.file_names
