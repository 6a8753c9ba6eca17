"""A search by several ranks: rank 0 leads it, the others follow.

Rank 0 runs a `graftwork.session.Session`: it alone has the run folder. It announces each stage to the others, with
config, plan and state, new or from a checkpoint; they `follow` and run the same search beside it.
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
from graftwork.machine import Machine, Speed
from graftwork.networks.genome import Genome, num_parameters, training_flops
from graftwork.runs import pack_state, unpack_optimizer, unpack_state, unpack_strategy
from graftwork.session._config import SearchConfig
from graftwork.session._planning import TIME_MARGIN, measure_speed, shared_fraction
from graftwork.session._problem import Problem
from graftwork.session._setup import Setup, prepare
from graftwork.training import BankOptimizer, Recipe, part_of
from graftwork.workers import Group, SharedScorer, time_exchange, train_together


def restore(setup: Setup, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SearchState:
    """Put a state that `graftwork.runs.pack_state` stored into a setup, and return it."""
    state = setup.state = unpack_state(data, tensors)
    state.population.to(setup.config.device)
    setup.trainer.optimizer = BankOptimizer(
        state.population.bank, setup.recipe.rules, beside=setup.trainer.optimizer.beside
    )
    unpack_optimizer(setup.trainer.optimizer, data, tensors)
    unpack_strategy(setup.strategy, data, tensors)
    return state


def shared_parts(setup: Setup, group: Group | None) -> dict[str, Any]:
    """Return the parts of a search whose trainer and scorer use all ranks; ``None``: this process alone."""
    if group is None:
        return setup.parts
    trainer = train_together(setup.trainer, group, setup.config.sync_every)
    return {**setup.parts, "trainer": trainer, "scorer": SharedScorer(setup.scorer, group)}


def prepare_together(config: SearchConfig, group: Group | None, **known: Any) -> Setup:
    """Prepare a search on rank 0.

    All ranks use the precision and threads of rank 0. A time budget buys the FLOPs that all ranks together do in that
    time: all are timed at once, as they will run.

    Args:
        config: Options of the search.
        group: The ranks; ``None``: this process alone.
        **known: Further arguments of `graftwork.prepare`.
    """
    if group is None:
        return prepare(config, **known)

    def time_speed(
        recipe: Recipe, genome: Genome, machine: Machine, *, batch_size: int, device: torch.device, effort: float
    ) -> Speed:
        group.send({"type": "time", "config": config.to_toml(), "machine": machine.to_dict()})
        how: Any = {"batch_size": batch_size, "device": device, "effort": effort}
        return _time_together(group, config.sync_every, recipe, genome, machine, **how)

    return prepare(config, time_speed=time_speed, processes=group.local_size, **known)


def _time_together(
    group: Group,
    sync_every: int,
    recipe: Recipe,
    genome: Genome,
    machine: Machine,
    *,
    batch_size: int,
    device: torch.device,
    effort: float,
) -> Speed:
    """Time all ranks at once, as they will run; return the speed to plan with, which they reach together."""
    shared = shared_fraction(recipe, sync_every=sync_every, batch_size=batch_size, num_workers=group.size)

    def speed(size: int) -> float:
        how: Any = {"batch_size": size, "device": device, "effort": effort}
        return group.sum_at_once(lambda: measure_speed(recipe, genome, machine, **how).mean(recipe.small_share))

    seconds = 0.0  # that all ranks together take for one FLOP
    if shared > 0:  # an update waits for its exchange
        part = part_of(batch_size, group.rank, group.size)
        exchange = time_exchange(num_parameters(genome), group, device)
        update = training_flops(genome, batch_size)
        seconds += shared * (1 / speed(part.stop - part.start) + exchange / update)
    if shared < 1:
        seconds += (1 - shared) / speed(batch_size)
    planned = TIME_MARGIN / seconds  # their plan holds to the end, so it has to leave some time
    return Speed(planned, planned)


def announce(group: Group, setup: Setup, genome: Genome, **numbers: int) -> None:
    """Tell the other ranks on rank 0 that a stage begins or continues.

    Args:
        group: The ranks.
        setup: The stage with its present state.
        genome: The seed network.
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
    """Tell the other ranks on rank 0 that nothing is left to do."""
    if group is not None:
        group.send({"type": "end"})


def follow(group: Group) -> None:
    """Take part in the stages that rank 0 announces until it says that there are no more.

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
            f"worker {group.rank}: expected the data of rank 0 ({message['fingerprint'][:12]}) in {config.data!r}, got "
            f"{problem.dataset.fingerprint[:12]}; give all machines the same data"
        )
    setup = prepare(
        config,
        problem=problem,
        seed_network=Genome.from_dict(message["genome"]),
        plan=Plan(**message["plan"]),
        machine=machine,
    )
    restore(setup, message["search"], tensors)

    def observe(state: SearchState, member: str, loss: float, progress: float) -> None:
        if group.stopping:
            raise SearchInterruptedError(f"worker {group.rank}: stopped with the others after step {state.step}")

    for _ in search(setup.state, observer=observe, **{**shared_parts(setup, group), **message["numbers"]}):
        pass
