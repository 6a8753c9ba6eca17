"""Growths tried on a copy, before a training begins."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import ExampleInput, call_of, first_line, sandbox
from graftwork.surgery._grow import Optimizers, given_optimizers, grow
from graftwork.surgery._plan import SurgeryReceipt
from graftwork.surgery._trace import output_tensors
from graftwork.surgery._wrappers import refuse_wrappers
from graftwork.surgery.carry import check_optimizers
from graftwork.surgery.growths import ModelGrowth


class Rehearsal:
    """A copy of a model with its optimizers and mirrors, on which growths are tried.

    Args:
        model: The model; left as it is.
        example_input: One batch.
        optimizer: Optimizers, copied too.
        mirrors: Modules that grow along, copied too.
        generator: CPU generator of new weights, copied too.

    Raises:
        SurgeryError: The model is wrapped or can't be copied, or an optimizer can't be carried.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: ExampleInput,
        *,
        optimizer: Optimizers = None,
        mirrors: Sequence[nn.Module] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        refuse_wrappers(model)
        given = given_optimizers(optimizer)
        check_optimizers(given, model)
        try:
            copied = copy.deepcopy((model, given, tuple(mirrors)))
        except Exception as error:
            raise SurgeryError(
                f"model: expected one that copy.deepcopy can copy, to try its growths, got {type(model).__name__} "
                f"({first_line(error)}); go on without the check"
            ) from error
        self.model, self._optimizers, self._mirrors = copied
        self._example_input = example_input
        self._generator = None if generator is None else generator.clone_state()
        for own, theirs in zip(self._optimizers, given, strict=True):
            _complete(own, theirs)
        self._train()

    def grow(self, growth: ModelGrowth) -> SurgeryReceipt:
        """Grow the copy, and train it for a step.

        Raises:
            SurgeryError: The growth is refused.
        """
        receipt = grow(
            self.model,
            growth,
            example_input=self._example_input,
            optimizer=self._optimizers,
            mirrors=self._mirrors,
            generator=self._generator,
        )
        self._train()
        return receipt

    def _train(self) -> None:
        """Take a step at a rate of zero, which fills what the optimizers keep and leaves the weights alone.

        The loss is made up. Where a model or an optimizer wants more for a step, what it keeps stays as it is.
        """
        call = call_of(self._example_input).copied()
        with sandbox(self.model), torch.enable_grad(), suppress(Exception):
            outputs = output_tensors(self.model(*call.arguments, **call.keywords))
            loss = sum((_square(output) for output in outputs if output.requires_grad), torch.zeros(()))
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in self._optimizers:
                optimizer.step()
        for optimizer in self._optimizers:
            optimizer.zero_grad()


def _square(output: Tensor) -> Tensor:
    return output.abs().float().square().mean().cpu()


def _complete(own: optim.Optimizer, theirs: optim.Optimizer) -> None:
    """Give a copied optimizer what its class keeps beside state and groups, and a rate of zero."""
    kept: dict[str, Any] = vars(theirs)
    # A scheduler of rates puts a step of its own there, which is bound to the original.
    vars(own).update({name: value for name, value in kept.items() if name not in vars(own) and name != "step"})
    for group in own.param_groups:
        if isinstance(rate := group.get("lr"), (int, float, Tensor)):
            group["lr"] = rate * 0
