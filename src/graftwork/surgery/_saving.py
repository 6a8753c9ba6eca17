"""Save a grown model as data (replay log in JSON, tensors in safetensors, never pickle); build it again.

``growth.json`` is the manifest of a save: it names the file of tensors and holds the hashes of both. The tensors get a
name of their own first; one rename of the manifest then replaces the save as a whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graftwork._files import (
    check_id,
    gave_out,
    make_folder,
    parse_json,
    read_named,
    scratch,
    sha256_of,
    sweep,
    sync_folder,
    write_json,
)
from graftwork.errors import InputError, ResourceError, SurgeryError
from graftwork.surgery._plan import LOG
from graftwork.surgery._pretrained import refuse_saving
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths import ModelGrowth

_FORMAT = "graftwork-growth"
_VERSION = 2
_LOG_FILE = "growth.json"
_OWN_TENSORS = re.compile(r"model-[0-9a-f]{16}\.safetensors")


def save_model(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a grown model: ``growth.json`` (how to rebuild it) and ``model-<hash>.safetensors`` (its state).

    An older save in the folder is replaced as a whole: after a kill at any moment the old one or the new one is there.

    Args:
        model: A model that was grown (or not) with graftwork.
        folder: Folder to write to; made if missing.

    Raises:
        SurgeryError: The state holds something else than tensors.
        ResourceError: The disk is full, or can't be written; the old save is kept.
    """
    target = Path(folder)
    tensors, aliases = _state_of(model)
    make_folder(target)
    sweep(target)
    name, digest = _write_tensors(tensors, target)
    _write_log(model, target, aliases=aliases, tensors={"file": name, "sha256": digest})
    for path in target.iterdir():
        if _OWN_TENSORS.fullmatch(path.name) and path.name != name:
            with suppress(OSError):  # the new save is complete; the next one tries again
                path.unlink(missing_ok=True)


def save_log(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write ``growth.json`` alone, for `replay`: where something else writes the tensors.

    Args:
        model: A model that was grown (or not) with graftwork.
        folder: An existing folder; the file is replaced atomically.
    """
    _write_log(model, Path(folder), aliases={}, tensors=None)


def _state_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor once, and the names of shared ones → the name under which they are stored."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise SurgeryError(
                f"state {key!r}: expected a tensor, got a {type(value).__name__}; only tensors can be saved as data"
            )
        owner = first.setdefault(id(value), key)
        if owner != key:
            aliases[key] = owner
        else:
            tensors[key] = value.detach().contiguous().clone()
    return tensors, aliases


def _write_tensors(tensors: dict[str, Tensor], folder: Path) -> tuple[str, str]:
    """Write tensors under a name that their hash gives; returns name and hash."""
    try:
        with scratch(folder, "model") as aside:  # a folder: safetensors, too, writes aside, under names of its own
            file = aside / "model.safetensors"
            save_file(tensors, file)
            with file.open("rb") as written:
                os.fsync(written.fileno())
            digest = sha256_of(file)
            name = f"model-{digest[:16]}.safetensors"
            file.replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise gave_out(folder, error if isinstance(error, OSError) else OSError(str(error))) from error
    sync_folder(folder)
    return name, digest


def _write_log(
    model: nn.Module, folder: Path, *, aliases: Mapping[str, str], tensors: Mapping[str, str] | None
) -> None:
    write_json(folder / _LOG_FILE, log_document(growth_log(model), aliases=aliases, tensors=tensors))


def log_document(
    growths: Sequence[Mapping[str, Any]],
    *,
    aliases: Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the content of a ``growth.json``.

    Args:
        growths: What `growth_log` returns.
        aliases: Name of a shared tensor → the one under which it is stored.
        tensors: Name and hash of the file of tensors; None where something else keeps them.
        **more: What a reader may want to know besides; `replay` passes over it.
    """
    content = {"growths": list(growths), "aliases": dict(aliases or {}), "tensors": tensors}
    return sealed({"format": _FORMAT, "version": _VERSION, **content, **more})


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log with its hash, so that damage is noticed."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def load_model(build_model: Callable[[], nn.Module], folder: str | os.PathLike[str]) -> nn.Module:
    """Build a grown model again.

    Args:
        build_model: Makes the model as it was before any growth (its weights don't matter).
        folder: What `save_model` has written, or a checkpoint of transformers with a ``growth.json``, whose
            ``model.safetensors`` is then read.

    Returns:
        The grown model with the saved state, in evaluation mode as built.

    Raises:
        SurgeryError: The folder is missing or damaged, or ``build_model`` makes another model.
    """
    source = Path(folder)
    document = _read(source / _LOG_FILE)
    tensors = _read_tensors(source, document["tensors"])
    model = build_model()
    _replay(model, document["growths"], f"{source / _LOG_FILE}: ")
    for alias, owner in document["aliases"].items():
        if owner not in tensors:
            raise SurgeryError(f"{source / _LOG_FILE}: expected the name of a stored tensor, got {owner!r}")
        tensors[alias] = tensors[owner]
    try:
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, KeyError, TypeError) as error:
        raise SurgeryError(
            f"build_model: expected the model that was saved, as it was before any growth, got another model ({error})"
        ) from error
    return model


