"""Plan and make a growth of any module: what users call."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._agreement import agreed
from graftwork.surgery._calls import ExampleInput, call_of
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._guard import Guard, plain_numbers
from graftwork.surgery._plan import GrowthPlan, SurgeryReceipt
from graftwork.surgery._stand_in import is_on_meta, stand_in
from graftwork.surgery.carry import check_optimizers, inner_optimizer
from graftwork.surgery.growths import Deepen, ModelGrowth, Subject, Widen, WidenAll

Optimizers: TypeAlias = optim.Optimizer | Sequence[optim.Optimizer] | None


@plain_numbers()
def plan(
    model: nn.Module,
    growth: ModelGrowth,
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
    generator: torch.Generator | None = None,
) -> GrowthPlan:
    """Plan a growth; nothing changes until ``apply()``.

    A plan needs no weights: of a model whose parameters are on the meta device it is made on a stand-in with random
    numbers, and can be printed but not applied.

    Args:
        model: Any eager ``nn.Module``.
        growth: What grows and how, such as `Widen` or `WidenStream`.
        example_input: One batch as the model's forward takes it: a tensor, a tuple of arguments or a mapping
            of keyword arguments. Used to follow the channels and for the check.
        optimizer: Optimizer or optimizers whose state is carried; a new block joins the group that trains its
            neighbors, with their step count and moments that its first gradient sets. None leaves optimizers alone.
        mirrors: Modules of the same structure, such as a moving average, that grow along.
        generator: CPU generator of new weights. None derives one from the place and its width.

    Returns:
        The plan: print it, then ``apply()`` it.

    Raises:
        UnsupportedOperationError: An operation on the way is not understood; the message names it and its
            place.
        SurgeryError: The model can't grow like that without changing its function.
    """
    if not isinstance(growth, ModelGrowth):
        raise SurgeryError(f'growth: expected a value such as Widen("conv1", extra=8), got {type(growth).__name__}')
    call, optimizers = call_of(example_input), given_optimizers(optimizer)
    given, without_weights = model, is_on_meta(model)
    if without_weights:
        model = stand_in(model)
    with Guard(model), agreed(model, weights=False):
        check_optimizers(optimizers, given)
        graph = ChannelGraph.of(model, call, training=growth.check != "fast")
        return GrowthPlan(
            growth, Subject(graph, optimizers, tuple(mirrors), generator), without_weights=without_weights
        )


def grow(
    model: nn.Module,
    growth: ModelGrowth,
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
    generator: torch.Generator | None = None,
) -> SurgeryReceipt:
    """Make a growth in place, all or nothing: `plan` and ``apply()``.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        growth: What grows and how, such as `Widen` or `WidenStream`.
        example_input: One batch as the model's forward takes it.
        optimizer: Optimizers whose state is carried. None leaves optimizers alone.
        mirrors: Modules of the same structure that grow along.
        generator: CPU generator of new weights. None derives one from the place and its width.

    Returns:
        What changed.

    Raises:
        SurgeryError: As in `plan`; or the grown model's forward fails.
        NotPreservedError: The grown model computes something else; everything was put back.
    """
    planned = plan(
        model, growth, example_input=example_input, optimizer=optimizer, mirrors=mirrors, generator=generator
    )
    return planned.apply()


def widen(
    model: nn.Module,
    site: str,
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
    generator: torch.Generator | None = None,
    **options: Any,
) -> SurgeryReceipt:
    """Widen the channels that a module makes: ``grow(model, Widen(site, …), …)``.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        site: Path of the module (or parameter) whose output channels grow.
        example_input: One batch as the model's forward takes it.
        optimizer: Optimizers whose state is carried. None leaves optimizers alone.
        mirrors: Modules of the same structure that grow along.
        generator: CPU generator of new weights. None derives one from the place and its width.
        **options: Options of `Widen`.

    Returns:
        What changed.

    Raises:
        SurgeryError: As in `grow`.
    """
    growth = Widen(site, **options)
    return grow(model, growth, example_input=example_input, optimizer=optimizer, mirrors=mirrors, generator=generator)


def widen_all(
    model: nn.Module,
    factor: float,
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
    generator: torch.Generator | None = None,
    **options: Any,
) -> SurgeryReceipt:
    """Widen every site that can be widened by one factor: ``grow(model, WidenAll(factor, …), …)``.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        factor: Ratio of new to old width (> 1).
        example_input: One batch as the model's forward takes it.
        optimizer: Optimizers whose state is carried. None leaves optimizers alone.
        mirrors: Modules of the same structure that grow along.
        generator: CPU generator of new weights. None derives one from the place and its width.
        **options: Options of `WidenAll`.

    Returns:
        What changed.

    Raises:
        SurgeryError: As in `grow`.
    """
    growth = WidenAll(factor, **options)
    return grow(model, growth, example_input=example_input, optimizer=optimizer, mirrors=mirrors, generator=generator)


def deepen(
    model: nn.Module,
    after: str | tuple[str, ...],
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
    generator: torch.Generator | None = None,
    **options: Any,
) -> SurgeryReceipt:
    """Pass a module's output through a new residual block: ``grow(model, Deepen(after, …), …)``.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        after: Path of the module, or several.
        example_input: One batch as the model's forward takes it.
        optimizer: Optimizers whose state is carried. None leaves optimizers alone.
        mirrors: Modules of the same structure that grow along.
        generator: CPU generator of new weights. None derives one from the place and its width.
        **options: Options of `Deepen`.

    Returns:
        What changed.

    Raises:
        SurgeryError: As in `grow`.
    """
    growth = Deepen(after, **options)
    return grow(model, growth, example_input=example_input, optimizer=optimizer, mirrors=mirrors, generator=generator)


def given_optimizers(optimizer: Optimizers) -> tuple[optim.Optimizer, ...]:
    """Return optimizers without the wrappers of training frameworks."""
    if optimizer is None:
        return ()
    given = optimizer if isinstance(optimizer, (list, tuple)) else (optimizer,)
    return tuple(inner_optimizer(one) for one in given)
