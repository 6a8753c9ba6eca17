"""An optimizer's state in a ``torch.distributed.checkpoint``, as ``get_optimizer_state_dict`` gives it to be saved.

Its keys are ``optimizer.state.NAME.exp_avg`` and ``optimizer.param_groups.0.lr``; with ``flatten_optimizer_state_dict``
the options of groups stand at every parameter: ``optimizer.param_groups.NAME.lr``. PyTorch before 2.4 stored all groups
as one object.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, TensorStorageMetadata

from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints._distributed import Reader, fill
from graftwork.surgery.checkpoints._named import Layout, NamedState
from graftwork.surgery.checkpoints._source import refuse_links

_PREFIXES = ("optimizer.", "optim.", "", "app.optim.", "app.optimizer.")
"""What stands before it: checkpoints of trainings hold an optimizer beside a model."""
_STATE, _GROUPS = "state.", "param_groups"


def read(folder: Path, model: nn.Module) -> NamedState:
    """Return the state in a folder. Shapes are compared before memory is taken for them.

    Args:
        folder: The folder.
        model: The model that the optimizer has trained.

    Raises:
        SurgeryError: The folder holds no optimizer, a damaged one or that of another model.
    """
    refuse_links(folder)
    reader = Reader(folder)
    held = reader.read_metadata().state_dict_metadata
    prefix = next((p for p in _PREFIXES if any(key.startswith(p + _GROUPS) for key in held)), None)
    if prefix is None:
        raise SurgeryError(
            f"{folder}: expected the state of an optimizer, as get_optimizer_state_dict of "
            f"torch.distributed.checkpoint.state_dict returns it, got none (but {list(held)[:3]}); is it elsewhere?"
        )
    own = (prefix + _STATE, prefix + _GROUPS)
    outlines = {key.removeprefix(prefix): _outline(held[key]) for key in held if key.startswith(own)}
    names = _names(model)
    everything = [{"params": [name for name, _ in model.named_parameters()]}]
    NamedState(everything, _state(outlines, names), Layout.NAMES).refuse_unfit(model, folder)
    _refuse_large(outlines, folder)
    found = fill(reader, {prefix + key: value for key, value in outlines.items()}, folder)
    entries = {key.removeprefix(prefix): value for key, value in found.items()}
    groups, layout = _groups(entries, names, folder)
    return NamedState(groups, _state(entries, names), layout)


def _outline(stored: STORAGE_TYPES) -> Tensor | None:
    """A tensor without memory, of the stored shape and precision; None for an object."""
    if isinstance(stored, TensorStorageMetadata):
        return torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
    return None


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter → its first one."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _state(entries: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    state: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        if key.startswith(_STATE):
            name, _, leaf = key.removeprefix(_STATE).rpartition(".")
            state.setdefault(names.get(name, name), {})[leaf] = value
    return state


def _refuse_large(outlines: Mapping[str, Any], folder: Path) -> None:
    for key, value in outlines.items():
        if key.startswith(_GROUPS) and isinstance(value, Tensor) and value.numel() > 1:
            raise SurgeryError(f"{folder}: {key}: expected one number, got a tensor of shape {tuple(value.shape)}")


def _groups(entries: Mapping[str, Any], names: Mapping[str, str], folder: Path) -> tuple[list[dict[str, Any]], Layout]:
    """The groups of parameters, with names, and how they were stored."""
    flat: dict[str, dict[str, Any]] = {}
    numbered: dict[str, dict[str, Any]] = {}
    whole: Any = entries.get(_GROUPS)
    for key, value in entries.items():
        if key.startswith(f"{_GROUPS}."):
            holder, _, option = key.removeprefix(f"{_GROUPS}.").rpartition(".")
            (flat if holder in names else numbered).setdefault(holder, {})[option] = value
    if flat and not numbered and whole is None:
        return _alike({names[name]: options for name, options in flat.items()}), Layout.FLAT
    groups: Any = whole if whole is not None else [numbered.get(str(at)) for at in range(len(numbered))]
    good = not flat and isinstance(groups, list) and all(_is_group(group) for group in groups)
    if not good:
        raise SurgeryError(
            f"{folder}: expected groups of parameters by their names, got {list(flat or numbered)[:3]}; is it one "
            "optimizer of this checkpoint?"
        )
    return [{**group, "params": [names.get(name, name) for name in group["params"]]} for group in groups], Layout.NAMES


def _is_group(group: Any) -> bool:
    params = group.get("params") if isinstance(group, dict) else None
    return isinstance(params, list) and all(isinstance(name, str) for name in params)


def _alike(options: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One group for all parameters with the same options."""
    groups: dict[str, dict[str, Any]] = {}
    for name, own in options.items():
        groups.setdefault(repr(sorted(own.items())), {**own, "params": []})["params"].append(name)
    return list(groups.values())