def _read(path: Path) -> dict[str, Any]:
    """Read a log, and check all of it but the growths, which are checked where they are made.

    Links are followed: the cache of the hub keeps its files behind them.
    """
    try:
        document = parse_json(read_named(path), str(path), error=SurgeryError)
    except (OSError, InputError, ResourceError) as error:
        raise _unreadable(path, error) from error
    found = (document.get("format"), document.get("version")) if isinstance(document, dict) else (None, None)
    if found != (_FORMAT, _VERSION):
        raise SurgeryError(f"{path}: expected {_FORMAT} version {_VERSION}, got {found[0]!r} version {found[1]!r}")
    if sealed(document) != document:
        raise SurgeryError(f"{path}: expected the content that its hash names, got another; the file is damaged")
    aliases, tensors, growths = document.get("aliases"), document.get("tensors"), document.get("growths")
    good = isinstance(growths, list) and isinstance(aliases, dict) and isinstance(tensors, dict | None)
    if not good or not all(isinstance(owner, str) for owner in aliases.values()):
        raise SurgeryError(f"{path}: expected growths, aliases and tensors, got something else; the file is damaged")
    return dict(document)


def _read_tensors(folder: Path, entry: Mapping[str, Any] | None) -> dict[str, Tensor]:
    name = "model.safetensors" if entry is None else entry.get("file")
    path = folder / check_id(name, f"{folder / _LOG_FILE}: name of the tensors", error=SurgeryError)
    if not path.is_file():
        raise SurgeryError(f"{path}: expected the tensors of a saved model, got no file; it is lost")
    if entry is not None and sha256_of(path.resolve()) != entry.get("sha256"):
        raise SurgeryError(f"{path}: expected the content whose hash {_LOG_FILE} holds, got another; it is damaged")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise _unreadable(path, error) from error
    return tensors


def _unreadable(path: Path, error: Exception) -> SurgeryError:
    return SurgeryError(
        f"{path}: expected a file of save_model, got none that can be read ({error}); "
        f"{path.parent} holds no grown model, or a damaged one"
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
            written, or a checkpoint of a training framework (see ``graftwork.integrations``).

    Raises:
        SurgeryError: The log is missing or does not fit the model.
    """
    if isinstance(growths, list):
        _replay(model, growths, "")
    else:
        path = Path(growths) / _LOG_FILE
        _replay(model, _read(path)["growths"], f"{path}: ")


def _replay(model: nn.Module, log: list[dict[str, Any]], where: str) -> None:
    for entry in log:
        try:
            ModelGrowth.from_dict(entry["growth"]).rebuild(model, entry["changes"])
        except SurgeryError as error:
            raise SurgeryError(f"{where}{error}") from error
        except Exception as error:  # whatever a log of another model, or a stranger's, leads to
            raise SurgeryError(
                f"{where}the growth log does not fit this model ({error!r}); build the same model"
            ) from error
    vars(model)[LOG] = [*growth_log(model), *log]
    with Transaction() as transaction:
        refuse_saving(transaction, model, vars(model)[LOG])
