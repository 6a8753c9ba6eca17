"""Drive a growth schedule by a framework's own count of optimizer steps."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_map

from graftwork.errors import ConfigError
from graftwork.surgery import GrowthSchedule, SurgeryReceipt, growth_log, resume_optimizer, unwrapped

_log = logging.getLogger(__name__)


class ScheduleRunner:
    """Makes the growths of a schedule when a framework says how many optimizer steps have been taken.

    A training framework counts optimizer steps itself (batches that only accumulate gradients don't count), and starts
    from a later count when it resumes. A callback calls `resume` once at the start and `advance` after every batch, and
    keeps ``schedule.state_dict()`` in the framework's checkpoints.

    Args:
        schedule: When to grow and how.
        example_input: One batch as the grown module's forward takes it: a tensor, a tuple of arguments or a mapping of
            keyword arguments. It is moved to the module's device.
        check: Whether all growths are tried on a copy when the training starts (`GrowthSchedule.check`), which needs
            memory for a second model and what its optimizers keep.
        **along: Passed on to every growth: ``generator`` and ``mirrors`` (see `graftwork.plan`).
    """

    def __init__(self, schedule: GrowthSchedule, *, example_input: Any, check: bool = True, **along: Any) -> None:
        if not isinstance(schedule, GrowthSchedule):
            raise ConfigError(f"schedule: expected a GrowthSchedule, got {type(schedule).__name__}")
        self.schedule = schedule
        self._example_input = example_input
        self._checks = check
        self._along = along

    def advance(
        self,
        module: nn.Module,
        steps: int,
        *,
        optimizers: Sequence[optim.Optimizer],
        wrapper: nn.Module | None = None,
    ) -> list[SurgeryReceipt]:
        """Make the growths that are due until a number of optimizer steps.

        Args:
            module: The module to grow, without the wrappers of distributed training.
            steps: Optimizer steps since training began, those before a resume included.
            optimizers: The optimizers that train it; their state is carried.
            wrapper: What the framework has put around the module, or around a module that it is part of
                (`graftwork.unwrapped` opens it). None where it has no wrapper.

        Returns:
            Receipts of the growths made now, usually none. They are also logged.

        Raises:
            SurgeryError: A growth can't be made; module and optimizers are as before.
        """
        made: list[SurgeryReceipt] = []
        while self.schedule.steps < steps:
            if self.schedule.due:
                with _opened(wrapper, optimizers):
                    made += self.schedule.step(module, **self._given(module, optimizers))
            else:
                self.schedule.step(module, example_input=self._example_input)
        for receipt in made:
            _log.info("after %d optimizer steps: %s", steps, receipt)
        return made

    def _given(self, module: nn.Module, optimizers: Sequence[optim.Optimizer]) -> dict[str, Any]:
        example = _on_device(self._example_input, module)
        return {"example_input": example, "optimizer": list(optimizers) or None, **self._along}

    def resume(
        self,
        module: nn.Module,
        steps: int,
        *,
        optimizers: Sequence[optim.Optimizer] = (),
        state: Mapping[str, Any] | None = None,
        wrapper: nn.Module | None = None,
    ) -> None:
        """Start from a number of optimizer steps: growths that have been made are not made again.

        Args:
            module: The module that will be trained on, with its past growths.
            steps: Optimizer steps already taken; 0 at the start of a training.
            optimizers: The optimizers that train it, their state loaded (see `graftwork.surgery.resume_optimizer`).
            state: The schedule's ``state_dict()`` from the checkpoint. None takes growths whose moment has passed for
                made; a schedule that waits for a `Plateau` needs it.
            wrapper: What the framework has put around the module, as for `advance`.

        Raises:
            ConfigError: Growths are past that the module does not have, or the state is that of another schedule.
            SurgeryError: A growth that is still to come will be refused.
        """
        if steps:
            self.schedule.load_state_dict({**(state or {}), "steps": steps})
            made = len(growth_log(module))
            if self.schedule.made > made:
                raise ConfigError(
                    f"module: expected one with the {self.schedule.made} growths of the schedule that are past after "
                    f"{steps} optimizer steps, got one with {made}; build it as it was at first, call "
                    "graftwork.surgery.replay(module, checkpoint_folder), and resume with that"
                )
            for optimizer in optimizers:
                resume_optimizer(optimizer)
        if self._checks:
            with _opened(wrapper, optimizers):
                self.schedule.check(module, **self._given(module, optimizers))


def _opened(wrapper: nn.Module | None, optimizers: Sequence[optim.Optimizer]) -> AbstractContextManager[object]:
    return nullcontext() if wrapper is None else unwrapped(wrapper, list(optimizers))


def _on_device(example_input: Any, module: nn.Module) -> Any:
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, example_input)
