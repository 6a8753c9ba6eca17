"""Whether it pays to grow now: a short race of the grown model against the model as it is.

Both begin with the same weights and optimizers' state, train on the same batches with the same number of FLOPs, and
end with a rate that falls to zero, since losses at a high rate say little about losses after it. A growth keeps the
function, so both also begin at the same loss, and what each gains for its FLOPs can be compared at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal, TypeAlias

from torch import Tensor, nn, optim

from graftwork.errors import ConfigError
from graftwork.surgery._calls import Batches, Loss, call_of, sandbox
from graftwork.surgery._fork import fork
from graftwork.surgery._grow import Optimizers, given_optimizers, grow
from graftwork.surgery._updates import BACKWARD, Pair, held_out_losses, train, update_flops
from graftwork.surgery.growths import ModelGrowth

Verdict: TypeAlias = Literal["grow", "not yet", "never"]

LATEST = 0.5
"""Share of a training after which a growth that loses its race is not tried again: with less than half of the FLOPs
left none has been seen to pay (``docs/results.md``, growing in depth, late)."""
FEWEST = 4
"""Updates of the grown model below which a race says nothing."""
_DECAY = 0.5
"""Share of a race in which the rates fall."""


@dataclass(frozen=True)
class Advice:
    """How a race ended.

    Attributes:
        growth: The growth that was tried.
        verdict: ``"grow"``: the grown model gained more for its FLOPs, beyond the noise. ``"not yet"``: it did not.
            ``"never"``: it did not, and half of the training is over.
        step_ratio: r, FLOPs of an update after the growth over those before.
        update_worth: κ, what an update of the model as it is gains, in updates of the grown one; infinite where the
            grown one gained nothing. κ·r is ``update_worth * step_ratio``: growth pays from where it is below 1, and
            having been small pays as long as it is above.
        loss: Held-out loss before the race.
        continued: The same of the model as it is, after its race.
        grown: The same of the grown model.
        error: Standard error of ``grown - continued`` over the held-out batches; ``nan`` for one batch.
        steps: Updates of the model as it is, and of the grown one.
        flops: FLOPs of the whole race, held-out losses included.
    """

    growth: ModelGrowth
    verdict: Verdict
    step_ratio: float
    update_worth: float
    loss: float
    continued: float
    grown: float
    error: float
    steps: tuple[int, int]
    flops: float

    def __str__(self) -> str:
        product = self.update_worth * self.step_ratio
        return (
            f"{self.verdict}: {self.growth!r} takes {self.step_ratio:.2f} times the FLOPs of an update; after equal "
            f"FLOPs ({self.steps[1]} and {self.steps[0]} updates) the held-out loss {self.loss:.4f} is "
            f"{self.grown:.4f} grown and {self.continued:.4f} as it is (± {self.error:.4f}), κ·r {product:.2f}"
        )


def advise(
    model: nn.Module,
    growth: ModelGrowth,
    *,
    batches: Batches,
    held_out: Batches,
    loss: Loss,
    optimizer: Optimizers,
    total_steps: int,
    steps_done: int = 0,
    share: float = 0.02,
) -> Advice:
    """Race a grown copy of a model against a copy as it is, and say whether to grow now.

    Nothing of the model, its optimizers and the random state changes. One copy at a time is held beside the model. An
    update here is ``loss(model(inputs), target).backward()`` and a step of each optimizer, in the modes that the model
    is in; what a training does beside that, such as clipping gradients, is not done.

    Args:
        model: Any eager ``nn.Module`` in training.
        growth: What would grow.
        batches: Pairs of inputs (as ``example_input`` of `plan`) and targets to train on, used from the first one on;
            repeated where they are fewer than updates.
        held_out: The same to compare losses on, at least one and of one size; from several, the noise is known.
        loss: Function of the model's output and the target; returns a scalar, a mean over the batch.
        optimizer: The model's optimizers, whose state is carried; they are copied.
        total_steps: Updates of the whole training, at the model's present size.
        steps_done: How many of them have been made.
        share: Length of the race of each of the two, as a share of ``total_steps``.

    Returns:
        The verdict, κ and r, and the losses.

    Raises:
        SurgeryError: The growth is refused, as by `grow`; or the model can't be copied.
        ConfigError: The race would be too short, or something is out of its range.
    """
    steps = _length(share, total_steps, steps_done)
    given = given_optimizers(optimizer)
    if not given:
        raise ConfigError("optimizer: expected what trains the model, got none; give its optimizers")
    fed, tried = _pairs("batches", batches, steps), _pairs("held_out", held_out, None)
    late = steps_done >= LATEST * total_steps
    return Races(model, given, batches=fed, held_out=tried, loss=loss, steps=steps, late=late).against(growth)


class Races:
    """Races at one moment of a training: the model as it is runs once, and any growths against it.

    Args:
        model: The model in training; left as it is.
        optimizers: Its optimizers; left as they are.
        batches: What is trained on, in this order and again.
        held_out: What losses are compared on.
        loss: Loss of an output and a target.
        steps: Updates of the model as it is.
        late: Whether a growth that does not win now never will.

    Attributes:
        flops: FLOPs of all races so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[optim.Optimizer],
        *,
        batches: Sequence[Pair],
        held_out: Sequence[Pair],
        loss: Loss,
        steps: int,
        late: bool,
    ) -> None:
        self._model, self._optimizers, self._steps, self._late = model, optimizers, steps, late
        self._batches, self._held_out, self._loss = batches, held_out, loss
        with sandbox(model):
            other, own, _ = fork(model, optimizers)
            self._before = held_out_losses(other, held_out, loss)
            self._cost = update_flops(other, batches[0], loss)
            self._continued = self._run(other, own, steps)
        self.flops = self._own = steps * self._cost + len(held_out) * 2 * self._cost / BACKWARD

    def against(self, growth: ModelGrowth) -> Advice:
        """Race one growth.

        Raises:
            SurgeryError: The growth is refused.
            ConfigError: The race would be too short.
        """
        with sandbox(self._model):
            other, own, _ = fork(self._model, self._optimizers)
            grow(other, growth, example_input=self._batches[0][0].example_input, optimizer=own)
            cost = update_flops(other, self._batches[0], self._loss)
            ratio, steps = cost / self._cost, _fewer(self._steps, cost / self._cost)
            grown = self._run(other, own, steps)
        spent = steps * cost + len(self._held_out) * cost / BACKWARD
        self.flops += spent
        lead, gain = self._continued - grown, float((self._before - grown).mean())
        own_gain = float((self._before - self._continued).mean())
        error = float(lead.std() / math.sqrt(len(lead))) if len(lead) > 1 else math.nan
        won = gain > 0 and float(lead.mean()) > (0.0 if math.isnan(error) else error)
        return Advice(
            growth,
            "grow" if won else "never" if self._late else "not yet",
            step_ratio=ratio,
            update_worth=(own_gain / self._steps) / (gain / steps) if gain > 0 else math.inf,
            loss=float(self._before.mean()),
            continued=float(self._continued.mean()),
            grown=float(grown.mean()),
            error=error,
            steps=(self._steps, steps),
            flops=self._own + spent,
        )

    def _run(self, model: nn.Module, optimizers: Sequence[optim.Optimizer], steps: int) -> Tensor:
        """Train a copy with falling rates; return its held-out losses."""
        train(model, optimizers, cycle(self._batches), steps=steps, loss=self._loss, falling=_DECAY)
        return held_out_losses(model, self._held_out, self._loss)


