"""A model with its optimizers, copied whole: what happens to the copy leaves the original alone."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import first_line
from graftwork.surgery._wrappers import refuse_wrappers
from graftwork.surgery.carry import check_optimizers


def fork(
    model: nn.Module, optimizers: Sequence[optim.Optimizer], mirrors: Sequence[nn.Module] = ()
) -> tuple[nn.Module, tuple[optim.Optimizer, ...], tuple[nn.Module, ...]]:
    """Copy a model, its optimizers, which then train the copy, and modules that grow along.

    Args:
        model: The model.
        optimizers: Its optimizers, without the wrappers of training frameworks.
        mirrors: Modules of the same structure.

    Raises:
        SurgeryError: The model is wrapped or can't be copied, or an optimizer can't be carried.
    """
    refuse_wrappers(model)
    check_optimizers(optimizers, model)
    try:
        copied, own, along = copy.deepcopy((model, tuple(optimizers), tuple(mirrors)))
    except Exception as error:
        raise SurgeryError(
            f"model: expected one that copy.deepcopy can copy, to try its growths, got {type(model).__name__} "
            f"({first_line(error)}); go on without the check"
        ) from error
    for one, theirs in zip(own, optimizers, strict=True):
        _complete(one, theirs)
    return copied, own, along


def _complete(own: optim.Optimizer, theirs: optim.Optimizer) -> None:
    """Give a copied optimizer what its class keeps beside state and groups."""
    kept: dict[str, Any] = vars(theirs)
    # A scheduler of rates puts a step of its own there, which is bound to the original.
    vars(own).update({name: value for name, value in kept.items() if name not in vars(own) and name != "step"})
