"""A fresh copy of a residual block that starts as the identity, for growing a model block by block."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import matched_uniform, reference_scale
from graftwork.surgery._graft import grafts_of, ungraft
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout
from graftwork.surgery._space import Var, atoms


def bare_copy(module: nn.Module) -> nn.Module:
    """Copy a module without the blocks that were grafted onto it."""
    result = copy.deepcopy(module)
    for name in reversed(grafts_of(result)):
        ungraft(result, name)
    vars(result).pop("_graftwork_log", None)
    result._forward_hooks.clear()  # noqa: SLF001 - hooks of the user belong to the original
    result._forward_pre_hooks.clear()  # noqa: SLF001
    return result


def twin_copy(graph: ChannelGraph, like: str, *, generator: torch.Generator) -> tuple[nn.Module, str]:
    """Return a copy of a residual block with new weights whose residual branches add nothing yet.

    Where a branch ends in batch normalization, its scale starts at zero (between twins, the variance that it
    divides by would be zero). Elsewhere the last hidden volume of every branch (heads, the hidden units of a
    feed-forward layer) is made of R2R twins: rows [U; U] and columns [V, −V], biases zero.

    Args:
        graph: Channel graph of the model.
        like: Path of the block to copy.
        generator: Source of randomness on the CPU.

    Returns:
        The block, and one line on how its branches were silenced.

    Raises:
        SurgeryError: The block has no hidden volume of even size that ends a branch.
    """
    block = bare_copy(graph.model.get_submodule(like))
    tensors = {
        name: tensor
        for name, tensor in [*block.named_parameters(), *block.named_buffers()]
        if f"{like}.{name}" in graph.trace.spaces
    }
    with torch.no_grad():
        for name, tensor in tensors.items():
            _refresh(block, name, tensor, generator)
        last = _last_norm(graph, like)
        if last is not None:
            block.get_submodule(last).weight.zero_()  # type: ignore[operator]
            return block, f"its last norm {last!r} starts at zero"
        volumes = _branch_ends(graph, like)
        maps = {var: _twins(var.size) for var in volumes if var.size % 2 == 0}
        if not maps:
            raise SurgeryError(
                f"like: expected a residual block, got {like!r}, which has no hidden volume of even size that ends a "
                "branch, so a copy can't start as the identity; deepen without like="
            )
        for name, tensor in tensors.items():
            _make_twins(graph, f"{like}.{name}", tensor, maps)
    return block, f"its branches end in twin volumes of {[var.size for var in maps]} units"


def _refresh(block: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    path, _, leaf = name.rpartition(".")
    owner = block.get_submodule(path)
    if tensor.dim() >= 2 and isinstance(tensor, nn.Parameter):
        std = reference_scale(tensor)
        tensor.copy_(matched_uniform(tensor.shape, std=std, generator=generator, dtype=tensor.dtype))
    elif "bias" in leaf or leaf in {"running_mean", "num_batches_tracked"}:
        tensor.zero_()
    elif leaf == "running_var" or (leaf == "weight" and "Norm" in type(owner).__name__):
        tensor.fill_(1.0)


def _last_norm(graph: ChannelGraph, like: str) -> str | None:
    """The batch norm that ends the block's branch, if the last module with weights is one."""
    inside = [
        path.removeprefix(f"{like}.")
        for path in graph.trace.module_outputs
        if path.startswith(f"{like}.")
        and "graft" not in path.removeprefix(like)
        and next(graph.model.get_submodule(path).parameters(recurse=False), None) is not None
    ]
    if not inside:
        return None
    module = graph.model.get_submodule(f"{like}.{inside[-1]}")
    ends = isinstance(module, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - the base of batch norms
    return inside[-1] if ends and module.weight is not None else None


def _branch_ends(graph: ChannelGraph, like: str) -> list[Var]:
    """Volumes inside the block that a tensor sums over to make channels outside it."""
    prefix = f"{like}."
    found: dict[int, Var] = {}
    for name in graph.trace.spaces:
        if not name.startswith(prefix) or "graft" in name.removeprefix(like):
            continue
        uses = graph.trace.uses[name]
        made = [var for use in uses if not use.consumed for var in atoms(use.expr)]
        read = [var for use in uses if use.consumed for var in atoms(use.expr)]
        if any(not _inside(graph, var, prefix) for var in made):
            for var in read:
                if not var.reasons and _inside(graph, var, prefix):
                    found.setdefault(id(var), var)
    return list(found.values())


def _inside(graph: ChannelGraph, var: Var, prefix: str) -> bool:
    return all(name.startswith(prefix) for name in graph.touched([var]))


def _twins(size: int) -> Layout:
    half = size // 2
    source = np.concatenate([np.arange(half), np.arange(half)])
    factor = np.concatenate([np.ones(half), -np.ones(half)])
    return Layout(np.arange(size), source, factor, half, size)


def _make_twins(graph: ChannelGraph, name: str, tensor: Tensor, maps: dict[Var, Layout]) -> None:
    """Let the second half of every twin volume repeat the first, with the consumer's sign."""
    for dim, layout in enumerate(graph.layouts(name, maps)):
        if layout.reduced == layout.new_size:
            continue
        first = np.full(layout.reduced, -1)
        for position, place in enumerate(layout.source):
            first[place] = position if first[place] < 0 else first[place]
        index = torch.as_tensor(first[layout.source], device=tensor.device)
        value = tensor.index_select(dim, index)
        factor = torch.as_tensor(layout.factor, dtype=tensor.dtype, device=tensor.device)
        tensor.copy_(value * factor.reshape([-1 if i == dim else 1 for i in range(tensor.dim())]))
