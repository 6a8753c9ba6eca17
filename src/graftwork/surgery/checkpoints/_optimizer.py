"""An optimizer's state in a file, as transformers' Trainer writes it: positions become parameters, and positions again.

``optimizer.state_dict()`` knows parameters by their position alone. Trainer makes two groups, of the parameters that
decay and of those that do not, each in the model's order; PyTorch's usual call makes one group of all. Which it was is
seen from the number of groups, and every shape is compared.
"""

import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from graftwork._files import gave_out, parse_json, read_named, write_json
from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery.checkpoints._library import library

_FACTORED = ("_row", "_col")
_STATE = "trainer_state.json"
_PROGRESS = ("scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Files of Trainer that hold no shapes; they are copied, and read by nobody here."""
_BEST = ("best_metric", "best_global_step", "best_model_checkpoint")


class _Stored(optim.Optimizer):
    """An optimizer whose kind no file tells: its state is carried by shape and content."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Refuse: it holds state, and updates nothing."""
        raise NotImplementedError


_KINDS: dict[frozenset[str], type[optim.Optimizer]] = {
    frozenset({"step", "exp_avg", "exp_avg_sq"}): optim.AdamW,
    frozenset({"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}): optim.AdamW,
    frozenset({"momentum_buffer"}): optim.SGD,
}


def load_optimizer(path: Path, model: nn.Module) -> optim.Optimizer:
    """Return an optimizer of a model with the state of a file; tensors stay in the file until they are used.

    Args:
        path: What ``torch.save(optimizer.state_dict(), path)`` has written.
        model: The model that it has trained.

    Raises:
        SurgeryError: The file holds something else, or the state of another model.
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
    groups, state = _parts(found, path)
    ordered = _match(groups, state, model, path)
    keys = frozenset(key for entry in state.values() for key in entry)
    made = []
    for group, members in zip(groups, ordered, strict=True):
        names = {"param_names": [name for name, _ in members]} if "param_names" in group else {}
        made.append({**group, **names, "params": [parameter for _, parameter in members]})
    kind = _KINDS.get(keys, _Stored)
    optimizer = kind.__new__(kind)
    optim.Optimizer.__init__(optimizer, made, {})  # not the kind's own, which would add what the file has not
    for group, members in zip(groups, ordered, strict=True):
        for position, (_, parameter) in zip(group["params"], members, strict=True):
            if position in state:  # as it is: `load_state_dict` would change its precision to the parameter's
                optimizer.state[parameter] = dict(state[position])
    return optimizer


def _parts(found: Any, path: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    good = (
        isinstance(found, dict) and isinstance(found.get("param_groups"), list) and isinstance(found.get("state"), dict)
    )
    good = good and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in found["param_groups"])
    good = good and all(type(position) is int for group in found["param_groups"] for position in group["params"])
    good = good and all(isinstance(entry, dict) for entry in found["state"].values())
    if not good:
        raise SurgeryError(
            f"{path}: expected state and param_groups of one PyTorch optimizer, got "
            f"{list(found)[:4] if isinstance(found, dict) else type(found).__name__}; a state that is sharded over "
            "processes has to be gathered first"
        )
    return found["param_groups"], found["state"]


def orders(model: nn.Module) -> Iterator[list[list[tuple[str, nn.Parameter]]]]:
    """Yield the groups into which trainings put a model's parameters, each in its order.

    Raises:
        ConfigError: The package that Trainer needs is not installed.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        decaying = set(library().Trainer.get_decay_parameter_names(None, model))
    except ImportError as error:
        raise ConfigError(
            "an optimizer's groups: expected accelerate beside transformers, got none; pip install "
            "'graftwork[transformers]'"
        ) from error
    yield [[(n, p) for n, p in trained if n in decaying], [(n, p) for n, p in trained if n not in decaying]]
    yield [trained]


def _match(
    groups: list[dict[str, Any]], state: Mapping[int, dict[str, Any]], model: nn.Module, path: Path
) -> list[list[tuple[str, nn.Parameter]]]:
    sizes = [len(group["params"]) for group in groups]
    for ordered in orders(model):
        if [len(members) for members in ordered] == sizes:
            _refuse_shapes(groups, state, ordered, path)
            return ordered
    expected = " or ".join(str([len(members) for members in ordered]) for ordered in orders(model))
    raise SurgeryError(
        f"{path}: expected groups of {expected} parameters (Trainer's grouping by weight decay, or one group of all), "
        f"got {sizes}; is it the optimizer of this checkpoint?"
    )


def _refuse_shapes(
    groups: list[dict[str, Any]],
    state: Mapping[int, dict[str, Any]],
    ordered: list[list[tuple[str, nn.Parameter]]],
    path: Path,
) -> None:
    for group, members in zip(groups, ordered, strict=True):
        for position, (name, parameter) in zip(group["params"], members, strict=True):
            for key, value in state.get(position, {}).items():
                if (why := _unlike(key, value, parameter)) is not None:
                    raise SurgeryError(
                        f"{path}: {key} of {name!r}: expected the shape {tuple(parameter.shape)}, got {why}; "
                        "is it the optimizer of this checkpoint?"
                    )


def _unlike(key: str, value: Any, parameter: nn.Parameter) -> str | None:
    """What state is, where it can't be the parameter's."""
    if not isinstance(value, Tensor):
        return None if value is None or isinstance(value, (int, float)) else f"a {type(value).__name__}"
    whole = value.dim() > 0 and not key.endswith(_FACTORED)
    return str(tuple(value.shape)) if whole and value.shape != parameter.shape else None


def save_optimizer(optimizer: optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Write an optimizer's state with the positions that a training of the grown model gives to its parameters.

    Args:
        optimizer: What `load_optimizer` has returned, carried through the growths.
        model: The grown model.
        path: File to write.

    Raises:
        ResourceError: The machine can't write it.
    """
    for ordered in orders(model):
        if len(ordered) != len(optimizer.param_groups):
            continue
        for group, members in zip(optimizer.param_groups, ordered, strict=True):
            own = {id(parameter) for parameter in group["params"]}
            assert own == {id(parameter) for _, parameter in members}
            group["params"] = [parameter for _, parameter in members]
            if "param_names" in group:
                group["param_names"] = [name for name, _ in members]
        try:
            torch.save(optimizer.state_dict(), path)
        except RuntimeError as error:  # how torch says that the disk is full
            raise gave_out(path, OSError(str(error))) from error
        return


def copy_progress(beside: Path, folder: Path) -> None:
    """Copy what Trainer keeps of its progress beside an optimizer's state, so that it resumes from another folder.

    The best checkpoint so far is forgotten: it holds the model before it grew.

    Args:
        beside: File of the optimizer's state.
        folder: Folder to write to.
    """
    state = beside.parent / _STATE
    if not state.is_file():
        return
    progress = parse_json(read_named(state), str(state), error=SurgeryError)
    if isinstance(progress, dict):
        write_json(folder / _STATE, {**progress, **{key: None for key in _BEST if key in progress}})
    for path in sorted(found for pattern in _PROGRESS for found in beside.parent.glob(pattern)):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, folder / path.name)
