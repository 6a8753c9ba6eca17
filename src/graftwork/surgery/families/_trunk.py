"""The training that grows, how far it is, and the models that branch from it."""

import logging
import math
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from torch import nn, optim

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery._advise import FEWEST, Advice, Races
from graftwork.surgery._branch import decay_branch
from graftwork.surgery._grow import grow
from graftwork.surgery._saving import save_model
from graftwork.surgery._updates import BACKWARD, held_out_losses, train, update_flops
from graftwork.surgery.families._files import FamilyFiles
from graftwork.surgery.families._task import DECAY, MOMENTS, SAVES, SHARE, Task

_log = logging.getLogger(__name__)


@dataclass
class State:
    """How far a search is; plain data.

    Attributes:
        budget: FLOPs of everything.
        steps: Updates of the trunk.
        trunk_flops: FLOPs of these updates.
        other_flops: FLOPs of races, branches and held-out losses.
        moments: How many of the moments are past.
        over: Whether nothing is raced any more.
        finished: Whether the last branch is done.
        trunk: Name of the folder that holds the training.
        members: Finished models, each as a `FamilyMember` with the name of its folder.
        races: Outcomes of races.
    """

    budget: float
    steps: int = 0
    trunk_flops: float = 0.0
    other_flops: float = 0.0
    moments: int = 0
    over: bool = False
    finished: bool = False
    trunk: str = ""
    members: list[dict[str, Any]] = field(default_factory=list)
    races: list[dict[str, Any]] = field(default_factory=list)

    @property
    def flops(self) -> float:
        """FLOPs of everything so far."""
        return self.trunk_flops + self.other_flops


class Trunk:
    """The training that grows.

    Args:
        task: The arguments of the search.
        model: The model in training.
        optimizers: Its optimizers.
        state: How far it is.
    """

    def __init__(self, task: Task, model: nn.Module, optimizers: tuple[optim.Optimizer, ...], state: State) -> None:
        self._task, self.model, self.optimizers, self.state = task, model, optimizers, state
        self._feed = task.pairs(state.steps)
        self._first = next(task.pairs(0))
        self._cost = update_flops(model, self._first, task.loss)

    @property
    def complete(self) -> bool:
        """Whether what is left of the budget is for the last branch."""
        return self._updates_left < 1

    @property
    def _updates_left(self) -> int:
        state = self.state
        own = (1 - DECAY) * (state.budget - state.other_flops) - state.trunk_flops
        return int(own // self._cost)

    @property
    def _next_moment(self) -> float:
        """FLOPs of the trunk at which races are next held; infinite if none are."""
        state = self.state
        over = state.over or not self._task.growths or state.moments >= len(MOMENTS)
        return math.inf if over else MOMENTS[state.moments] * state.budget

    def go_on(self) -> None:
        """Train until the next moment, or for a while."""
        state = self.state
        until = (self._next_moment - state.trunk_flops) / self._cost
        count = math.ceil(min(max(1, self._task.steps // SAVES), self._updates_left, max(1.0, until)))
        if count > 0:
            train(self.model, self.optimizers, self._feed, steps=count, loss=self._task.loss)
            state.steps += count
            state.trunk_flops += count * self._cost

    def ask(self, files: FamilyFiles) -> None:
        """Hold the races of a moment that has come; branch and grow if one is won."""
        state = self.state
        if state.trunk_flops < self._next_moment:
            return
        state.moments += 1
        found = self._raced()
        won = [advice for advice in found if advice.verdict == "grow"]
        if won:
            best = max(won, key=lambda advice: advice.continued - advice.grown)
            self.branch(files)
            receipt = grow(self.model, best.growth, example_input=self._example, optimizer=self.optimizers)
            self._cost = update_flops(self.model, self._first, self._task.loss)
            _log.info("after %d updates: %s", state.steps, receipt)

    def _raced(self) -> list[Advice]:
        """Race every growth against going on."""
        state, task = self.state, self._task
        length = round(SHARE * state.budget / self._cost)
        if length < FEWEST:
            _log.info("after %d updates: races of this size would be too short; it grows no further", state.steps)
            state.over = True
            return []
        races = Races(
            self.model,
            self.optimizers,
            batches=list(islice(task.pairs(state.steps), length)),
            held_out=task.held_out,
            loss=task.loss,
            steps=length,
            late=False,
        )
        found = []
        for growth in task.growths:
            entry: dict[str, Any] = {"step": state.steps, "growth": growth.to_dict()}
            try:
                found.append(advice := races.against(growth))
                entry |= {key: _plain(value) for key, value in vars(advice).items() if key != "growth"}
                _log.info("after %d updates: %s", state.steps, advice)
            except (SurgeryError, ConfigError) as error:  # refused by a model that has grown, or too costly for a race
                entry |= {"verdict": "refused", "why": str(error)}
                _log.warning("after %d updates: %r is not raced: %s", state.steps, growth, error)
            state.races.append(entry)
        state.other_flops += races.flops
        return found

    def branch(self, files: FamilyFiles) -> None:
        """Finish a copy of the present size and store it."""
        state, task = self.state, self._task
        count = max(1, round(DECAY / (1 - DECAY) * state.trunk_flops / self._cost))
        given: dict[str, Any] = {"loss": task.loss, "optimizer": self.optimizers, "steps": count}
        pairs = ((call.example_input, target) for call, target in task.pairs(state.steps))
        model = decay_branch(self.model, batches=pairs, **given)
        name = f"size-{len(state.members)}"
        save_model(model, files.folder / name)
        losses = held_out_losses(model, task.held_out, task.loss)
        error = float(losses.std() / math.sqrt(len(losses))) if len(losses) > 1 else None
        state.members.append(
            {
                "folder": name,
                "loss": float(losses.mean()),
                "error": error,
                "parameters": sum(p.numel() for p in model.parameters()),
                "update_flops": self._cost,
                "steps": state.steps + count,
                "flops": state.trunk_flops + count * self._cost,
            }
        )
        state.other_flops += count * self._cost + len(task.held_out) * self._cost / BACKWARD

    def save(self, files: FamilyFiles) -> None:
        """Store the training and how far it is; a finished one has nothing to store but that."""
        state = self.state
        if not state.finished:
            state.trunk = f"trunk-{state.steps}-{state.moments}"
        record = {"asked": self._task.asked, "state": asdict(state)}
        if state.finished:
            files.finish(record)
        else:
            files.save(state.trunk, self.model, self.optimizers, record)

    @property
    def _example(self) -> Any:
        return self._first[0].example_input


def _plain(value: Any) -> Any:
    """A value as JSON holds it; None for a number that is not finite."""
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
