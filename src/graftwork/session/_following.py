"""Briefing: what rank 0 of a search tells the other ranks, and what they do with it.

Rank 0 runs a `graftwork.session.Session`: it alone has the run folder. The others `follow`: they are told config, plan
and state at the beginning of each stage, fresh or from a checkpoint, and run the same search beside it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import RunError, SearchInterruptedError
from graftwork.evolution import Plan, SearchState, search
from graftwork.machine import Machine
from graftwork.networks.genome import Genome, num_parameters, training_flops
from graftwork.runs import pack_state, unpack_optimizer, unpack_state, unpack_strategy
from graftwork.session._config import SearchConfig
from graftwork.session._planning import measure_speed, shared_fraction
from graftwork.session._problem import Problem
from graftwork.session._setup import Setup, prepare
from graftwork.training import BankOptimizer, Recipe, part_of
from graftwork.workers import Group, SharedScorer, time_exchange, train_together


def adopt(setup: Setup, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SearchState:
    """Let a setup go on from a state that `graftwork.runs.pack_state` stored."""
    state = setup.state = unpack_state(data, tensors)
    state.population.to(setup.config.device)
    setup.trainer.optimizer = BankOptimizer(state.population.bank, setup.config.recipe.rules)
    unpack_optimizer(setup.trainer.optimizer, data, tensors)
    unpack_strategy(setup.strategy, data, tensors)
    return state


def shared_parts(setup: Setup, group: Group | None) -> dict[str, Any]:
    """The parts of a search, of which all ranks of a group do their share; ``None``: this process alone."""
    if group is None:
        return setup.parts
    trainer = train_together(setup.trainer, group, setup.config.sync_every)
    return {**setup.parts, "trainer": trainer, "scorer": SharedScorer(setup.scorer, group)}


def prepare_together(config: SearchConfig, group: Group | None, **known: Any) -> Setup:
    """Prepare a search; rank 0's part.

    Precision and threads are rank 0's on all ranks. A time budget buys the FLOPs that all ranks together do in that
    time: all are timed at once, as they will run.

    Args:
        config: Options.
        group: The ranks; ``None``: this process alone.
        **known: As of `graftwork.prepare`.
    """
    if group is None:
        return prepare(config, **known)

    def time_speed(recipe: Recipe, genome: Genome, machine: Machine, *, batch_size: int, device: torch.device) -> float:
        group.send({"type": "time", "config": config.to_toml(), "machine": machine.to_dict()})
        return _time_together(group, config.sync_every, recipe, genome, machine, batch_size=batch_size, device=device)

    return prepare(config, time_speed=time_speed, **known)


def _time_together(
    group: Group,
    sync_every: int,
    recipe: Recipe,
    genome: Genome,
    machine: Machine,
    *,
    batch_size: int,
    device: torch.device,
) -> float:
    """Training FLOPs per second of all ranks, which are timed at once, as they will run."""
    shared = shared_fraction(recipe, sync_every=sync_every, batch_size=batch_size, num_workers=group.size)

    def speed(size: int) -> float:
        return group.sum_at_once(lambda: measure_speed(recipe, genome, machine, batch_size=size, device=device))

    seconds = 0.0  # a FLOP, of all ranks
    if shared > 0:  # an update waits for its exchange
        part = part_of(batch_size, group.rank, group.size)
        exchange = time_exchange(num_parameters(genome), group, device)
        update = training_flops(genome, batch_size)
        seconds += shared * (1 / speed(part.stop - part.start) + exchange / update)
    if shared < 1:
        seconds += (1 - shared) / speed(batch_size)
    return 1 / seconds


def brief(group: Group, setup: Setup, genome: Genome, **numbers: int) -> None:
    """Tell the other ranks of a stage that begins or goes on; rank 0's part.

    Args:
        group: The ranks.
        setup: As it stands.
        genome: Of the seed network.
        **numbers: ``num_survivors`` and ``population_size`` of the stage.
    """
    data, tensors = pack_state(setup.state, setup.trainer.optimizer, setup.strategy)
    message = {
        "type": "stage",
        "config": setup.config.to_toml(),
        "genome": genome.to_dict(),
        "plan": asdict(setup.plan),
        "machine": setup.machine.to_dict(),
        "fingerprint": setup.problem.dataset.fingerprint,
        "numbers": numbers,
        "search": data,
    }
    group.send(message, tensors)


def dismiss(group: Group | None) -> None:
    """Tell the other ranks that nothing is left to do; rank 0's part."""
    if group is not None:
        group.send({"type": "end"})


def follow(group: Group) -> None:
    """Do what rank 0 tells until it says that it is over; the part of all other ranks.

    Raises:
        SearchInterruptedError: If one of the ranks was asked to stop.
        RunError: If this rank finds other data than rank 0.
        ResourceError: If another rank was lost.
    """
    problem: Problem | None = None
    while True:
        message, tensors = group.receive()
        if message["type"] == "end":
            return
        config = SearchConfig.from_dict(tomllib.loads(message["config"]))
        config = replace(config, device=group.device(config.device))
        problem = problem or Problem.load(config)
        machine = Machine.from_dict(message["machine"])
        if message["type"] == "time":
            time_speed = partial(_time_together, group, config.sync_every)
            prepare(config, problem=problem, machine=machine, time_speed=time_speed)
        else:
            _stage(group, config, problem, machine, message, tensors)


def _stage(
    group: Group,
    config: SearchConfig,
    problem: Problem,
    machine: Machine,
    message: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    if problem.dataset.fingerprint != message["fingerprint"]:
        raise RunError(
            f"worker {group.rank}: {config.data!r} holds other data here than where rank 0 runs "
            f"({problem.dataset.fingerprint[:12]}, not {message['fingerprint'][:12]}); give all machines the same"
        )
    setup = prepare(
        config,
        problem=problem,
        seed_network=Genome.from_dict(message["genome"]),
        plan=Plan(**message["plan"]),
        machine=machine,
    )
    adopt(setup, message["search"], tensors)

    def observe(state: SearchState, member: str, loss: float, progress: float) -> None:
        if group.stopping:
            raise SearchInterruptedError(f"worker {group.rank}: stopped with the others after step {state.step}")

    for _ in search(setup.state, observer=observe, **{**shared_parts(setup, group), **message["numbers"]}):
        pass
