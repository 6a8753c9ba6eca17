"""Briefing: what rank 0 of a search tells the other ranks, and what they do with it.

Rank 0 runs a `graftwork.session.Session`: it alone has the run folder. The others `follow`: they are told config, plan
and state at the beginning of each stage, fresh or from a checkpoint, and run the same search beside it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from graftwork.errors import RunError, SearchInterruptedError
from graftwork.evolution import Plan, SearchState, search
from graftwork.machine import PrecisionChoice, ThreadsChoice
from graftwork.networks.genome import Genome, num_parameters, training_flops
from graftwork.runs import pack_state, unpack_optimizer, unpack_state, unpack_strategy
from graftwork.session._budget import parse_budget
from graftwork.session._config import SearchConfig
from graftwork.session._planning import make_plan, measure_speed, shared_part
from graftwork.session._setup import Problem, Setup, prepare
from graftwork.training import BankOptimizer, part_of
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
    timed = group is not None and config.budget is not None and parse_budget(config.budget).kind == "seconds"
    if group is None or not timed:
        return prepare(config, **known)
    setup = prepare(config, plan=_UNPLANNED, **known)
    group.send({"type": "prepare", "config": config.to_toml(), **_chosen(setup)})
    _plan_together(group, setup)
    return setup


_UNPLANNED = Plan(0, flops=1)
"""Until all ranks are ready to be timed."""


def _plan_together(group: Group, setup: Setup) -> None:
    """Time all ranks at once, as they will run, and plan for the FLOPs that they do together."""
    batch_size = setup.trainer.batch_size
    shared = shared_part(setup.config, batch_size=batch_size, num_workers=group.size)
    seconds = 0.0  # a FLOP, of all ranks
    if shared > 0:  # an update waits for its exchange
        genome, part = setup.population.genomes[0], part_of(batch_size, group.rank, group.size)
        update = training_flops(genome, batch_size)
        exchange = time_exchange(num_parameters(genome), group, setup.config.device)
        speed = group.sum_at_once(lambda: measure_speed(setup, part.stop - part.start))
        seconds += shared * (1 / speed + exchange / update)
    if shared < 1:
        seconds += (1 - shared) / group.sum_at_once(lambda: measure_speed(setup, batch_size))
    setup.speed = 1 / seconds
    setup.plan = make_plan(setup)


def _chosen(setup: Setup) -> dict[str, Any]:
    """What was chosen for this machine, for the others to follow."""
    return {"precision": setup.precision.to_dict(), "threads": setup.threads.to_dict()}


def _follow_choice(message: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `prepare`, from what `_chosen` gave."""
    return {
        "precision_choice": PrecisionChoice(**message["precision"]),
        "threads_choice": ThreadsChoice.from_dict(message["threads"]),
    }


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
        **_chosen(setup),
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
        if message["type"] == "prepare":
            _plan_together(group, prepare(config, problem=problem, plan=_UNPLANNED, **_follow_choice(message)))
        else:
            _stage(group, config, problem, message, tensors)


def _stage(
    group: Group, config: SearchConfig, problem: Problem, message: Mapping[str, Any], tensors: Mapping[str, Tensor]
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
        **_follow_choice(message),
    )
    adopt(setup, message["search"], tensors)

    def observe(state: SearchState, member: str, loss: float, progress: float) -> None:
        if group.stopping:
            raise SearchInterruptedError(f"worker {group.rank}: stopped with the others after step {state.step}")

    for _ in search(setup.state, observer=observe, **{**shared_parts(setup, group), **message["numbers"]}):
        pass
