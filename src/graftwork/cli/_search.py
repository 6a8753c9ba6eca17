"""``graftwork search``, ``train``, ``family`` and ``config``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graftwork.cli import _options as options
from graftwork.cli._app import app, tell
from graftwork.cli._panels import PanelCommand, option
from graftwork.cli._run import session_to_its_end
from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from graftwork.runs import Result
    from graftwork.session import SearchConfig


@app.command(cls=PanelCommand)
def search(
    data: options.Data = None,
    image_size: options.ImageSize = None,
    skip_bad_images: options.SkipBad = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    image_root: options.ImageRoot = None,
    validation: Annotated[
        float | None, option("Data", "Images that selection sees: a share below 1, or a number.", rare=True)
    ] = None,
    blend: Annotated[
        float | None, option("Data", "Images that ensembles are fitted on: a share below 1, or a number.", rare=True)
    ] = None,
    test: Annotated[
        float | None, option("Data", "Images held out where the data have no test split, likewise.", rare=True)
    ] = None,
    budget: options.Budget = None,
    control: Annotated[
        bool | None, option("Budget", "Also train the seed network alone with the same FLOPs.", "--control")
    ] = None,
    seed: options.Seed = None,
    split_seed: Annotated[int | None, option("Budget", "Seed of the splits. [default: --seed]", rare=True)] = None,
    strategy: Annotated[
        str | None, option("Population", "What the search decides: {strategies}. [default: neuroevolution]")
    ] = None,
    selection: Annotated[str | None, option("Population", "Who survives: {selectors}. [default: greedy]")] = None,
    metric: Annotated[
        str | None,
        option(
            "Population",
            "What members are compared by: accuracy, balanced-accuracy, macro-f1 or log-loss. [default: accuracy]",
        ),
    ] = None,
    cost: Annotated[
        str | None,
        option(
            "Population",
            "What pareto selection weighs: flops, parameters or latency (measured here). [default: flops]",
            rare=True,
        ),
    ] = None,
    population_size: Annotated[int | None, option("Population", "M, members after mutation.")] = None,
    num_survivors: Annotated[
        int | None, option("Population", "K, members selected in each generation.", rare=True)
    ] = None,
    num_generations: Annotated[int | None, option("Population", "Rounds of select, mutate, train.")] = None,
    max_params: Annotated[int | None, option("Population", "Most parameters of a member.", rare=True)] = None,
    max_flops: Annotated[
        int | None, option("Population", "Most FLOPs of a member's forward pass, one image.", rare=True)
    ] = None,
    max_latency: Annotated[
        str | None, option("Population", "Most time of a member for one image, measured here: 5ms.", rare=True)
    ] = None,
    max_memory: Annotated[
        str | None,
        option("Machine", "Memory that training a member may take: 4GB. [default: 60 % of what is free]", rare=True),
    ] = None,
    min_shared_fraction: Annotated[
        float | None,
        option("Population", "τ: a child shares more than this part of its parameters with its parent.", rare=True),
    ] = None,
    concat_probability: Annotated[
        float | None, option("Population", "Probability that a widening writes half of the channels.", rare=True)
    ] = None,
    random_padding: Annotated[
        bool | None,
        option("Population", "Grow without preserving the function (control).", "--random-padding", rare=True),
    ] = None,
    trunk: Annotated[
        str | None,
        option(
            "Population",
            "Pretrained network under all members: hf:FOLDER, timm:NAME or FILE.py:FUNCTION (which is run).",
            rare=True,
        ),
    ] = None,
    trunk_rate: Annotated[
        float | None,
        option("Population", "Learning rate of the trunk's weights, such as 1e-5. [default: 0, frozen]", rare=True),
    ] = None,
    genome: Annotated[str | None, option("Population", "JSON file of the seed network's genome.", rare=True)] = None,
    recipe: options.Recipe = None,
    flip: options.Flip = None,
    augment: options.Augment = None,
    initial_steps: Annotated[int | None, option("Training", "N_i, updates of the seed alone.", rare=True)] = None,
    steps_per_generation: Annotated[int | None, option("Training", "N_j, updates a generation.", rare=True)] = None,
    batch_size: Annotated[int | None, option("Training", "Images an update.", rare=True)] = None,
    scoring_batch_size: Annotated[
        int | None, option("Training", "Images in a pass of scoring. [default: 500]", rare=True)
    ] = None,
    device: options.Device = None,
    workers: Annotated[
        int | None,
        option("Machine", "Processes that search together here (torchrun starts them on several). [default: 1]"),
    ] = None,
    sync_every: Annotated[
        int | None,
        option(
            "Machine",
            "Updates of each worker between two averagings, where there are members to deal; 0: workers share every "
            "batch, as they do in the first round (docs/scaling.md). [default: 16]",
            rare=True,
        ),
    ] = None,
    precision: options.Precision = None,
    passes: options.Passes = None,
    threads: options.Threads = None,
    checkpoint_every: Annotated[
        float | None, option("Machine", "Seconds between checkpoints. [default: 60]", rare=True)
    ] = None,
    out: options.Out = None,
    resume: Annotated[Path | None, option("Output", "Continue this run folder; takes no other options.")] = None,
    as_new: Annotated[
        Path | None,
        option("Output", "With --resume: begin another run here, from the options that stand there.", rare=True),
    ] = None,
    config: options.Config = None,
    log: options.Log = None,
    report: options.Report = True,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    help_all: options.HelpAll = False,
) -> None:
    """Evolve a population of networks on shared parameters, and leave a run folder with a report."""
    given = dict(locals())
    flags = {key: value for key, value in given.items() if key not in _NOT_OPTIONS}
    flags["max_parameters"] = flags.pop("max_params")
    if resume is not None:
        others = {**flags, "out": out, "config": config, "trunk": None}
        changed = [key for key, value in others.items() if value is not None]
        if changed:
            raise ConfigError(f"--resume: expected no other options, got {', '.join(sorted(changed))}; leave them out")
        begun = None if as_new is None else _options_of(resume)
        run_session(as_new or resume, begun, log=log, report=report, quiet=quiet, as_json=as_json, trunk=trunk)
        return
    if as_new is not None:
        raise ConfigError(f"--as-new {as_new}: expected --resume RUN beside it, which names the run to begin from")
    found = _load_config(config, flags)
    run_session(_folder(out, found), found, log=log, report=report, quiet=quiet, as_json=as_json, trunk=trunk)


def _options_of(run: Path) -> "SearchConfig":
    from graftwork.session import options_of

    return options_of(run)


_NOT_OPTIONS = ("out", "resume", "as_new", "config", "log", "report", "quiet", "as_json", "help_all")


@app.command(cls=PanelCommand)
def train(
    genome: Annotated[str, option("Population", "JSON file of a genome, or the name of a seed: {seeds}.")] = "default",
    data: options.Data = None,
    image_size: options.ImageSize = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    recipe: options.Recipe = None,
    flip: options.Flip = None,
    augment: options.Augment = None,
    device: options.Device = None,
    precision: options.Precision = None,
    passes: options.Passes = None,
    threads: options.Threads = None,
    out: options.Out = None,
    config: options.Config = None,
    log: options.Log = None,
    report: options.Report = True,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    help_all: options.HelpAll = False,
) -> None:
    """Train one genome alone, by the same recipes and budgets as a search."""
    from graftwork.networks.genome import SEEDS

    given = dict(locals())
    flags = {key: value for key, value in given.items() if key not in (*_NOT_OPTIONS, "genome", "SEEDS")}
    alone = {"num_generations": 0, "population_size": 1, "num_survivors": 1}
    flags |= alone | ({"seed_genome": genome} if genome in SEEDS else {"genome": genome})
    found = _load_config(config, flags)
    run_session(_folder(out, found), found, log=log, report=report, quiet=quiet, as_json=as_json)


@app.command(cls=PanelCommand)
def family(
    data: options.Data = None,
    image_size: options.ImageSize = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    sizes: Annotated[
        int | None,
        option("Population", "Number of sizes, from a quarter of the seed's hidden channels on. [default: 5]"),
    ] = None,
    genome: Annotated[str | None, option("Population", "JSON file of the seed network's genome.", rare=True)] = None,
    recipe: options.Recipe = None,
    flip: options.Flip = None,
    augment: options.Augment = None,
    device: options.Device = None,
    precision: options.Precision = None,
    passes: options.Passes = None,
    threads: options.Threads = None,
    out: options.Out = None,
    config: options.Config = None,
    log: options.Log = None,
    report: options.Report = True,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    help_all: options.HelpAll = False,
) -> None:
    """Train one growing network into a family of finished ones, from 0.25 to 4 times a seed, for one budget."""
    given = dict(locals())
    flags = {key: value for key, value in given.items() if key not in (*_NOT_OPTIONS, "sizes")}
    if sizes is not None:
        if sizes < 1:
            raise ConfigError(f"--sizes: expected a number above 0, got {sizes}; 5 is the default")
        flags |= {"num_generations": sizes, "population_size": sizes, "num_survivors": sizes}
    found = _load_config(config, {**flags, "strategy": "family"})
    run_session(_folder(out, found), found, log=log, report=report, quiet=quiet, as_json=as_json)


@app.command("config", cls=PanelCommand)
def show_config(
    data: options.Data = None,
    recipe: options.Recipe = None,
    budget: options.Budget = None,
    seed: options.Seed = None,
    config: options.Config = None,
) -> None:
    """Print the effective options as TOML, to be saved, changed and given back with --config."""
    tell(_load_config(config, {"data": data, "recipe": recipe, "budget": budget, "seed": seed}).to_toml())


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
    out: Path,
    config: "SearchConfig | None",
    *,
    report: bool,
    quiet: bool,
    as_json: bool,
    log: str | None = None,
    trunk: str | None = None,
) -> "Result | None":
    """Start (or, without a config, resume) a run and tell its result, alone or with other workers.

    A ``trunk`` that was named on the command itself may be code; with several workers it may not.

    Returns:
        What ``result.json`` holds; ``None`` where other processes do the work, or this one only takes part in it.
    """
    from graftwork.cli._workers import launch_session, lead, wanted_workers

    size, launching = wanted_workers(out, config)
    if launching:
        launch_session(size, out, config, log=log, report=report, quiet=quiet, as_json=as_json)
        return None
    if size > 1:
        return lead(out, config, log=log, report=report, quiet=quiet, as_json=as_json)
    return session_to_its_end(out, config, log=log, report=report, quiet=quiet, as_json=as_json, trunk=trunk)
