"""Models without weights: stand-ins, on which a plan can be made where parameters are on the meta device.

A plan follows values through the model: whether a branch that adds zero leaves the stream as it is, whether zeros come
out of an operation that gets zeros, which numbers of the forward change with the width. So it needs numbers, but any
will do: what it finds holds for all weights. A stand-in gives every parameter the numbers of one short random vector,
read over and over again with steps of different length for each dimension; it takes the memory of that vector.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from graftwork.errors import SurgeryError
from graftwork.surgery._configs import owners
from graftwork.surgery._tensors import stand_in_tensor
from graftwork.surgery.layers import built_from, parameters_on_meta


def is_on_meta(model: nn.Module) -> bool:
    """Whether a model has a parameter or buffer without numbers."""
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def stand_in(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters on the meta device have numbers that stand for weights.

    Buffers get the numbers with which the model is built: from its Hugging Face config, or those of a norm that has
    seen no data.

    Args:
        model: Any module; left as it is. Parameters that have numbers are shared with the copy.

    Raises:
        SurgeryError: A buffer is on the meta device, and what it holds can't be known.
    """
    held: dict[int, Tensor] = dict(_buffers(model))
    for parameter in model.parameters():
        value = stand_in_tensor(parameter.shape, parameter.dtype) if parameter.is_meta else None
        held[id(parameter)] = parameter if value is None else nn.Parameter(value, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, held)


def _buffers(model: nn.Module) -> Iterator[tuple[int, Tensor]]:
    built: dict[str, Tensor] = {}
    for path, owner in owners(model) if any(buffer.is_meta for buffer in model.buffers()) else ():
        fresh = built_from(type(owner), owner.config, {}, within=parameters_on_meta(owner))
        for name, buffer in fresh.named_buffers() if fresh is not None else ():
            built[f"{path}.{name}".lstrip(".")] = buffer
    for path, module in model.named_modules():
        for leaf, buffer in module.named_buffers(recurse=False):
            name = f"{path}.{leaf}".lstrip(".")
            if not buffer.is_meta:
                continue
            if name in built and built[name].shape == buffer.shape:
                yield id(buffer), built[name].to(buffer.dtype)
            elif isinstance(module, _NormBase):
                value = 1.0 if leaf == "running_var" else 0.0
                yield id(buffer), torch.full(tuple(buffer.shape), value, dtype=buffer.dtype)
            else:
                raise SurgeryError(
                    f"model: expected buffers with numbers, got {name!r} on the meta device; a plan needs no weights, "
                    "but constants: build the model so that its parameters alone are on the meta device"
                )
