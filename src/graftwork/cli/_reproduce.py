"""``graftwork reproduce``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, say
from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from graftwork.experiments import Study


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="zero-init, init-scale, base-network, rank, neuroevolution, coevolution, diversity, growth, "
            "poster-growth, deep-growth or carry."
        ),
    ],
    data: options.Data = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 0. [default: 3; poster-growth, carry: 5]")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            min=1e-4, help="Share of the updates or FLOPs. [default: 1, the poster's size where the poster has one]"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="FLOPs of each search of coevolution and diversity. [default: 0.1PFLOP, 0.05PFLOP]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. [default: results/NAME]")] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the run folders of studies whose arms are whole runs. [runs/NAME]")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="An arm of diversity, by name, beside the controls, or cells of poster-growth, by a pattern such as "
            "'widen-at-50-*'; may be repeated. [default: all]"
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time; not for the first four.")] = 1,
    config: options.Config = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Run an experiment of the poster or about it; what is done is not run again, what was broken off goes on."""
    from graftwork.config import read_options
    from graftwork.experiments import EXPERIMENTS, Study, run_experiment
    from graftwork.experiments.growing import GRIDS, run_grid
    from graftwork.runs import keep_memory

    keep_memory()
    if name not in EXPERIMENTS and name not in GRIDS:
        raise ConfigError(f"reproduce: expected one of {', '.join([*EXPERIMENTS, *GRIDS])}, got {name!r}")
    folder = out or Path("results") / name
    given = {"data": data, "precision": precision, "threads": threads}
    extra: dict[str, Any] = {} if config is None else read_options(config)
    extra |= {key: value for key, value in given.items() if value is not None}
    source = str(extra.pop("data", "digits"))
    if isinstance(experiment := EXPERIMENTS.get(name), Study):
        extra |= {"only": only or None, "jobs": jobs}
        summary = _run_study(
            experiment, folder, runs, budget=budget, scale=scale, data=source, seeds=seeds or 3, extra=extra
        )
        told = (folder / "table.md").read_text(encoding="utf-8")
    else:
        if budget is not None or runs is not None or (only and experiment is not None):
            raise ConfigError(f"reproduce {name}: takes no --budget, --runs and --only; its size is set by --scale")
        common = {"data": source, "scale": 1.0 if scale is None else scale, "note": say, **extra}
        if experiment is None:
            if config is not None:
                raise ConfigError(f"reproduce {name}: takes no --config; give --data, --precision and --threads")
            grid = replace(GRIDS[name], only=tuple(only or ()))
            summary = run_grid(grid, folder, seeds=range(seeds or grid.num_seeds), jobs=jobs, **common)
        else:
            if jobs != 1:
                raise ConfigError(f"reproduce {name}: takes no --jobs; it runs its seeds one by one")
            summary = run_experiment(experiment, folder, seeds=range(seeds or 3), **common)
        told = f"{summary['question']}\n{folder / 'summary.json'}"
    if as_json:
        emit(summary)
    else:
        typer.echo(told)


def _run_study(
    study: "Study",
    out: Path,
    runs: Path | None,
    *,
    budget: str | None,
    scale: float | None,
    data: str,
    seeds: int,
    extra: dict[str, Any],
) -> dict[str, Any]:
    from graftwork.experiments import run_study

    sizes = {"budget": budget, "scale": scale}
    size = sizes.pop(study.measure)
    if any(value is not None for value in sizes.values()):
        raise ConfigError(f"reproduce {study.name}: its size is set by --{study.measure}, not by --{next(iter(sizes))}")
    folder = runs or Path("runs") / study.name
    return run_study(study, out, runs=folder, data=data, seeds=range(seeds), size=size, note=say, **extra)
