"""From a config to the objects of a search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftwork._files import parse_json, read_named
from graftwork.errors import ConfigError
from graftwork.evolution import Plan, Population, SearchState
from graftwork.evolution.strategies import Strategy
from graftwork.machine import (
    Machine,
    TimedNetwork,
    choose_kernels,
    choose_precision,
    choose_threads,
    device_of,
    memory_limit,
)
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import Genome, num_parameters, seed_genome
from graftwork.session._config import SearchConfig
from graftwork.session._growth import strategy_of, typical_genome
from graftwork.session._planning import make_plan, measure_speed
from graftwork.session._problem import Problem
from graftwork.training import BankOptimizer, BatchStream, MemoryLimit, Recipe, Scorer, Trainer


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
        speed: Measured training FLOPs per second; ``None`` where the budget needs none.
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
    speed: float | None = None

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
            "plan": self.plan,
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


def prepare(
    config: SearchConfig | None = None,
    *,
    problem: Problem | None = None,
    seed_network: Genome | None = None,
    plan: Plan | None = None,
    machine: Machine | None = None,
    time_speed: Callable[..., float] = measure_speed,
    processes: int = 1,
    race: bool = False,
    **options: Any,
) -> Setup:
    """Load the data, make the seed network, measure what has to be measured, and fix the plan.

    Args:
        config: Options; ``None``: made from ``options`` (see `SearchConfig.from_dict`).
        problem: The data, if it is loaded already.
        seed_network: h_i; ``None``: the recipe's.
        plan: Plan of an earlier run, to be followed; ``None``: made from the budget.
        machine: How an earlier run used its machine, to be followed; ``None``: as the config says. Passes and threads
            are set for the process.
        time_speed: Measures the training FLOPs per second that a budget of time needs; called as `measure_speed` is.
        processes: Processes that search together on this machine, which share its memory.
        race: Whether the plan leaves work for a race over mirroring, where the recipe leaves that to one (``"auto"``);
            a `Session` runs it.
        **options: Only without ``config``.

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
    config = config or SearchConfig.from_dict(options)
    threads = config.threads if machine is None else machine.threads
    if threads is not None:  # otherwise they are measured further down
        torch.set_num_threads(threads)
    problem = problem or Problem.load(config)
    recipe, device = problem.fit(config.recipe), device_of(config.device)
    genome = seed_network or seed_of(config, problem)
    rows = problem.calibration_rows(recipe.num_calibration)
    most = machine.memory if machine is not None else memory_limit(config.max_memory, device, processes=processes)
    memory = _memory_of(config, genome, most, num_calibration=len(rows), machine=machine)
    calibration = problem.images(rows)
    rng = np.random.default_rng(config.seed)
    population = Population()
    with _one_thread():
        population.add_seed(
            genome,
            generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
            initialisation=recipe.initialisation,
            images=problem.transform(calibration),
        )
    population.to(device)
    batches = BatchStream(
        problem.dataset.images,
        problem.dataset.labels,
        problem.splits.train,
        batch_size=recipe.batch_size,
        seed=config.seed,
        augmentation=recipe.augmentation,
        transform=problem.transform,
        device=device,
    )
    machine = replace(_use_machine(config, genome, batches, device, memory=memory, followed=machine), memory=most)
    weights = problem.class_weights(recipe)
    trainer = Trainer(
        BankOptimizer(population.bank, recipe.rules),
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
    speed, size = None, batches.batch_size
    if plan is None:
        if config.budget is not None and config.budget.kind == "seconds":
            speed = time_speed(recipe, genome, machine, batch_size=size, device=device)
        scoring_flops = scorer.flops([genome])
        raced = race and config.recipe.augmentation.flip == "auto"
        plan = make_plan(
            config.budget, recipe, genome, batch_size=size, scoring_flops=scoring_flops, speed=speed, race=raced
        )
    state = SearchState(population, rng)
    memory = memory and replace(memory, precision=machine.precision, passes=machine.passes)
    return Setup(config, problem, recipe, state, trainer, scorer, strategy_of(config, memory), plan, machine, speed)


def _memory_of(
    config: SearchConfig, genome: Genome, most: int | None, *, num_calibration: int, machine: Machine | None
) -> MemoryLimit | None:
    """The limit for members, which the seed keeps; what is not measured yet counts as what takes most.

    Raises:
        ConfigError: If the seed network does not fit.
    """
    if most is None:
        return None
    precision = machine.precision if machine else "bfloat16" if config.precision == "bfloat16" else "float32"
    passes = machine.passes if machine else "compiled" if config.passes == "compiled" else "torch"
    size, scoring = config.recipe.batch_size, max(config.scoring_batch_size, num_calibration)
    limit = MemoryLimit(most, size, scoring, config.recipe.rules, precision, passes)
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
) -> Machine:
    """Set passes and threads for the process: as an earlier run had them, as asked for, or as measured."""
    kernels = choose_kernels(config.passes, device, followed=followed)
    timed = partial(
        TimedNetwork,
        rules=config.recipe.rules,
        batch_size=batches.batch_size,
        augmentation=batches.augmentation,
        device=device,
    )
    machine = followed or choose_precision(
        typical_genome(config, genome, memory),
        precision=config.precision,
        passes=config.passes,
        kernels=kernels,
        timed=timed,
    )
    set_kernels(kernels if machine.passes == "compiled" else None)
    if followed is None:
        machine = choose_threads(machine, genome, threads=config.threads, device=device, timed=timed)
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


def seed_of(config: SearchConfig, problem: Problem) -> Genome:
    """Return h_i for a problem: from the config's file, or the recipe's.

    Raises:
        ConfigError: If the file can't be read, or its genome is for other images or classes.
    """
    classes = len(problem.dataset.class_names)
    if config.genome is None:
        return seed_genome(config.recipe.seed_genome, problem.input_shape, classes)
    try:
        data = read_named(Path(config.genome))
    except (OSError, ValueError) as error:
        raise ConfigError(f"genome: expected a JSON file, got {config.genome} ({error}); check the path") from error
    genome = Genome.from_dict(parse_json(data, config.genome, error=ConfigError))
    if genome.input_shape != problem.input_shape or genome.num_classes != classes:
        raise ConfigError(
            f"genome: expected one for images {problem.input_shape} of {classes} classes, as the data are, got "
            f"{genome.input_shape} and {genome.num_classes} in {config.genome}; make one for these data"
        )
    return genome
