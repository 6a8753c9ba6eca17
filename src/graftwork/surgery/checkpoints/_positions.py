"""An optimizer's state in a file of ``torch.save``: positions become names of parameters, and positions again.

``optimizer.state_dict()`` knows parameters by their position alone. Trainer makes two groups, of the parameters that
decay and of those that do not, each in the model's order; PyTorch's usual call makes one group of all. Which it was is
seen from the number of groups, and every shape is compared. A state by names, as ``get_optimizer_state_dict`` of
``torch.distributed.checkpoint.state_dict`` gives it, is taken as it is.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery.checkpoints._library import library
from graftwork.surgery.checkpoints._named import Layout, NamedState


def read(path: Path, model: nn.Module) -> NamedState:
    """Return the state in a file; tensors stay in the file until they are used.

    Args:
        path: What ``torch.save(optimizer.state_dict(), path)`` has written.
        model: The model that it has trained.

    Raises:
        SurgeryError: The file holds something else, or groups of another model.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise SurgeryError(f"{path}: expected the state of an optimizer, got no file") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise SurgeryError(
            f"{path}: expected plain tensors and numbers, as torch.save(optimizer.state_dict(), …) writes them, got "
            f"{str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    kinds = _kinds(found)
    if kinds == {str}:
        return NamedState(found["param_groups"], found["state"], Layout.NAMES)
    if kinds != {int}:
        raise SurgeryError(
            f"{path}: expected state and param_groups of one PyTorch optimizer, got "
            f"{list(found)[:4] if isinstance(found, dict) else type(found).__name__}; a state that is sharded over "
            "processes has to be gathered first, or saved by torch.distributed.checkpoint"
        )
    return _named(found["param_groups"], found["state"], model, path)


def _kinds(found: Any) -> set[type]:
    """Types of what stands for parameters in a state dictionary; none where it is no such thing."""
    if not (isinstance(found, dict) and isinstance(found.get("state"), dict)):
        return set()
    groups = found.get("param_groups")
    if not (
        isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    ):
        return set()
    if not all(isinstance(entry, dict) for entry in found["state"].values()):
        return set()
    return {type(one) for one in [*found["state"], *(one for group in groups for one in group["params"])]}


def orders(model: nn.Module) -> Iterator[list[list[str]]]:
    """Yield the groups into which trainings put a model's parameters, each in its order.

    Raises:
        ConfigError: The package that Trainer needs is not installed.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        decaying = set(library().Trainer.get_decay_parameter_names(None, model))
    except ImportError as error:
        raise ConfigError(
            "an optimizer's groups: expected accelerate beside transformers, got none; pip install "
            "'graftwork[transformers]'"
        ) from error
    yield [[name for name in trained if name in decaying], [name for name in trained if name not in decaying]]
    yield [trained]


def _named(groups: list[dict[str, Any]], state: dict[int, dict[str, Any]], model: nn.Module, path: Path) -> NamedState:
    sizes = [len(group["params"]) for group in groups]
    ordered = next((order for order in orders(model) if [len(members) for members in order] == sizes), None)
    if ordered is None:
        expected = " or ".join(str([len(members) for members in order]) for order in orders(model))
        raise SurgeryError(
            f"{path}: expected groups of {expected} parameters (Trainer's grouping by weight decay, or one group of "
            f"all), got {sizes}; is it the optimizer of this checkpoint?"
        )
    pairs = zip(groups, ordered, strict=True)
    names = {at: name for group, members in pairs for at, name in zip(group["params"], members, strict=True)}
    named = [{**group, "params": members} for group, members in zip(groups, ordered, strict=True)]
    # A position in no group keeps its number, which is no name of the model's.
    return NamedState(named, {names.get(at, str(at)): entry for at, entry in state.items()}, Layout.POSITIONS)


def arrange(optimizer: optim.Optimizer, model: nn.Module) -> None:
    """Give parameters the positions that a training of the grown model gives to them.

    Args:
        optimizer: An optimizer with the groups of one of `orders`; the order in its groups is changed.
        model: The grown model.
    """
    parameters = dict(model.named_parameters())
    ordered = next(order for order in orders(model) if len(order) == len(optimizer.param_groups))
    for group, members in zip(optimizer.param_groups, ordered, strict=True):
        assert {id(parameter) for parameter in group["params"]} == {id(parameters[name]) for name in members}
        group["params"] = [parameters[name] for name in members]
        if "param_names" in group:
            group["param_names"] = members
