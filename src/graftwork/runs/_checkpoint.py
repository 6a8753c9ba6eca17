"""A search between two updates, as plain data and tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from graftwork._files import damaged
from graftwork.errors import RunError
from graftwork.evolution import Birth, Population, SearchState
from graftwork.evolution.mutation import MutationReport
from graftwork.evolution.strategies import Strategy
from graftwork.networks.bank import BlockBank, check_entries
from graftwork.networks.execution import Form
from graftwork.networks.genome import Genome
from graftwork.runs._tensors import scoped, unscoped
from graftwork.typing import BlockId, MemberId

STATE_VERSION = 1


class StatefulOptimizer(Protocol):
    """What a checkpoint needs of an optimizer (see `graftwork.training.BankOptimizer`)."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...
    def load_state(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None: ...


def pack_state(
    state: SearchState, optimizer: StatefulOptimizer, strategy: Strategy
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything that a resumed search needs: JSON-able data, and tensors by name."""
    own = strategy.state_dict()
    kept = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    population = state.population
    moments, scalars = optimizer.state()
    statistics = {
        f"{member_id}/{block_id}/{name}": tensor
        for member_id, member in population.members.items()
        for block_id, pair in member.statistics.items()
        for name, tensor in zip(("mean", "var"), pair, strict=True)
    }
    data = {
        "version": STATE_VERSION,
        "generation": state.generation,
        "begun": state.begun,
        "finished": state.finished,
        "step": state.step,
        "training_flops": state.training_flops,
        "scoring_flops": state.scoring_flops,
        "survivors": list(state.survivors),
        "accuracies": dict(state.accuracies),
        "report": asdict(state.report),
        "loss_sum": state.loss_sum,
        "loss_count": state.loss_count,
        "failing": dict(state.failing),
        "skipped": dict(state.skipped),
        "dropped": list(state.dropped),
        "rates": dict(state.rates),
        "rng": state.rng.bit_generator.state,
        "alive": list(population.members),
        "held": list(population.held),
        "lineage": [{**asdict(birth), "genome": birth.genome.to_dict()} for birth in population.lineage],
        "bank": population.bank.layout(),
        "optimizer": scalars,
        "strategy": {name: value for name, value in own.items() if name not in kept},
    }
    tensors = scoped("bank", population.bank.state()) | scoped("optimizer", moments) | scoped("statistics", statistics)
    return data, tensors | scoped("strategy", kept)


def unpack_optimizer(optimizer: StatefulOptimizer, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Let an optimizer over the unpacked bank go on from what `pack_state` stored."""
    with damaged("checkpoint: optimizer"):
        optimizer.load_state(unscoped("optimizer", tensors), data["optimizer"])


def unpack_strategy(strategy: Strategy, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Let a strategy continue from what `pack_state` stored."""
    with damaged("checkpoint: strategy"):
        strategy.load_state_dict({**data["strategy"], **unscoped("strategy", tensors)})


def _check_line(lineage: Iterable[Birth]) -> None:
    """Refuse members without a line to a seed: of a parent that was born later, as is each of a ring, or never."""
    known: set[MemberId | None] = {None}
    for birth in lineage:
        if birth.parent not in known or birth.id in known:
            raise RunError(
                f"checkpoint: expected parents before their children, each once, got {ascii(birth.id)[:80]} of "
                f"{ascii(birth.parent)[:80]}; it is damaged"
            )
        known.add(birth.id)


def unpack_state(data: Mapping[str, Any], tensors: Mapping[str, Tensor], *, form: Form = "fused") -> SearchState:
    """Build the state that `pack_state` stored; `unpack_optimizer` does the optimizer's part.

    Raises:
        RunError: If the checkpoint is of another version or incomplete.
    """
    found = data.get("version") if isinstance(data, Mapping) else None
    if found != STATE_VERSION:
        raise RunError(f"checkpoint: expected version {STATE_VERSION}, got {ascii(found)[:80]}")
    with damaged("checkpoint"):
        bank = BlockBank.from_state(unscoped("bank", tensors), data["bank"])
        lineage = [Birth(**{**birth, "genome": Genome.from_dict(birth["genome"])}) for birth in data["lineage"]]
        _check_line(lineage)
        stored: dict[MemberId, dict[BlockId, tuple[Tensor, Tensor]]] = {MemberId(m): {} for m in data["alive"]}
        values = unscoped("statistics", tensors)
        for name, mean in values.items():
            member_id, block_id, which = name.split("/")
            if which == "mean":
                stored[MemberId(member_id)][BlockId(block_id)] = (mean, values[f"{member_id}/{block_id}/var"])
        for birth in lineage:
            if birth.id in stored:
                check_entries(birth.genome, bank)
        report = data["report"]
        population = Population.restore(bank, lineage, stored, form=form)
        population.held = tuple(BlockId(block_id) for block_id in data["held"])
        rng = np.random.default_rng()
        rng.bit_generator.state = data["rng"]
        return SearchState(
            population,
            rng,
            generation=data["generation"],
            begun=data["begun"],
            finished=data["finished"],
            step=data["step"],
            training_flops=data["training_flops"],
            scoring_flops=data["scoring_flops"],
            survivors=tuple(MemberId(m) for m in data["survivors"]),
            accuracies={MemberId(m): value for m, value in data["accuracies"].items()},
            report=MutationReport(tuple(report["born"]), report["rejected"], saturated=report["saturated"]),
            loss_sum=data["loss_sum"],
            loss_count=data["loss_count"],
            failing=dict(data["failing"]),
            skipped=dict(data["skipped"]),
            dropped=tuple(MemberId(m) for m in data["dropped"]),
            rates={MemberId(m): value for m, value in data["rates"].items()},
        )
