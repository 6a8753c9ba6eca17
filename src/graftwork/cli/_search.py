"""``graftwork search``, ``train`` and ``config``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app
from graftwork.cli._run import session_to_its_end
from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from graftwork.session import SearchConfig

Count = Annotated[int | None, typer.Option(min=1)]
Share = Annotated[float | None, typer.Option(help="A share below 1, or a number of images.")]


@app.command()
def search(
    data: options.Data = None,
    recipe: options.Recipe = None,
    selection: Annotated[
        str | None, typer.Option(help="greedy, coevolution, pareto, tournament, age or random.")
    ] = None,
    scoring_batch_size: Annotated[int | None, typer.Option(help="Images in a pass of scoring. [default: 500]")] = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    split_seed: Annotated[int | None, typer.Option(help="Of the splits alone. [default: --seed]")] = None,
    out: options.Out = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder; no other options.")] = None,
    control: Annotated[
        bool | None, typer.Option("--control", help="Also train the seed network alone with the same FLOPs.")
    ] = None,
    population_size: Annotated[int | None, typer.Option(help="M, members after mutation.")] = None,
    num_survivors: Annotated[int | None, typer.Option(help="K, members selected in each generation.")] = None,
    num_generations: Annotated[int | None, typer.Option(help="Rounds of select, mutate, train.")] = None,
    initial_steps: Annotated[int | None, typer.Option(help="N_i, updates of the seed alone.")] = None,
    steps_per_generation: Annotated[int | None, typer.Option(help="N_j, updates a generation.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images an update.")] = None,
    min_shared_fraction: Annotated[
        float | None, typer.Option(help="τ: a child shares more than this part of its parameters with its parent.")
    ] = None,
    max_params: Annotated[int | None, typer.Option(help="Most parameters of a member.")] = None,
    max_flops: Annotated[int | None, typer.Option(help="Most FLOPs of a member's forward pass, one image.")] = None,
    concat_probability: Annotated[float | None, typer.Option(help="Of widening half of the channels.")] = None,
    random_padding: Annotated[
        bool | None, typer.Option("--random-padding", help="Grow without preserving the function (control).")
    ] = None,
    genome: Annotated[str | None, typer.Option(help="JSON file of the seed network's genome.")] = None,
    validation: Share = None,
    blend: Share = None,
    test: Share = None,
    image_size: options.ImageSize = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    skip_bad_images: options.SkipBad = None,
    device: options.Device = None,
    precision: options.Precision = None,
    passes: options.Passes = None,
    threads: options.Threads = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that search together on this machine (torchrun starts them on several). [default: 1]"
        ),
    ] = None,
    sync_every: Annotated[
        int | None,
        typer.Option(
            help="Updates of each worker between two averagings, where there are members to deal; 0: workers share "
            "every batch, as they do in the first round (docs/scaling.md). [default: 16]"
        ),
    ] = None,
    checkpoint_every: Annotated[float | None, typer.Option(help="Seconds between checkpoints.")] = None,
    config: options.Config = None,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Evolve a population of networks on shared parameters, and leave a run folder with a report."""
    given = dict(locals())
    flags = {key: value for key, value in given.items() if key not in _NOT_OPTIONS}
    flags["max_parameters"] = flags.pop("max_params")
    if resume is not None:
        changed = [key for key, value in {**flags, "out": out, "config": config}.items() if value is not None]
        if changed:
            raise ConfigError(f"--resume goes on with the run's own options; leave out {', '.join(sorted(changed))}")
        run_session(resume, None, report=report, quiet=quiet, as_json=as_json)
        return
    found = _load_config(config, flags)
    run_session(_folder(out, found), found, report=report, quiet=quiet, as_json=as_json)


_NOT_OPTIONS = ("out", "resume", "config", "report", "quiet", "as_json")


@app.command()
def train(
    genome: Annotated[
        str, typer.Option(help="JSON file of a genome, or a seed's name: poster, base, default.")
    ] = "default",
    data: options.Data = None,
    recipe: options.Recipe = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    out: options.Out = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    passes: options.Passes = None,
    threads: options.Threads = None,
    config: options.Config = None,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train one genome alone, by the same recipes and budgets as a search."""
    from graftwork.networks.genome import SEEDS

    given = dict(locals())
    flags = {key: value for key, value in given.items() if key not in (*_NOT_OPTIONS, "genome", "SEEDS")}
    alone = {"num_generations": 0, "population_size": 1, "num_survivors": 1}
    flags |= alone | ({"seed_genome": genome} if genome in SEEDS else {"genome": genome})
    found = _load_config(config, flags)
    run_session(_folder(out, found), found, report=report, quiet=quiet, as_json=as_json)


@app.command("config")
def show_config(
    data: options.Data = None,
    recipe: options.Recipe = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    config: options.Config = None,
) -> None:
    """Print the effective options as TOML, to be saved, changed and given back with --config."""
    typer.echo(_load_config(config, {"data": data, "recipe": recipe, "budget": budget, "seed": seed}).to_toml())


def _load_config(path: Path | None, flags: dict[str, Any]) -> "SearchConfig":
    from graftwork.session import SearchConfig

    return SearchConfig.load(path, **flags)


def _folder(out: Path | None, config: "SearchConfig") -> Path:
    """Where the run goes: as asked for, or the next free folder under ``runs/``."""
    if out is not None:
        return out
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("--out: torchrun may start the command again, so it has to name the run folder; got none")
    return _free_folder(config)


def _free_folder(config: "SearchConfig") -> Path:
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(config.data).name) or "data"
    first = Path("runs") / f"{name}-{config.recipe.name}-s{config.seed}"
    number, folder = 2, first
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def run_session(
    out: Path, config: "SearchConfig | None", *, report: bool, quiet: bool, as_json: bool
) -> dict[str, Any]:
    """Start (or, without a config, resume) a run and tell its outcome, alone or with other workers.

    Returns:
        What ``result.json`` holds; nothing where other processes do the work, or this one only takes part in it.
    """
    from graftwork.cli._workers import launch_session, lead, wanted_workers

    size, launching = wanted_workers(out, config)
    if launching:
        launch_session(size, out, config, report=report, quiet=quiet, as_json=as_json)
        return {}
    if size > 1:
        return lead(out, config, report=report, quiet=quiet, as_json=as_json)
    return session_to_its_end(out, config, report=report, quiet=quiet, as_json=as_json)
