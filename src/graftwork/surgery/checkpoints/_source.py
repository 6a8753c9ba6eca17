"""A checkpoint folder of Hugging Face: what it holds, checked before anything of it is read.

Nothing in a folder runs as code: the architecture has to be one of transformers' own, weights are safetensors or a
``torch.distributed.checkpoint``, never pickles, and a link may only lead to where the cache of the hub keeps its files.
"""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftwork._files import parse_json, read_named
from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery.checkpoints._library import library, quiet
from graftwork.surgery.layers import parameters_on_meta

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
CONFIG = "config.json"


@dataclass(frozen=True)
class Source:
    """An architecture and its config, as a folder describes them.

    Attributes:
        folder: The folder.
        kind: Class of the model, one of transformers' own.
        config: Its config.
        dtype: Precision of the weights.
    """

    folder: Path
    kind: type[nn.Module]
    config: Any
    dtype: torch.dtype

    @classmethod
    def open(cls, folder: Path, dtype: str | None = None) -> "Source":
        """Read the config of a folder.

        Args:
            folder: Folder with a ``config.json``.
            dtype: Name of a precision. None takes what the config says.

        Raises:
            SurgeryError: The folder holds no such checkpoint, or one that can't be grown.
        """
        if not (folder / CONFIG).is_file():
            raise SurgeryError(f"{folder}: expected a folder with {CONFIG}, got {_found(folder)}")
        refuse_links(folder)
        described = parse_json(read_named(folder / CONFIG), str(folder / CONFIG), error=SurgeryError)
        kind = _class_of(described, folder / CONFIG)
        _refuse_unfit(described, folder)
        chosen = _dtype(dtype, described, folder)
        try:
            with quiet():
                config: Any = kind.config_class.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
        except Exception as error:  # whatever a config of a stranger leads to
            raise SurgeryError(f"{folder / CONFIG}: expected a config of {kind.__name__}, got {error!r}") from error
        if hasattr(config, "auto_map"):  # code of a repository, which the class here does without
            del config.auto_map
        return cls(folder, kind, config, chosen)

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return str(self.dtype).removeprefix("torch.")

    def skeleton(self, config: Any = None) -> nn.Module:
        """Return the model without weights: parameters on the meta device, buffers for real.

        Args:
            config: Another config than the checkpoint's own.

        Raises:
            SurgeryError: The class can't be built from it.
        """
        try:
            with quiet(), torch.random.fork_rng(devices=[]), parameters_on_meta(self.dtype):
                return self.kind(copy.deepcopy(self.config if config is None else config)).eval()
        except Exception as error:  # whatever a constructor raises
            raise SurgeryError(
                f"{self.folder / CONFIG}: expected sizes of which {self.kind.__name__} can be built, got {error!r}"
            ) from error


def _found(folder: Path) -> str:
    if not folder.exists():
        return "nothing there; download a model of the hub first: hf download NAME --local-dir FOLDER"
    if not folder.is_dir():
        return "a file; give the folder that holds it"
    if (folder / "adapter_config.json").is_file():
        return "an adapter; merge it into its base (merge_and_unload) and save that"
    return "none; save the model there by save_pretrained"


def refuse_links(folder: Path) -> None:
    """Refuse links out of a folder: what they lead to would be read, and copied along.

    Raises:
        SurgeryError: There is one, which does not lead into the hub's own cache.
    """
    homes = [folder.resolve(), (folder.resolve().parent.parent / "blobs")]
    for path in sorted(folder.iterdir()):
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not any(target.is_relative_to(home) for home in homes):
            raise SurgeryError(f"{path}: expected a file of the folder, got a link out of it; put the file there")


def _class_of(described: Any, path: Path) -> type[nn.Module]:
    names = described.get("architectures") if isinstance(described, dict) else None
    if not (isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)):
        raise SurgeryError(f"{path}: expected the name of one class under 'architectures', got {names!r}")
    base, found = library().PreTrainedModel, getattr(library(), names[0], None)
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    if described.get("auto_map"):
        raise SurgeryError(
            f"{path}: expected an architecture of transformers itself, got {names[0]!r}, whose code is in the "
            "checkpoint (trust_remote_code) and is not run; build the model yourself and use graftwork.grow"
        )
    known = [name for name in dir(library()) if "For" in name]
    raise SurgeryError(
        f"{path}: expected an architecture of transformers {library().__version__}, got {names[0]!r}"
        f"{did_you_mean(names[0], known)}"
    )


def _refuse_unfit(described: dict[str, Any], folder: Path) -> None:
    if described.get("quantization_config"):
        raise SurgeryError(f"{folder}: expected weights in full precision, got quantized ones; grow before quantizing")
    if (folder / "adapter_config.json").exists():
        raise SurgeryError(f"{folder}: expected a model alone, got one with an adapter; merge it, or take it away")


def _dtype(name: str | None, described: dict[str, Any], folder: Path) -> torch.dtype:
    asked = name if name is not None else described.get("dtype", described.get("torch_dtype")) or "float32"
    if isinstance(asked, str) and asked in _DTYPES:
        return _DTYPES[asked]
    where = "dtype" if name is not None else f"{folder / CONFIG}: dtype"
    raise SurgeryError(f"{where}: expected one of {list(_DTYPES)}, got {asked!r}{did_you_mean(asked, _DTYPES)}")
