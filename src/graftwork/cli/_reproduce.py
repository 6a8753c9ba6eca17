"""``graftwork reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, say
from graftwork.errors import ConfigError


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="zero-init, init-scale, base-network or rank.")],
    data: options.Data = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")] = 3,
    scale: Annotated[float, typer.Option(min=1e-4, help="Of the number of steps; 1 is the full size.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: results/NAME]")] = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Run an experiment of the poster or about it; seeds that are done are not run again."""
    from graftwork.experiments import EXPERIMENTS, run_experiment
    from graftwork.runs import keep_memory

    keep_memory()
    if name not in EXPERIMENTS:
        raise ConfigError(f"reproduce: expected one of {', '.join(EXPERIMENTS)}, got {name!r}")
    folder = out or Path("results") / name
    given = {"precision": precision, "threads": threads}
    extra = {key: value for key, value in given.items() if value is not None}
    summary = run_experiment(
        EXPERIMENTS[name], folder, data=data or "digits", seeds=range(seeds), scale=scale, note=say, **extra
    )
    if as_json:
        emit(summary)
    else:
        typer.echo(f"{summary['question']}\n{folder / 'summary.json'}")
