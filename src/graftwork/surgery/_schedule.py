"""Grow on a schedule inside a training loop."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery._calls import ExampleInput
from graftwork.surgery._grow import grow
from graftwork.surgery._plan import SurgeryReceipt
from graftwork.surgery._plateau import LossWindows, Plateau
from graftwork.surgery._rehearsal import Rehearsal
from graftwork.surgery._unwrapped import unwrapped
from graftwork.surgery.growths import ModelGrowth

_log = logging.getLogger(__name__)

Moment: TypeAlias = str | int | Plateau


@dataclass(frozen=True, eq=False)
class _Due:
    """One growth of a schedule: when, as it was given and as a number of steps, and what."""

    given: Moment
    at: int | Plateau
    growth: ModelGrowth


class GrowthSchedule:
    """When to grow: a training loop calls `step` after every optimizer step.

    Args:
        growths: Moment → growth, or several that are made in their order. A moment is a number of steps, a percentage
            of ``total_steps`` as text (``"50%"``), or a `Plateau`, at which the loss stops falling.
        total_steps: Steps of the whole training; needed for percentages.
        on_refused: What becomes of a growth that the model refuses when its moment comes: ``"raise"`` lets the error
            pass, ``"skip"`` logs a warning, notes it in ``skipped`` and goes on without it.

    Attributes:
        receipts: What has been grown in this process.
        skipped: Growths that were refused in this process, each with its error.

    Raises:
        ConfigError: A moment can't be read, a percentage comes without ``total_steps``, or something is no growth.

    Example:
        >>> schedule = GrowthSchedule({"50%": WidenAll(2), "75%": [Deepen("1"), Deepen("3")]}, total_steps=1000)
        >>> schedule.moments
        [500, 750]
    """

    def __init__(
        self,
        growths: Mapping[Moment, ModelGrowth | Sequence[ModelGrowth]],
        *,
        total_steps: int | None = None,
        on_refused: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_refused not in ("raise", "skip"):
            raise ConfigError(f'on_refused: expected "raise" or "skip", got {on_refused!r}')
        all_due = [
            _Due(when, _moment(when, total_steps), growth)
            for when, given in growths.items()
            for growth in _growths(when, given)
        ]
        all_due.sort(key=lambda due: due.at if isinstance(due.at, int) else math.inf)
        self._all = tuple(all_due)
        self._due = list(all_due)
        self._skips = on_refused == "skip"
        self._steps = self._made = 0
        self._losses = LossWindows()
        self.receipts: list[SurgeryReceipt] = []
        self.skipped: list[tuple[ModelGrowth, SurgeryError]] = []

    @classmethod
    def anytime(
        cls,
        growths: Sequence[ModelGrowth | Sequence[ModelGrowth]],
        *,
        first: int,
        step_ratio: float | Sequence[float],
        exponent: float = 0.5,
        on_refused: Literal["raise", "skip"] = "raise",
    ) -> "GrowthSchedule":
        """Return a schedule for a training whose end is not known: at every moment the size fits what has been spent.

        The best size rises with the FLOPs C of a training as C ** exponent. So where a growth makes an update
        r times as costly, the next one is due when r ** (1 / exponent) times the FLOPs of this one have been spent: for
        doublings and the exponent 0.5, at 1, 4, 16, … times ``first``. Train at a rate that stays, and let
        `decay_branch` finish a copy whenever a model is wanted.

        The exponent 0.5 is that of the parameters of language models (Hoffmann et al. 2022, arXiv 2203.15556); for
        other models it is a guess, as ``first`` is: `advise` can tell it.

        Args:
            growths: What grows, in order, one growth or several at each moment.
            first: Steps before the first growth.
            step_ratio: r, FLOPs of a step after a growth over those before (`Advice.step_ratio`): one number for all
                moments, or one for each.
            exponent: How the best size rises with the FLOPs, above 0 and at most 1; larger ones grow sooner.
            on_refused: As of `GrowthSchedule`.

        Raises:
            ConfigError: A number is out of its range, or something is no growth.

        Example:
            >>> GrowthSchedule.anytime([WidenAll(1.5)] * 4, first=1000, step_ratio=2.0).moments
            [1000, 2500, 5500, 11500]
        """
        ratios = [step_ratio] * len(growths) if isinstance(step_ratio, (int, float)) else list(step_ratio)
        if len(ratios) != len(growths):
            raise ConfigError(
                f"step_ratio: expected one number, or one for each of {len(growths)} moments, got {len(ratios)}"
            )
        moments = _log_spaced(first, ratios, exponent)
        return cls(dict(zip(moments, growths, strict=True)), on_refused=on_refused)

    def __repr__(self) -> str:
        parts = [f"{due.given!r}: {due.growth!r}" for due in self._all]
        return f"GrowthSchedule({', '.join(parts)})"

    @property
    def moments(self) -> list[int]:
        """Steps at which growths are still to come, each once; a `Plateau` has none."""
        return list(dict.fromkeys(due.at for due in self._due if isinstance(due.at, int)))

    @property
    def plateaus(self) -> list[Plateau]:
        """Plateaus that are still to come, each once; the first is waited for."""
        return list(dict.fromkeys(due.at for due in self._due if isinstance(due.at, Plateau)))

    @property
    def steps(self) -> int:
        """Optimizer steps counted so far."""
        return self._steps

    @property
    def made(self) -> int:
        """Growths that the model has had from this schedule, those before a resume included."""
        return self._made

    @property
    def due(self) -> tuple[ModelGrowth, ...]:
        """Growths that the next `step` makes, usually none."""
        return tuple(due.growth for due in self._next())

    def _next(self) -> list[_Due]:
        reached = [plateau for plateau in self.plateaus[:1] if self._losses.ends(plateau)]
        now = self._steps + 1
        return [due for due in self._due if (due.at <= now if isinstance(due.at, int) else due.at in reached)]

    def observe(self, loss: Any) -> None:
        """Tell a loss, for a `Plateau`: before `step`, as often as there is one.

        Args:
            loss: A number or a tensor of one number; one that is not finite is passed over. With several processes,
                the mean over all of them, so that they grow at the same step.
        """
        if self.plateaus:
            self._losses.add(loss)

    def step(self, model: nn.Module, *, example_input: ExampleInput, **along: Any) -> list[SurgeryReceipt]:
        """Count one optimizer step and make the growths that are due.

        Args:
            model: The model in training; in the wrapper of ``DistributedDataParallel`` or ``torch.compile``, if it has
                one (`unwrapped` says what becomes of it).
            example_input: One batch as the model in the wrapper takes it.
            **along: ``optimizer``, ``mirrors`` and ``generator`` of `plan`.

        Returns:
            Receipts of this step's growths, usually none.

        Raises:
            SurgeryError: A growth is refused and ``on_refused`` is ``"raise"``; those before it have been made.
            ConfigError: A plateau is waited for, and no loss was told.
        """
        now = self._next()
        self._steps += 1
        for plateau in self.plateaus[:1]:
            self._losses.step(plateau)
        if not now:
            return []
        self._losses.restart()
        already = len(self.receipts)
        with unwrapped(model, along.get("optimizer")) as inner:
            for due in now:
                self._make(inner, due.growth, example_input=example_input, **along)
                self._due.remove(due)
        return self.receipts[already:]

    def _make(self, model: nn.Module, growth: ModelGrowth, **given: Any) -> None:
        try:
            self.receipts.append(grow(model, growth, **given))
            self._made += 1
        except SurgeryError as error:
            if not self._skips:
                raise
            _log.warning("skipped after %d steps: %r (%s)", self._steps, growth, error)
            self.skipped.append((growth, error))

    def check(self, model: nn.Module, *, example_input: ExampleInput, **along: Any) -> list[SurgeryReceipt]:
        """Make all growths that are still to come on a copy, at the start of a training.

        The copy and its optimizer take a step on a made-up loss before the first growth and after every growth, so
        that what the optimizer keeps is carried too. Nothing that was given changes. Needs memory for a second model
        and what the optimizer keeps.

        Args:
            model: The model in training, as for `step`.
            example_input: One batch.
            **along: ``optimizer``, ``mirrors`` and ``generator`` of `plan`.

        Returns:
            Receipts of the growths as the copy has had them, in order.

        Raises:
            SurgeryError: A growth will be refused; the message names its moment. With ``on_refused="skip"`` it is
                logged as a warning instead.
        """
        receipts = []
        with unwrapped(model, along.get("optimizer")) as inner:
            rehearsal = Rehearsal(inner, example_input, **along)
            for due in self._due:
                try:
                    receipts.append(rehearsal.grow(due.growth))
                except SurgeryError as error:
                    text = f"the growth at {due.given!r}, {due.growth!r}, will be refused: {error}"
                    if not self._skips:
                        raise type(error)(text) from error
                    _log.warning("%s; it will be skipped", text)
        return receipts

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as plain data."""
        left = [self._all.index(due) for due in self._due]
        losses = self._losses.state_dict()
        return {"steps": self._steps, "made": self._made, "left": left, "of": len(self._all), "losses": losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of a model whose past growths have been rebuilt (`load_model`).

        Args:
            state: What `state_dict` has returned, for a schedule of the same growths; or ``{"steps": n}`` alone, for
                one without a `Plateau`: growths whose moment has passed are then taken for made.

        Raises:
            ConfigError: The state is that of another schedule.
        """
        steps, left = state["steps"], state.get("left")
        if left is None:
            if self.plateaus:
                raise ConfigError("state: expected what state_dict returned, got steps alone, which tell no plateau")
            self._due = [due for due in self._all if isinstance(due.at, int) and due.at > steps]
            self._made = len(self._all) - len(self._due)
        else:
            if state["of"] != len(self._all):
                raise ConfigError(
                    f"state: expected that of a schedule of {len(self._all)} growths, got one of {state['of']}; make "
                    "the schedule as it was made at first"
                )
            self._due = [self._all[at] for at in left]
            self._made = state["made"]
            self._losses.load_state_dict(state["losses"])
        self._steps = steps


def _growths(when: Moment, given: ModelGrowth | Sequence[ModelGrowth]) -> Sequence[ModelGrowth]:
    growths = given if isinstance(given, Sequence) else [given]
    for growth in growths:
        if not isinstance(growth, ModelGrowth):
            raise ConfigError(
                f"the growth at {when!r}: expected a value such as WidenAll(2), or a list of them, got "
                f"{type(growth).__name__}"
            )
    return growths


def _moment(when: Moment, total_steps: int | None) -> int | Plateau:
    if isinstance(when, Plateau) or (isinstance(when, int) and not isinstance(when, bool) and when >= 0):
        return when
    if isinstance(when, str) and when.endswith("%"):
        try:
            share = float(when[:-1])
        except ValueError:
            share = -1.0
        if 0 <= share <= 100:
            if total_steps is None:
                raise ConfigError(f"moment: expected total_steps beside the percentage {when!r}, got None; give it")
            return round(total_steps * share / 100)
    raise ConfigError(f'moment: expected a number of steps, a percentage such as "50%" or a Plateau, got {when!r}')


def _log_spaced(first: int, ratios: Sequence[float], exponent: float) -> list[int]:
    """Steps at which FLOPs have risen as much as the best size's do; see `GrowthSchedule.anytime`.

    Worked example, ratios 2, 2, 2 and exponent 0.5: in FLOPs of a step of the first size, growths are due at 1,000,
    4,000 and 16,000; a step costs 2 after the first and 4 after the second, so 3,000 / 2 and 12,000 / 4 steps lie
    between: moments 1,000, 2,500 and 5,500.
    """
    if type(first) is not int or first < 1:
        raise ConfigError(f"first: expected a number of steps above 0, got {first!r}")
    if not 0 < exponent <= 1:
        raise ConfigError(f"exponent: expected a number above 0 and at most 1, got {exponent!r}; 0.5 is the default")
    if not all(1 < ratio < math.inf for ratio in ratios):
        raise ConfigError(f"step_ratio: expected numbers above 1, got {list(ratios)}")
    moments, step, spent, cost = [first][: len(ratios)], float(first), float(first), 1.0
    for ratio, following in pairwise(ratios):
        cost *= ratio
        # A growth is due halfway, by the logarithm, between the budgets at which the sizes before and after are best.
        more = spent * ((ratio * following) ** (0.5 / exponent) - 1)
        step, spent = step + more / cost, spent + more
        moments.append(max(moments[-1] + 1, round(step)))
    return moments
