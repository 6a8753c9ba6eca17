"""A ``torch.distributed.checkpoint`` of weights, read and written by one process without a process group."""

import io
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from graftwork._files import check_id, gave_out
from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints._source import Source

METADATA = ".metadata"
_PARTS = ".distcp"
_WRITTEN = "model."
"""What stands before the names of parameters: state dictionaries of trainings hold a model beside an optimizer."""
_PREFIXES = (_WRITTEN, "", "module.", "state_dict.", "app.model.")
_ADMITTED = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
}  # fmt: skip
"""Module → names. Whole names: one with dots would reach into what the module itself imports."""
_PATHS = ("pathlib", "pathlib._local")  # the latter in Python 3.13


def is_part(path: Path) -> bool:
    """Whether a file belongs to such a checkpoint."""
    return path.name == METADATA or path.suffix == _PARTS


class _Unpickler(pickle.Unpickler):
    """Reads ``.metadata``, a pickle, and nothing but the plain classes that it consists of."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return a class that such a file needs; any other name ends the reading."""
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if is_dtype or global_name in _ADMITTED.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if module_name in _PATHS and global_name.endswith("Path"):  # the folder that was written to
            return PurePath
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}; nothing of it was executed")


class Reader(FileSystemReader):
    """Reads tensors; torch's own reader would run whatever the pickle in ``.metadata`` asks for."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See `torch.distributed.checkpoint.FileSystemReader`."""
        path = Path(str(self.path)) / METADATA
        try:
            with path.open("rb") as file:
                found: Metadata = _Unpickler(file).load()
            for part in found.storage_data.values():
                check_id(part.relative_path, "name of a file")
            _refuse_gaps(found)
        except Exception as error:  # whatever a damaged pickle leads to
            raise SurgeryError(f"{path}: expected what torch.distributed.checkpoint writes, got {error}") from error
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Planner(DefaultLoadPlanner):
    """Reads objects as plain data; torch's own planner would run what a pickle asks for."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """See `torch.distributed.checkpoint.LoadPlanner`."""
        self.state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)


def _refuse_gaps(found: Metadata) -> None:
    """Refuse tensors of which a part is stored nowhere: it would be whatever was in memory."""
    for name, stored in found.state_dict_metadata.items():
        if isinstance(stored, TensorStorageMetadata):
            held = sum(math.prod(chunk.sizes) for chunk in stored.chunks)
            if held != math.prod(stored.size):
                raise ValueError(f"{name!r} with {held} of {math.prod(stored.size)} numbers")


def load(source: Source, folder: Path) -> nn.Module:
    """Return a model with the weights of a folder, in evaluation mode.

    Raises:
        SurgeryError: The folder holds the weights of another model.
    """
    reader = Reader(folder)
    held = reader.read_metadata().state_dict_metadata
    model = _empty(source)
    wanted = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    owners = {t.data_ptr(): name for name, t in reversed(wanted.items())}
    needed = {name: t for name, t in wanted.items() if owners[t.data_ptr()] == name}
    prefix = next((p for p in _PREFIXES if all(p + name in held for name in needed)), None)
    if prefix is None:
        missing = [name for name in needed if all(p + name not in held for p in _PREFIXES)] or list(needed)
        raise SurgeryError(
            f"{folder}: expected the tensors of {source.kind.__name__}, got none named {missing[0]!r} "
            f"(but {list(held)[:3]}); is the architecture in its config the right one?"
        )
    for name, tensor in needed.items():
        found = held[prefix + name]
        size = tuple(found.size) if isinstance(found, TensorStorageMetadata) else None
        if size != tuple(tensor.shape):
            raise SurgeryError(f"{folder}: {name!r}: expected the shape {tuple(tensor.shape)}, got {size}")
    fill(reader, {prefix + name: tensor for name, tensor in needed.items()}, folder)
    return model


def fill(reader: Reader, wanted: Mapping[str, Tensor | None], folder: Path) -> dict[str, Any]:
    """Read entries of a checkpoint.

    Args:
        reader: Its reader.
        wanted: Key → the tensor that is written to; one on the meta device gets memory. None for plain data.
        folder: Its folder, for messages.

    Returns:
        Key → tensor or plain data.

    Raises:
        SurgeryError: A part is damaged or missing, or holds more than plain data.
    """
    state = {k: torch.empty_like(t, device="cpu") if t is not None and t.is_meta else t for k, t in wanted.items()}
    planner = _Planner(flatten_state_dict=False, flatten_sharded_tensors=False)  # else objects go into a copy
    try:
        with _alone():
            load_parts(state, storage_reader=reader, planner=planner, no_dist=True)
    except Exception as error:  # a damaged or missing part: whatever torch raises
        raise SurgeryError(f"{folder}: expected whole files of tensors, got damaged ones ({error!r})") from error
    return state


def save(model: nn.Module, folder: Path, *, optimizer: dict[str, Any] | None = None) -> None:
    """Write a model's weights; the folder gets ``.metadata`` and one file.

    Args:
        model: The model.
        folder: The folder.
        optimizer: State of its optimizer by names, written beside it. None for none.

    Raises:
        ResourceError: The machine can't write it.
    """
    state: dict[str, Any] = {_WRITTEN + name: tensor for name, tensor in model.state_dict().items()}
    if optimizer is not None:
        state["optimizer"] = optimizer
    try:
        with _alone():
            save_parts(state, storage_writer=FileSystemWriter(folder), no_dist=True)
    except (OSError, RuntimeError) as error:  # torch's writer says by the latter that the disk is full
        raise gave_out(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


@contextmanager
def _alone() -> Iterator[None]:
    """Let torch pass over in silence that there is one process, and raise what it raises as it was."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process.*")
            yield
    except CheckpointException as error:  # a BaseException around what went wrong, interruptions too
        raise next(iter(error.failures.values()))[0] from error


def _empty(source: Source) -> nn.Module:
    """The model with memory for its weights, and nothing in it."""
    model: Any = source.skeleton()
    new: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=parameter.requires_grad)
            # `register_parameter` would refuse what is there.
            module._parameters[name] = new.setdefault(id(parameter), empty)  # noqa: SLF001
    return model  # type: ignore[no-any-return]
