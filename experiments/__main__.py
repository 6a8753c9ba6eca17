"""``python -m experiments NAME``: run one of the experiments on the package."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import emit, run_app, say
from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from experiments import Study


app = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="zero-init, init-scale, base-network, rank, neuroevolution, coevolution, strategies, growth, "
            "poster-growth, deep-growth, envelope, carry, trainer-growth, score-sites or new-weights."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data set, as of graftwork search. \\[default: digits]", envvar="GRAFTWORK_DATA")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of seeds, from 0. \\[default: 3; envelope: 1; poster-growth, carry, trainer-growth: 5]",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            min=1e-4,
            help="Factor on the number of steps or FLOPs. \\[default: 1, the poster's size where the poster has one]",
        ),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="FLOPs of each run (0.1PFLOP): coevolution, strategies.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. \\[default: results/NAME]")] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the run folders of studies whose arms are whole runs. [runs/NAME]")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Cells of a grid, by a pattern such as 'widen-at-50-*'; repeatable. \\[default: all]"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time; not for the first four.")] = 1,
    config: Annotated[Path | None, typer.Option(help="TOML file with options of the searches.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto (timed at the start), float32 or bfloat16.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines for machines.")] = False,
) -> None:
    """Run an experiment of the poster or about it. Finished parts are not run again; interrupted ones continue."""
    from experiments import EXPERIMENTS, Study, run_experiment
    from experiments.growing import GRIDS, run_grid
    from graftwork.machine import keep_memory
    from graftwork.session import read_options

    keep_memory()
    if name not in EXPERIMENTS and name not in GRIDS:
        raise ConfigError(f"experiments: expected one of {', '.join([*EXPERIMENTS, *GRIDS])}, got {name!r}")
    folder = out or Path("results") / name
    given = {"data": data, "precision": precision, "threads": threads}
    extra: dict[str, Any] = {} if config is None else read_options(config)
    extra |= {key: value for key, value in given.items() if value is not None}
    source = str(extra.pop("data", "digits"))
    if only and name not in GRIDS:
        raise ConfigError(f"experiments {name}: runs all of its parts; leave --only out")
    if isinstance(experiment := EXPERIMENTS.get(name), Study):
        extra["jobs"] = jobs
        summary = _run_study(
            experiment, folder, runs, budget=budget, scale=scale, data=source, seeds=seeds or 3, extra=extra
        )
        told = (folder / "table.md").read_text(encoding="utf-8")
    else:
        if budget is not None or runs is not None:
            raise ConfigError(f"experiments {name}: takes no --budget and no --runs; its size is set by --scale")
        common = {"data": source, "scale": 1.0 if scale is None else scale, "note": say, **extra}
        if experiment is None:
            if config is not None:
                raise ConfigError(f"experiments {name}: takes no --config; give --data, --precision and --threads")
            grid = replace(GRIDS[name], only=tuple(only or ()))
            summary = run_grid(grid, folder, seeds=range(seeds or grid.num_seeds), jobs=jobs, **common)
        else:
            if jobs != 1:
                raise ConfigError(f"experiments {name}: takes no --jobs; it runs its seeds one by one")
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
    from experiments import run_study

    sizes = {"budget": budget, "scale": scale}
    size = sizes.pop(study.measure)
    if any(value is not None for value in sizes.values()):
        other = next(iter(sizes))
        raise ConfigError(f"experiments {study.name}: its size is set by --{study.measure}, not by --{other}")
    folder = runs or Path("runs") / study.name
    return run_study(study, out, runs=folder, data=data, seeds=range(seeds), size=size, note=say, **extra)


if __name__ == "__main__":
    run_app(app, "python -m experiments")
