"""Save a grown model as data (replay log in JSON, tensors in safetensors, never pickle); build it again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graftwork._files import parse_json, read_named
from graftwork.errors import SurgeryError
from graftwork.surgery._plan import LOG
from graftwork.surgery.growths import ModelGrowth

_FORMAT = "graftwork-growth"
_VERSION = 1


def save_model(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a grown model: ``growth.json`` (how to rebuild it) and ``model.safetensors`` (its state).

    Args:
        model: A model that was grown (or not) with graftwork.
        folder: Folder to write to; made if missing, files in it are replaced atomically.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise SurgeryError(
                f"state {key!r}: expected a tensor, got a {type(value).__name__}; only tensors can be saved as data"
            )
        owner = first.setdefault(id(value), key)
        if owner != key:
            aliases[key] = owner
        else:
            tensors[key] = value.detach().contiguous().clone()
    _write(target / "model.safetensors", lambda path: save_file(tensors, path))
    save_log(model, target, aliases=aliases)


def save_log(model: nn.Module, folder: str | os.PathLike[str], *, aliases: dict[str, str] | None = None) -> None:
    """Write ``growth.json`` alone, for `replay`: where something else writes the tensors.

    Args:
        model: A model that was grown (or not) with graftwork.
        folder: An existing folder; the file is replaced atomically.
        aliases: Names of shared tensors → the name under which they are stored. None for none.
    """
    document = {"format": _FORMAT, "version": _VERSION, "growths": growth_log(model), "aliases": aliases or {}}
    text = json.dumps(document, indent=1)
    _write(Path(folder) / "growth.json", lambda path: path.write_text(text, encoding="utf-8"))


def _write(path: Path, writer: Callable[[Path], object]) -> None:
    aside = path.with_name(f".{path.name}.part")
    writer(aside)
    with aside.open("rb") as handle:
        os.fsync(handle.fileno())
    aside.replace(path)


def load_model(build_model: Callable[[], nn.Module], folder: str | os.PathLike[str]) -> nn.Module:
    """Build a grown model again.

    Args:
        build_model: Makes the model as it was before any growth (its weights don't matter).
        folder: What `save_model` has written.

    Returns:
        The grown model with the saved state, in evaluation mode as built.

    Raises:
        SurgeryError: The folder is missing or damaged, or ``build_model`` makes another model.
    """
    source = Path(folder)
    document = _read(source)
    try:
        tensors = load_file(source / "model.safetensors")
    except Exception as error:
        raise _unreadable(source, error) from error
    model = build_model()
    replay(model, document["growths"])
    try:
        tensors |= {alias: tensors[owner] for alias, owner in document["aliases"].items()}
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, KeyError, TypeError) as error:
        raise SurgeryError(
            f"build_model: expected the model that was saved, as it was before any growth, got another model ({error})"
        ) from error
    return model


def _read(folder: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_named(folder / "growth.json"), "growth.json", error=SurgeryError)
        found = document.get("format"), document.get("version")
    except Exception as error:
        raise _unreadable(folder, error) from error
    if found != (_FORMAT, _VERSION):
        raise SurgeryError(f"{folder!s}: expected {_FORMAT} version {_VERSION}, got {found[0]!r} version {found[1]!r}")
    if not isinstance(document.get("growths"), list) or not isinstance(document.get("aliases"), dict):
        raise SurgeryError(f"{folder!s}: expected a list of growths and the names of shared tensors; it is damaged")
    return document  # type: ignore[no-any-return]


def _unreadable(folder: Path, error: Exception) -> SurgeryError:
    return SurgeryError(
        f"{folder!s}: expected a folder of save_model, got one that holds no grown model that can be read ({error})"
    )


def growth_log(model: nn.Module) -> list[dict[str, Any]]:
    """Return the log of a model's growths so far, as plain data: what `replay` takes. Empty if it never grew.

    Returns:
        One entry a growth: ``growth``, the value as by its ``to_dict()``, and ``changes``, the shapes, numbers and
        blocks that it has led to in this model.
    """
    return list(getattr(model, LOG, []))


def replay(model: nn.Module, growths: list[dict[str, Any]] | str | os.PathLike[str]) -> None:
    """Give a freshly built model the structure of a grown one, with zeros until state is loaded.

    Args:
        model: The model before any growth; changed in place.
        growths: What `growth_log` returns for the grown model, or a folder that holds it: one that `save_model` has
            written, or a checkpoint of a training framework (see ``graftwork.surgery.integrations``).

    Raises:
        SurgeryError: The log is missing or does not fit the model.
    """
    log: list[dict[str, Any]] = growths if isinstance(growths, list) else _read(Path(growths))["growths"]
    for entry in log:
        try:
            ModelGrowth.from_dict(entry["growth"]).rebuild(model, entry["changes"])
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            if isinstance(error, SurgeryError):
                raise
            raise SurgeryError(f"the growth log does not fit this model ({error!r}); build the same model") from error
    vars(model)[LOG] = [*growth_log(model), *log]