def _length(share: float, total_steps: int, steps_done: int) -> int:
    """Updates of the model as it is.

    Raises:
        ConfigError: If they are too few, or a number is out of its range.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share: expected a number between 0 and 1, got {share!r}; 0.02 is the default")
    if not 0 <= steps_done < total_steps:
        raise ConfigError(f"steps_done: expected 0 to {total_steps - 1}, updates made so far, got {steps_done}")
    steps = round(share * total_steps)
    if steps < FEWEST:
        raise ConfigError(
            f"share: expected a race of at least {FEWEST} updates, got {share:g} of {total_steps}, which are {steps}; "
            "give a larger one"
        )
    return steps


def _pairs(name: str, batches: Batches, most: int | None) -> list[Pair]:
    """The first batches, at most so many.

    Raises:
        ConfigError: If there are none.
    """
    found = [(call_of(inputs), target) for inputs, target in islice(batches, most)]
    if not found:
        raise ConfigError(f"{name}: expected pairs of inputs and targets, got none")
    return found


def _fewer(steps: int, ratio: float) -> int:
    """Updates of the grown model for the same FLOPs.

    Raises:
        ConfigError: If they are too few.
    """
    fewer = round(steps / ratio)
    if fewer < FEWEST:
        raise ConfigError(
            f"share: expected a race of at least {FEWEST} updates of the grown model, got {fewer}, as each takes "
            f"{ratio:.3g} times the FLOPs; give a larger share"
        )
    return fewer
