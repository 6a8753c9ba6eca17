"""From a config to the objects of a search."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from graftwork.errors import ConfigError
from graftwork.evolution import Plan, Plans, Population, SearchState
from graftwork.evolution.strategies import Strategy, first_genome
from graftwork.machine import (
    HURRY,
    Latencies,
    Machine,
    Speed,
    TimedNetwork,
    choose_kernels,
    choose_precision,
    choose_threads,
    device_of,
    memory_limit,
    parse_latency,
)
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import TRAINING_FACTOR, Genome, num_parameters, training_flops
from graftwork.session._config import SearchConfig
from graftwork.session._data import load_data
from graftwork.session._growth import strategy_of, typical_genome
from graftwork.session._planning import make_plan, measure_speed
from graftwork.session._problem import Problem, seed_of
from graftwork.session._sizing import memory_of, rough_speed
from graftwork.session._timing import Timing, effort_of, timing_of
from graftwork.training import BankOptimizer, BatchStream, MemoryLimit, Recipe, Scorer, Trainer, resident

_FEW = 32
"""Images in a step that is timed in a hurry."""


@dataclass
class Setup:
    """Everything that `graftwork.search` takes, ready.

    Args:
        config: Options that it was made from.
        problem: The data.
        recipe: The config's recipe, with what it leaves to the data decided.
        state: A population that holds the seed.
        trainer: Makes one update of one member.
        scorer: Scores members on the validation split.
        strategy: Decides who trains, survives and grows.
        plan: How much work each round gets.
        machine: How steps run, and what was measured for it. Passes and threads are settings of the process.
        timing: What a budget of time allows; ``None`` for other budgets.
        latencies: How long networks take for one image; ``None`` where nothing is decided by it.
        memory: Estimates what members take; ``None``: nothing is known of memory.
        notes: What was decided for these data, budget and memory, a sentence each.

    Attributes:
        plans: The plan, and those that were made after it.
    """

    config: SearchConfig
    problem: Problem
    recipe: Recipe
    state: SearchState
    trainer: Trainer
    scorer: Scorer
    strategy: Strategy
    plan: Plan
    machine: Machine
    timing: Timing | None = None
    latencies: Latencies | None = None
    memory: MemoryLimit | None = None
    notes: tuple[str, ...] = ()
    plans: Plans = field(init=False)

    def __post_init__(self) -> None:
        self.plans = Plans(self.plan)

    @property
    def seed_network(self) -> Genome:
        """The genome that the search began with."""
        return self.population.lineage[0].genome

    @property
    def step_seconds(self) -> float | None:
        """Seconds of an update of the seed network, as measured; ``None`` where nothing was."""
        if self.timing is not None:
            return training_flops(self.seed_network, self.trainer.batch_size) / self.timing.speed.whole
        seconds, threads = self.machine.seconds, self.machine.threads
        return seconds.get(f"{threads} thread{'s' if threads > 1 else ''}", seconds.get(self.machine.precision))

    @property
    def population(self) -> Population:
        """The state's population."""
        return self.state.population

    @property
    def parts(self) -> dict[str, Any]:
        """Keyword arguments of `graftwork.search` beside the state."""
        return {
            "strategy": self.strategy,
            "trainer": self.trainer,
            "scorer": self.scorer,
            "plan": self.plans,
            "num_survivors": self.recipe.num_survivors,
            "population_size": self.recipe.population_size,
        }

    @property
    def decided(self) -> dict[str, Any]:
        """How members are trained and compared, as decided for these data; plain data."""
        return {
            "augmentation": self.recipe.augmentation.to_dict(),
            "weight_decay": {role: rule.weight_decay for role, rule in self.recipe.rules.items()},
            "class_weights": self.recipe.class_weights,
            "metric": self.config.metric,
        }

    def __repr__(self) -> str:
        return f"<Setup: {self.problem.dataset!r}, recipe {self.config.recipe.name!r}, {self.plan}>"


