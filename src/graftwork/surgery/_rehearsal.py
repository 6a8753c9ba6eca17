"""Growths tried on a copy, before a training begins."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from graftwork.surgery._calls import ExampleInput, call_of, sandbox
from graftwork.surgery._fork import fork
from graftwork.surgery._grow import Optimizers, given_optimizers, grow
from graftwork.surgery._plan import SurgeryReceipt
from graftwork.surgery._trace import output_tensors
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
        given = given_optimizers(optimizer)
        self.model, self._optimizers, self._mirrors = fork(model, given, mirrors)
        self._example_input = example_input
        self._generator = None if generator is None else generator.clone_state()
        for group in (group for own in self._optimizers for group in own.param_groups):
            if isinstance(rate := group.get("lr"), (int, float, Tensor)):
                group["lr"] = rate * 0
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
