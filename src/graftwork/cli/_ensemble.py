"""``graftwork ensemble`` and ``graftwork profiles``."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, share, tell
from graftwork.errors import ConfigError


@app.command()
def ensemble(
    run: options.Run,
    members: Annotated[str, typer.Option(help="survivors, best:K, pareto, or ids separated by commas.")] = "survivors",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="mean, greedy, stacked, stacked-network, cascade, mean-calibrated, stacked-calibrated. "
            "\\[default: all that the blend split suffices for]"
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="What is stacked: logits, or penultimate (opens the test split once more; needs the data)."),
    ] = "logits",
    seed: Annotated[int, typer.Option(help="Seed of the stacker.")] = 0,
    trunk: options.TrunkOf = None,
    as_json: options.Json = False,
) -> None:
    """Fit ensembles of a finished run's members on the blend split, from the predictions that the run stored."""
    from graftwork.runs import RunFolder
    from graftwork.session import METHODS, combine, members_of

    folder = RunFolder.open(run)
    unknown = [name for name in method or () if name not in METHODS]
    if unknown:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, got {unknown[0]!r}")
    if features not in ("logits", "penultimate"):
        raise ConfigError(f"features: expected logits or penultimate, got {features!r}")
    with folder:
        rows = combine(
            folder,
            members_of(folder, members),
            methods=method or None,
            seed=seed,
            features=features,  # type: ignore[arg-type]
            trunk=trunk,
        )
    for row in rows:
        if as_json:
            emit(row)
        else:
            tell(
                f"{row['method']:<30} {share(row['test_accuracy'], row['test_interval'])} test  "
                f"{share(row['validation_accuracy'], row['validation_interval'])} validation  "
                f"ECE {row['ece']:.4f}  NLL {row['nll']:.4f}  {row['num_members']} members"
            )


@app.command()
def profiles(
    run: options.Run,
    run2: Annotated[Path | None, typer.Argument(help="Another run of the same data and seed, side by side.")] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Group examples by class.")] = False,
    out: Annotated[Path | None, typer.Option(help="Name without ending. \\[default: RUN/figures/profiles]")] = None,
) -> None:
    """Draw which validation examples each selected member classifies correctly, as SVG and PNG."""
    from graftwork._files import inside
    from graftwork.reports import profile_figure, read_run, write_figure

    other = None if run2 is None else read_run(run2)
    figure = profile_figure(read_run(run), other, by_class=by_class)
    target = out or inside(run, "figures/profiles")
    write_figure(figure, target)
    tell(f"{target}.svg, {target}.png")