def prepare(  # noqa: PLR0913 - what an earlier run decided is given one by one
    config: SearchConfig | None = None,
    *,
    problem: Problem | None = None,
    seed_network: Genome | None = None,
    plan: Plan | None = None,
    machine: Machine | None = None,
    time_speed: Callable[..., Speed] = measure_speed,
    processes: int = 1,
    speed: float | None = None,
    latencies: Mapping[str, float] | None = None,
    began: float | None = None,
    race: bool = False,
    **options: Any,
) -> Setup:
    """Load the data, make the seed network, measure what has to be measured, and fix the plan.

    Args:
        config: Options; ``None``: made from ``options`` (see `SearchConfig.from_dict`).
        problem: The data, if it is loaded already; sizes that a config leaves open are then as they are.
        seed_network: h_i; ``None``: the recipe's.
        plan: Plan of an earlier run, to be followed; ``None``: made from the budget.
        machine: How an earlier run used its machine, to be followed; ``None``: as the config says. Passes and threads
            are set for the process.
        time_speed: Measures the speed that a budget of time needs; called as `measure_speed` is.
        processes: Processes that search together on this machine, which share its memory.
        speed: Training FLOPs per second, roughly (see `graftwork.session._sizing.rough_speed`); ``None``: measured here
            where a budget of time needs it.
        latencies: Seconds by genome that an earlier run measured, to be followed; ``None``: none.
        began: Moment, by `time.monotonic`, from which a budget of time counts; ``None``: now.
        race: Whether the plan leaves work for a race over mirroring, where the recipe leaves that to one (``"auto"``);
            a `Session` runs it.
        **options: Only without ``config``; ``data`` may also be a frame, arrays or a data set that the program holds
            (see `graftwork.load_dataset`).

    Raises:
        ConfigError: If an option is wrong, the budget is too small for one step, or the seed network does not fit into
            memory.
        DataError: If the data can't be used.
    """
    if config is not None and options:
        raise ConfigError(
            f"prepare: expected a config or options, got both ({', '.join(sorted(options))}); put the options into the "
            "config"
        )
    held = options.get("data")
    if held is None or isinstance(held, str | Path):
        held = None
    else:
        options["data"] = "memory"
    began, notes = monotonic() if began is None else began, tuple[str, ...]()
    config = config or SearchConfig.from_dict(options)
    threads = config.threads if machine is None else machine.threads
    if threads is not None:  # otherwise they are measured further down
        torch.set_num_threads(threads)
    if speed is None and machine is None and config.budget is not None and config.budget.kind == "seconds":
        speed = rough_speed(config)
    if problem is None:
        config, problem, notes = load_data(config, speed=speed, processes=processes, held=held)
    genome = seed_network or first_genome(config.strategy, seed_of(config, problem))
    device = device_of(config.device)
    most = machine.memory if machine is not None else memory_limit(config.max_memory, device, processes=processes)
    memory = _memory_of(config, genome, problem, most, machine=machine)
    recipe = problem.fit(config.recipe)
    rows = problem.calibration_rows(recipe.num_calibration)
    calibration = problem.images(rows)
    rng = np.random.default_rng(config.seed)
    population = Population()
    with _one_thread(), torch.no_grad():
        population.add_seed(
            genome,
            generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
            initialisation=recipe.initialisation,
            images=problem.transform(calibration),
        )
    population.to(device)
    batches = BatchStream(
        resident(problem.dataset.images, device),
        problem.dataset.labels,
        problem.splits.train,
        batch_size=recipe.batch_size,
        seed=config.seed,
        augmentation=recipe.augmentation,
        transform=problem.transform,
        device=device,
    )
    effort = effort_of(config.budget, speed and training_flops(genome, batches.batch_size) / speed)
    used = _use_machine(config, genome, batches, device, memory=memory, followed=machine, effort=effort)
    machine = replace(used, memory=most)
    measured = _latencies(config, genome, device, latencies)
    weights = problem.class_weights(recipe)
    trainer = Trainer(
        BankOptimizer(population.bank, recipe.rules, beside=problem.beside(config.trunk_rate, device)),
        batches=batches,
        schedule=recipe.make_schedule(),
        label_smoothing=recipe.label_smoothing,
        precision=machine.precision,
        lr_scale=recipe.lr_scale,
        reference_parameters=num_parameters(genome),
        class_weights=None if weights is None else weights.to(device),
    )
    scorer = Scorer(
        problem.images(problem.splits.validation),
        problem.labels(problem.splits.validation),
        transform=problem.transform,
        calibration=calibration,
        batch_size=config.scoring_batch_size,
        precision=machine.precision,
        device=device,
        metric=config.metric,
    )
    timing = None
    if plan is None:
        raced = race and config.recipe.augmentation.flip == "auto" and problem.trunk is None
        given: dict[str, Any] = {
            "machine": machine,
            "began": began,
            "race": raced,
            "time": partial(time_speed, effort=effort),
        }
        timing, plan = _planned(config, recipe, genome, scorer, problem, **given)
    state = SearchState(population, rng)
    memory = memory and replace(memory, precision=machine.precision, passes=machine.passes)
    strategy = strategy_of(config, memory, measured)
    parts = (config, problem, recipe, state, trainer, scorer, strategy, plan, machine)
    return Setup(*parts, timing=timing, latencies=measured, memory=memory, notes=notes)


