"""``graftwork reproduce``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, say
from graftwork.errors import ConfigError


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(help="zero-init, init-scale, base-network, rank, growth, deep-growth or carry.")
    ],
    data: options.Data = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, from 0. [default: 3; carry: 5]")] = None,
    scale: Annotated[float, typer.Option(min=1e-4, help="Of the number of steps or FLOPs; 1 is the full size.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: results/NAME]")] = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time, for growth, deep-growth and carry.")] = 1,
    as_json: options.Json = False,
) -> None:
    """Run an experiment of the poster or about it; seeds and cells that are done are not run again."""
    from graftwork.experiments import EXPERIMENTS, run_experiment
    from graftwork.experiments.growing import GRIDS, run_grid
    from graftwork.runs import keep_memory

    keep_memory()
    if name not in EXPERIMENTS and name not in GRIDS:
        raise ConfigError(f"reproduce: expected one of {', '.join([*EXPERIMENTS, *GRIDS])}, got {name!r}")
    folder = out or Path("results") / name
    given = {"precision": precision, "threads": threads}
    extra: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    common: dict[str, Any] = {"data": data or "digits", "scale": scale, "note": say, **extra}
    if name in GRIDS:
        grid = GRIDS[name]
        summary = run_grid(grid, folder, seeds=range(seeds or grid.num_seeds), jobs=jobs, **common)
    else:
        if jobs != 1:
            raise ConfigError(f"reproduce: --jobs is for {', '.join(GRIDS)}; {name} runs its seeds one by one")
        summary = run_experiment(EXPERIMENTS[name], folder, seeds=range(seeds or 3), **common)
    if as_json:
        emit(summary)
    else:
        typer.echo(f"{summary['question']}\n{folder / 'summary.json'}")
