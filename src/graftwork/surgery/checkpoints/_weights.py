"""The weights of a checkpoint: found, read into a model, written, and compared bit by bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from graftwork._files import check_id, parse_json, read_named
from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints import _distributed as distributed
from graftwork.surgery.checkpoints._library import library, quiet
from graftwork.surgery.checkpoints._optimizer import StoredOptimizer
from graftwork.surgery.checkpoints._source import Source, refuse_links

FORMATS = ("safetensors", "dcp")
"""What weights can be written as."""
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_GENERATION = "generation_config.json"
_SHARD = 5_000_000_000
"""Bytes of a file of weights at most, where the checkpoint was not in smaller ones."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Weights:
    """Where the weights of a checkpoint are.

    Attributes:
        folder: Their folder.
        files: Their files.
        sharded: Whether an index says which tensor is in which file.
        distributed: Whether they are a ``torch.distributed.checkpoint``.
    """

    folder: Path
    files: tuple[Path, ...]
    sharded: bool = False
    distributed: bool = False

    @classmethod
    def find(cls, folder: Path) -> "Weights":
        """Find the weights in a folder, and look whether their files are whole; no tensor is read.

        Raises:
            SurgeryError: There are none, or they are pickles, or a file is damaged.
        """
        if not folder.is_dir():
            raise SurgeryError(
                f"{folder}: expected a folder with weights, got {'a file' if folder.exists() else 'none'}"
            )
        refuse_links(folder)
        if (folder / distributed.METADATA).is_file():
            return cls(folder, tuple(sorted(p for p in folder.iterdir() if distributed.is_part(p))), distributed=True)
        if (folder / _WHOLE).is_file():
            _refuse_damaged(folder / _WHOLE)
            return cls(folder, (folder / _WHOLE,))
        if (folder / _INDEX).is_file():
            files = tuple(folder / name for name in _shards(folder))
            for file in files:
                _refuse_damaged(file)
            return cls(folder, (folder / _INDEX, *files), sharded=True)
        raise SurgeryError(_none_there(folder))

    @property
    def shard_size(self) -> int:
        """Bytes of a file of weights at most, when the grown ones are written."""
        sizes = [file.stat().st_size for file in self.files] if self.sharded else []
        return min(max(sizes, default=_SHARD), _SHARD)


def _shards(folder: Path) -> list[str]:
    index = parse_json(read_named(folder / _INDEX), str(folder / _INDEX), error=SurgeryError)
    held = index.get("weight_map") if isinstance(index, dict) else None
    if not (isinstance(held, dict) and held and all(isinstance(name, str) for name in held.values())):
        raise SurgeryError(f"{folder / _INDEX}: expected a weight_map of tensors and files, got something else")
    names = sorted(set(held.values()))
    return [check_id(name, f"{folder / _INDEX}: name of a file", error=SurgeryError) for name in names]


def _refuse_damaged(path: Path) -> None:
    if not path.is_file():
        raise SurgeryError(f"{path}: expected a file of weights, as the index names it, got none; it is lost")
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise SurgeryError(f"{path}: expected a whole safetensors file, got a damaged one ({error})") from error


def _none_there(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern) if "model" in path.name)
    head = f"{folder}: expected weights as {_WHOLE}, {_INDEX} or a torch.distributed.checkpoint, got "
    if pickles:
        return (
            f"{head}{pickles[0]}, a pickle, which may run code when it is read; where you trust it, load it by "
            "from_pretrained and save it again by save_pretrained"
        )
    return f"{head}none; name their folder by weights"


def load(source: Source, weights: Weights) -> nn.Module:
    """Return the model with its weights, in evaluation mode.

    Raises:
        SurgeryError: The weights are not those of the architecture.
    """
    model: Any = distributed.load(source, weights.folder) if weights.distributed else _from_files(source, weights)
    if (source.folder / _GENERATION).is_file():  # beside the config, where the weights lie elsewhere
        try:
            with quiet():
                model.generation_config = library().GenerationConfig.from_pretrained(source.folder)
        except Exception as error:  # whatever a config of a stranger leads to
            raise SurgeryError(f"{source.folder / _GENERATION}: expected a generation config, got {error!r}") from error
    model.eval()
    return model  # type: ignore[no-any-return]


def _from_files(source: Source, weights: Weights) -> Any:
    kind: Any = source.kind
    try:
        with quiet():
            model, found = kind.from_pretrained(
                weights.folder,
                config=source.config,
                dtype=source.dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # sizes that differ, a damaged file, whatever the loader raises
        raise SurgeryError(
            f"{weights.folder}: expected weights of {kind.__name__} as its config describes it, got {error}"
        ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, found.get(problem) or ())):
            some = f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            raise SurgeryError(
                f"{weights.folder}: expected the tensors of {kind.__name__}, got {problem.replace('_keys', '')} ones: "
                f"{some}; is the architecture in its config the right one?"
            )
    return model


def save(model: nn.Module, folder: Path, *, to: str, shard_size: int, optimizer: StoredOptimizer | None = None) -> None:
    """Write a model's config and weights as transformers does, or the weights as a ``torch.distributed.checkpoint``.

    Args:
        model: A model of transformers.
        folder: Folder to write to.
        to: One of `FORMATS`.
        shard_size: Bytes of a file of weights at most.
        optimizer: Its optimizer, written in the same form. None for none.
    """
    kept: Any = model
    with quiet():
        if to == "dcp":
            kept.config.architectures, kept.config.dtype = [type(model).__name__], kept.dtype
            kept.config.save_pretrained(folder)
            if kept.can_generate():
                kept.generation_config.save_pretrained(folder)
            distributed.save(model, folder, optimizer=None if optimizer is None else optimizer.entries(model))
        else:
            kept.save_pretrained(folder, max_shard_size=shard_size)
    if optimizer is not None:
        if to != "dcp":
            optimizer.save(model, folder)
        optimizer.copy_progress(folder)
