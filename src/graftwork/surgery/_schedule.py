"""Grow many sites at once, and grow on a schedule inside a training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery._calls import ExampleInput
from graftwork.surgery._deepen import deepen
from graftwork.surgery._options import WidenOptions
from graftwork.surgery._plan import WidenPlan
from graftwork.surgery._receipt import SurgeryReceipt
from graftwork.surgery._widen import choose_growth, prepared

if TYPE_CHECKING:
    from graftwork.surgery._space import Var

__all__ = ["Deepen", "Growth", "GrowthSchedule", "Widen", "WidenAll", "plan_widen_all", "widen_all"]


def plan_widen_all(
    model: nn.Module,
    factor: float,
    *,
    example_input: ExampleInput,
    only: Callable[[str], bool] | Sequence[str] | None = None,
    **options: Unpack[WidenOptions],
) -> WidenPlan:
    """Plan to widen every site that can be widened by one factor, in one growth.

    Args:
        model: Any eager ``nn.Module``.
        factor: Ratio of new to old width (> 1); every volume is rounded up to what it allows.
        example_input: One batch as the model's forward takes it.
        only: Names of sites, or a function of a name that says whether to widen it. None takes all.
        **options: The keys of `WidenOptions`: ``method`` (``"r2r"``, ``"net2net"``, ``"netmorph"`` or
            ``"random-padding"``), ``optimizer`` (whose state is carried), ``approximate`` (False), ``check`` (True),
            ``generator``, ``scale`` (of new weights), ``mirrors`` (that grow along).

    Raises:
        SurgeryError: Nothing can be widened.
    """
    graph, method, finish = prepared(model, example_input, **options)
    growths: dict[str, dict[Var, int]] = {}
    taken: set[int] = set()
    for site in graph.producers():
        if not _wanted(site, only):
            continue
        try:
            growth = choose_growth(graph, site, method, extra=None, width=None, factor=factor)
        except SurgeryError:
            continue  # this site can't be widened: growth_sites says why
        if any(id(var) in taken for var in growth):
            continue  # coupled with a site that grows already
        taken |= {id(var) for var in growth}
        growths[site] = growth
    if not growths:
        raise SurgeryError("no site of the model can be widened: graftwork.growth_sites says why")
    return finish(growths)


def _wanted(site: str, only: Callable[[str], bool] | Sequence[str] | None) -> bool:
    if only is None:
        return True
    return only(site) if callable(only) else site in only


def widen_all(
    model: nn.Module,
    factor: float,
    *,
    example_input: ExampleInput,
    only: Callable[[str], bool] | Sequence[str] | None = None,
    **options: Unpack[WidenOptions],
) -> SurgeryReceipt:
    """Widen every site that can be widened by one factor, in place, all or nothing.

    Sites whose code can't follow (a number that depends on the width) are left out and named in the receipt's notes.

    Raises the errors of `plan_widen_all`, too.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        factor: As in `plan_widen_all`.
        example_input: As in `plan_widen_all`.
        only: As in `plan_widen_all`.
        **options: The keys of `WidenOptions`: ``method`` (``"r2r"``, ``"net2net"``, ``"netmorph"`` or
            ``"random-padding"``), ``optimizer`` (whose state is carried), ``approximate`` (False), ``check`` (True),
            ``generator``, ``scale`` (of new weights), ``mirrors`` (that grow along).

    Raises:
        NotPreservedError: The grown model computes something else; everything was put back.
    """
    plan = plan_widen_all(model, factor, example_input=example_input, only=only, **options)
    try:
        return plan.apply()
    except SurgeryError as error:
        problem = error
    # Some site's code can't follow: find out which by trying each alone, and leave those out.
    how = options.copy()
    for key in ("optimizer", "mirrors", "generator"):  # a trial leaves them alone
        how.pop(key, None)  # type: ignore[misc]
    good: list[str] = []
    bad: list[str] = []
    for site in plan.sites:
        try:
            alone = plan_widen_all(model, factor, example_input=example_input, only=[site], **how)
            (bad if alone.trial() else good).append(site)
        except SurgeryError:
            bad.append(site)
    if not good or not bad:
        raise problem
    receipt = plan_widen_all(model, factor, example_input=example_input, only=good, **options).apply()
    return replace(receipt, notes=(*receipt.notes, f"left out, their code can't follow: {', '.join(bad)} ({problem})"))


class Growth(Protocol):
    """One growth of a schedule."""

    def __call__(self, model: nn.Module, *, example_input: ExampleInput, **options: Any) -> Sequence[SurgeryReceipt]:
        """Grow the model; ``options`` are those of `widen`."""


@dataclass(frozen=True)
class WidenAll:
    """Widen everything by a factor; options as in `widen_all`."""

    factor: float
    only: tuple[str, ...] | None = None
    method: str = "r2r"

    def __call__(self, model: nn.Module, *, example_input: ExampleInput, **options: Any) -> list[SurgeryReceipt]:
        """Grow the model."""
        return [
            widen_all(model, self.factor, example_input=example_input, only=self.only, method=self.method, **options)
        ]


@dataclass(frozen=True)
class Widen:
    """Widen one site by a factor."""

    site: str
    factor: float
    method: str = "r2r"

    def __call__(self, model: nn.Module, *, example_input: ExampleInput, **options: Any) -> list[SurgeryReceipt]:
        """Grow the model."""
        from graftwork.surgery._widen import widen

        return [
            widen(
                model,
                self.site,
                factor=self.factor,
                example_input=example_input,
                method=self.method,
                **options,
            )
        ]


@dataclass(frozen=True)
class Deepen:
    """Graft a block after each of some modules."""

    after: tuple[str, ...] | str
    kernel_size: int = 3
    like: str | None = None

    def __call__(self, model: nn.Module, *, example_input: ExampleInput, **options: Any) -> list[SurgeryReceipt]:
        """Grow the model."""
        places = (self.after,) if isinstance(self.after, str) else self.after
        return [
            deepen(
                model,
                place,
                example_input=example_input,
                kernel_size=self.kernel_size,
                like=self.like,
                **options,
            )
            for place in places
        ]


class GrowthSchedule:
    """When to grow: a training loop calls `step` after every optimizer step.

    Args:
        growths: Moment → growth. A moment is a number of steps, or a percentage of ``total_steps`` as text:
            ``"50%"``. A growth is a `WidenAll`, `Widen`, `Deepen` or any function like them.
        total_steps: Steps of the whole training; needed for percentages.

    Raises:
        ConfigError: A moment can't be read, or a percentage comes without ``total_steps``.

    Example:
        >>> schedule = GrowthSchedule({"50%": WidenAll(2)}, total_steps=1000)
        >>> schedule.moments
        [500]
    """

    def __init__(self, growths: Mapping[str | int, Growth], *, total_steps: int | None = None) -> None:
        self._due = sorted(
            ((_moment(when, total_steps), growth) for when, growth in growths.items()),
            key=lambda pair: pair[0],
        )
        self._steps = 0
        self.receipts: list[SurgeryReceipt] = []

    @property
    def moments(self) -> list[int]:
        """Steps at which a growth is still to come."""
        return [moment for moment, _ in self._due]

    @property
    def steps(self) -> int:
        """Optimizer steps counted so far."""
        return self._steps

    def step(self, model: nn.Module, *, example_input: ExampleInput, **options: Any) -> list[SurgeryReceipt]:
        """Count one optimizer step and make the growths that are due.

        Args:
            model: The model in training.
            example_input: One batch.
            **options: ``optimizer`` and the other options of `widen`.

        Returns:
            Receipts of this step's growths, usually none.
        """
        self._steps += 1
        made: list[SurgeryReceipt] = []
        while self._due and self._due[0][0] <= self._steps:
            made += self._due[0][1](model, example_input=example_input, **options)
            self._due.pop(0)
        self.receipts += made
        return made

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint needs."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a checkpoint of a model whose past growths have been rebuilt (`load`)."""
        self._steps = state["steps"]
        self._due = [(moment, growth) for moment, growth in self._due if moment > self._steps]


def _moment(when: str | int, total_steps: int | None) -> int:
    if isinstance(when, int) and not isinstance(when, bool) and when >= 0:
        return when
    if isinstance(when, str) and when.endswith("%"):
        try:
            share = float(when[:-1])
        except ValueError:
            share = -1.0
        if 0 <= share <= 100:
            if total_steps is None:
                raise ConfigError(f"the moment {when!r} is a percentage: give total_steps")
            return round(total_steps * share / 100)
    raise ConfigError(f'a moment is a number of steps or a percentage such as "50%", got {when!r}')
