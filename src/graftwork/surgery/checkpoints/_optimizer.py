"""An optimizer's state on disk: read into an optimizer of the model, carried through the growths, written again."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from graftwork._files import gave_out, parse_json, read_named, write_json
from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints import _distributed_state as distributed
from graftwork.surgery.checkpoints import _positions as positions
from graftwork.surgery.checkpoints._distributed import is_part
from graftwork.surgery.checkpoints._named import Layout, NamedState

_FILE = "optimizer.pt"
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


class StoredOptimizer:
    """An optimizer of a model with the state of a file, or of a folder of ``torch.distributed.checkpoint``.

    Args:
        path: The file or folder.
        model: The model that it has trained.

    Attributes:
        optimizer: The optimizer, which a growth may carry.
        files: The files that it was read from.

    Raises:
        SurgeryError: There is something else, or the state of another model.
    """

    def __init__(self, path: Path, model: nn.Module) -> None:
        self._path = path
        self.files = tuple(sorted(p for p in path.iterdir() if is_part(p))) if path.is_dir() else (path,)
        held = distributed.read(path, model) if path.is_dir() else positions.read(path, model)
        held.refuse_unfit(model, path)
        self._layout = held.layout
        self.optimizer = _built(held, dict(model.named_parameters()))

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """Return the state by the names of the grown model's parameters, as `get_optimizer_state_dict` does."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = []
        for group in self.optimizer.param_groups:
            members = [names[id(parameter)] for parameter in group["params"]]
            own = {"param_names": members} if "param_names" in group else {}
            groups.append({**group, **own, "params": members})
        state = {names[id(parameter)]: entry for parameter, entry in self.optimizer.state.items()}
        return {"state": state, "param_groups": groups}

    def entries(self, model: nn.Module) -> dict[str, Any]:
        """Return what ``torch.distributed.checkpoint`` stores, with the options of groups as they were stored."""
        found = self.state_dict(model)
        if self._layout is Layout.FLAT:
            groups = found["param_groups"]
            found["param_groups"] = {
                n: {k: v for k, v in g.items() if k != "params"} for g in groups for n in g["params"]
            }
        return found

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the state as a file, by positions if it came so, else by names.

        Args:
            model: The grown model.
            folder: Folder to write to.

        Raises:
            ResourceError: The machine can't write it.
        """
        if self._layout is Layout.POSITIONS:
            positions.arrange(self.optimizer, model)
            state = self.optimizer.state_dict()
        else:
            state = self.state_dict(model)
        try:
            torch.save(state, folder / _FILE)
        except RuntimeError as error:  # how torch says that the disk is full
            raise gave_out(folder / _FILE, OSError(str(error))) from error

    def copy_progress(self, folder: Path) -> None:
        """Copy what Trainer keeps of its progress beside or in an optimizer's state, so that it resumes from a folder.

        The best checkpoint so far is forgotten: it holds the model before it grew.

        Args:
            folder: Folder to write to.
        """
        places = [self._path, self._path.parent] if self._path.is_dir() else [self._path.parent]
        place = next((place for place in places if (place / _STATE).is_file()), None)
        if place is None:
            return
        state = place / _STATE
        progress = parse_json(read_named(state), str(state), error=SurgeryError)
        if isinstance(progress, dict):
            write_json(folder / _STATE, {**progress, **{key: None for key in _BEST if key in progress}})
        for path in sorted(found for pattern in _PROGRESS for found in place.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                shutil.copyfile(path, folder / path.name)


def _built(held: NamedState, parameters: dict[str, nn.Parameter]) -> optim.Optimizer:
    groups = []
    for group in held.groups:
        names = {"param_names": list(group["params"])} if "param_names" in group else {}
        groups.append({**group, **names, "params": [parameters[name] for name in group["params"]]})
    kind = _KINDS.get(frozenset(key for entry in held.state.values() for key in entry), _Stored)
    optimizer = kind.__new__(kind)
    optim.Optimizer.__init__(optimizer, groups, {})  # not the kind's own, which would add what the file has not
    for name, entry in held.state.items():  # as it is: `load_state_dict` would change its precision to the parameter's
        optimizer.state[parameters[name]] = dict(entry)
    return optimizer
