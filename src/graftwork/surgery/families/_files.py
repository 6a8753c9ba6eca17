"""A training on disk: the model, its optimizers, and how far it is; never pickle."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from graftwork._files import damaged, make_folder, parse_json, read_named, write_folder, write_json
from graftwork.errors import SurgeryError
from graftwork.surgery._saving import load_model, save_model
from graftwork.surgery.carry import resume_optimizer

_RECORD, _OPTIMIZERS, _TENSORS = "family.json", "optimizers.json", "optimizers.safetensors"
_TENSOR = "tensor"


class FamilyFiles:
    """The folder of a family: ``family.json``, finished models, and the training that they branch from.

    The record is written last and names the folder of the training that belongs to it, so that after a kill at any
    moment the two fit.

    Args:
        folder: The folder; made if missing.

    Raises:
        SurgeryError: It holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        if not (folder / _RECORD).exists() and any(
            not path.name.startswith(("size-", "trunk-")) for path in _in(folder)
        ):
            raise SurgeryError(f"folder: expected an empty one or that of a family, got {folder}; name another")

    def record(self) -> dict[str, Any] | None:
        """What was recorded last; None at the beginning.

        Raises:
            SurgeryError: It can't be read.
        """
        path = self.folder / _RECORD
        if not path.exists():
            return None
        found = parse_json(read_named(path), str(path), error=SurgeryError)
        if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
            raise SurgeryError(f"{path}: expected the record of a family, got something else; it is damaged")
        return found

    def save(
        self, name: str, model: nn.Module, optimizers: Sequence[optim.Optimizer], record: Mapping[str, Any]
    ) -> None:
        """Store a training and its record, and drop the training before it.

        Args:
            name: Name of the training's folder, another one each time.
            model: The model in training.
            optimizers: Its optimizers.
            record: Plain data.

        Raises:
            SurgeryError: The state of an optimizer is no data.
        """

        def fill(aside: Path) -> None:
            save_model(model, aside)
            tensors: dict[str, Tensor] = {}
            states = [_packed(one.state_dict(), f"{number}", tensors) for number, one in enumerate(optimizers)]
            save_file(tensors, aside / _TENSORS)
            write_json(aside / _OPTIMIZERS, states)

        write_folder(self.folder / name, fill)
        self.finish(record, but=name)

    def finish(self, record: Mapping[str, Any], *, but: str | None = None) -> None:
        """Write the record, and drop every stored training but one."""
        write_json(self.folder / _RECORD, record)
        for path in _in(self.folder):
            if path.name.startswith("trunk-") and path.name != but:
                shutil.rmtree(path)

    def load(
        self, name: str, build: Callable[[], nn.Module], make: Callable[[nn.Module], tuple[optim.Optimizer, ...]]
    ) -> tuple[nn.Module, tuple[optim.Optimizer, ...]]:
        """Build a stored training again.

        Args:
            name: Name of its folder.
            build: Makes the model as it was before any growth.
            make: Makes the optimizers of a model.

        Raises:
            SurgeryError: It is missing or damaged, or ``build`` or ``make`` give something else than before.
        """
        folder = self.folder / name
        model = load_model(build, folder)
        optimizers = make(model)
        with damaged(f"{folder}: state of the optimizers", error=SurgeryError):
            try:
                tensors = load_file(folder / _TENSORS)
            except (SafetensorError, OSError) as error:
                raise SurgeryError(f"{folder / _TENSORS} can't be read ({error}); it is damaged") from error
            states = parse_json(read_named(folder / _OPTIMIZERS), str(folder / _OPTIMIZERS), error=SurgeryError)
            for one, state in zip(optimizers, states, strict=True):
                found = _unpacked(state, tensors)
                one.load_state_dict({**found, "state": {int(key): slots for key, slots in found["state"].items()}})
                resume_optimizer(one)
        return model, optimizers


def _in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Plain data with names in place of tensors, which are put beside."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _packed(inner, f"{name}.{key}", tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(inner, f"{name}.{number}", tensors) for number, inner in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise SurgeryError(
        f"optimizer: expected state of tensors and plain data, which can be stored, got "
        f"{type(value).__name__} as {name}; take another optimizer"
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_TENSOR}:
        return tensors[value[_TENSOR]]
    return {key: _unpacked(inner, tensors) for key, inner in value.items()}
