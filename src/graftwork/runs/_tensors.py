"""Tensors in safetensors files; never pickle."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from graftwork._files import check_size, write_pieces
from graftwork.errors import RunError

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the safetensors format."""
_MAX_HEADER = 2**26


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors to one file, as a whole. Tensors that share memory are written each for itself.

    The format is written here and not by the safetensors package, which needs a copy of everything at once: a large
    population would take several times its memory for each checkpoint.

    Args:
        path: Of the file.
        tensors: Name → tensor of a type that safetensors and this table of types know; left alone.

    Returns:
        The SHA-256 of the file, in hex.

    Raises:
        RunError: If a type is unknown; nothing is written.
        ResourceError: If the disk is full; the old file is kept.
    """
    return write_pieces(path, tensor_pieces(tensors))


def tensor_pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Content of a file: length of the header, header, tensors; wide types first, so that all are aligned."""
    unknown = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in _TYPES}
    if unknown:
        raise RunError(f"safetensors: expected types {', '.join(_TYPES.values())}, got {unknown}")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if tensors[name].numel():
            yield tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors that `save_tensors` wrote.

    Raises:
        RunError: If the file is missing or damaged, or no regular file.
    """
    try:
        if not path.is_file() or path.is_symlink():
            raise RunError(f"{path} is missing, or no file; expected a safetensors file")
        check_size(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise RunError(f"{path}: expected a header of at most {_MAX_HEADER:,} bytes, got {length:,}; it is damaged")
        return {name: _canonical(tensor) for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} can't be read ({error}); it is damaged, or no safetensors file") from error


def _canonical(tensor: Tensor) -> Tensor:
    """Channels-last strides for every 4-D tensor, as the bank has them: kernels, and so bits, depend on strides."""
    if tensor.dim() != 4:
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


def scoped(scope: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix before every name."""
    return {f"{scope}:{name}": tensor for name, tensor in tensors.items()}


def unscoped(scope: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that have the prefix, without it."""
    start = f"{scope}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