def _latencies(
    config: SearchConfig, genome: Genome, device: torch.device, known: Mapping[str, float] | None
) -> Latencies | None:
    """What measures networks where the search decides by it; the seed, which has to be fast enough, comes first.

    Raises:
        ConfigError: If it is not.
    """
    if not config.measures_latency:
        return None
    found = Latencies(device, known)
    seconds = found(genome)
    if config.max_latency is not None and seconds > parse_latency(config.max_latency):
        raise ConfigError(
            f"max_latency: expected a seed network that takes at most {config.max_latency} for an image, got one that "
            f"takes {1000 * seconds:.3g} ms here; allow more, or give a smaller --genome or --image-size"
        )
    return found


def _planned(
    config: SearchConfig,
    recipe: Recipe,
    genome: Genome,
    scorer: Scorer,
    problem: Problem,
    *,
    machine: Machine,
    began: float,
    race: bool,
    time: Callable[..., Speed],
) -> tuple[Timing | None, Plan]:
    """The first plan, and what a budget of time allows; arguments as in `prepare`."""
    budget = config.budget
    size = min(recipe.batch_size, len(problem.splits.train))
    known: dict[str, Any] = {"batch_size": size, "scoring_flops": scorer.flops([genome]), "race": race}
    if budget is None or budget.kind != "seconds":
        return None, make_plan(budget, recipe, genome, **known, extra=TRAINING_FACTOR * size * scorer.transform.flops)
    device = device_of(config.device)
    speed = time(recipe, genome, machine, batch_size=size, device=device)
    timing = timing_of(config, problem.splits, genome, speed, num_calibration=scorer.num_calibration)
    for generations in (recipe.num_generations, 0):
        seconds = timing.left(monotonic() - began, 0.0, ending=timing.ending(generations))
        plan = make_plan(budget, recipe, genome, **known, speed=speed.mean(recipe.small_share), seconds=seconds)
        if plan.num_generations > 0 or generations == 0:
            break
    return timing, plan


def _memory_of(
    config: SearchConfig, genome: Genome, problem: Problem, most: int | None, *, machine: Machine | None
) -> MemoryLimit | None:
    """The limit for members, which the seed keeps; ``None`` where nothing is known of memory.

    Raises:
        ConfigError: If the seed network does not fit.
    """
    most = problem.memory_left(most, config.recipe.batch_size)
    if most is None:
        return None
    limit = memory_of(config, most, genome, machine=machine)
    if not limit.holds(genome):
        raise ConfigError(
            f"memory: expected a seed network that trains in {most / 1e9:.3g} GB, got one that takes about "
            f"{limit.needed(genome) / 1e9:.3g} GB; lower batch_size, scoring_batch_size or num_calibration, or raise "
            "max_memory"
        )
    return limit


def _use_machine(
    config: SearchConfig,
    genome: Genome,
    batches: BatchStream,
    device: torch.device,
    *,
    memory: MemoryLimit | None,
    followed: Machine | None,
    effort: float,
) -> Machine:
    """Set passes and threads for the process: as an earlier run had them, as asked for, or as measured."""
    if device.type == "cuda":  # a resume comes to the same bits
        torch.backends.cudnn.deterministic = True
    kernels = choose_kernels(config.passes, device, followed=followed, effort=effort)
    timed = partial(
        TimedNetwork,
        rules=config.recipe.rules,
        batch_size=batches.batch_size,
        # behind a trunk that is trained, it changes images, and the network that is timed here reads features
        augmentation=None if batches.transform.flops else batches.augmentation,
        device=device,
    )
    machine = followed or choose_precision(
        typical_genome(config, genome, memory),
        precision=config.precision,
        passes=config.passes,
        kernels=kernels,
        timed=timed,
        effort=effort,
    )
    set_kernels(kernels if machine.passes == "compiled" else None)
    if followed is None:
        if effort < HURRY:
            timed = partial(timed, batch_size=min(_FEW, batches.batch_size))
        machine = choose_threads(machine, genome, threads=config.threads, device=device, timed=timed, effort=effort)
    torch.set_num_threads(machine.threads)
    return machine


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: what is made inside must not depend on the number of threads, which is not chosen yet."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
