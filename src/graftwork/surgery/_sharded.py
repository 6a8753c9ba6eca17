"""Models that ``fully_shard`` has spread over processes: gathered for a growth, and sharded again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch.distributed as dist
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery.carry import exchange

Shard: TypeAlias = Callable[[nn.Module], object]
"""Applies ``fully_shard`` to a model and its parts."""


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` has been applied to a model or to a part of it."""
    return bool(_parts(model))


def sharding_group(model: nn.Module) -> "dist.ProcessGroup | None":
    """Return the process group over which a model is sharded; None where it is all processes."""
    (mesh, *others) = {group.mesh_info.mesh for part in _parts(model) for group in _groups(part)}
    if not others and mesh.size() == dist.get_world_size():
        return None
    if others or mesh.ndim > 1:
        raise SurgeryError("model: expected one that is sharded over one mesh of processes, got several or a part")
    return mesh.get_group()  # type: ignore[no-any-return]


@contextmanager
def unsharded(model: nn.Module, optimizers: Sequence[optim.Optimizer], shard: Shard | None) -> Iterator[None]:
    """Hold a sharded model in whole parameters inside, and its optimizers' state too; the module is the same object.

    Args:
        model: A model with ``fully_shard``; every rank has to come here.
        optimizers: Optimizers of its parameters, changed in place.
        shard: Shards the model again.

    Raises:
        SurgeryError: ``shard`` is missing, or the model or its optimizers are sharded in a way that can't be undone.
    """
    if shard is None:
        raise SurgeryError(
            "shard: expected the function that applies fully_shard to the model and its parts, got None; it shards the "
            "grown model, new layers included"
        )
    parts = _parts(model)
    for part in parts:
        _refuse(part)
        part.reshard()  # the root's parameters may still be whole after a forward
    whole = {p: _gathered(p) for p in model.parameters() if _is_sharded(p)}
    _refuse_state(optimizers, whole)
    for part in parts:
        _take_off(part)
    _replace(model, whole)
    exchange(optimizers, whole, _whole)
    try:
        yield
    finally:
        before = dict(model.named_parameters(remove_duplicate=False))
        shard(model)
        after = dict(model.named_parameters(remove_duplicate=False))
        again = {p: after[name] for name, p in before.items() if _is_sharded(after[name])}
        for old, new in again.items():
            new.grad = None if old.grad is None else _spread(old.grad, old, new)
        exchange(optimizers, again, _spread)


def _parts(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if "FSDPModule" in {base.__name__ for base in type(module).__mro__}]


def _groups(part: Any) -> list[Any]:
    return list(part._get_fsdp_state()._fsdp_param_groups)  # noqa: SLF001 - there is no public way


def _is_sharded(tensor: Tensor) -> bool:
    return type(tensor.data).__name__ == "DTensor"


def _refuse(part: Any) -> None:
    state = part._get_fsdp_state()  # noqa: SLF001
    if len(state._modules) > 1 or type(state).__name__ != "FSDPState":  # noqa: SLF001
        raise SurgeryError(
            "model: expected fully_shard on one module at a time, got a list of modules or another API; save the model "
            "and its optimizer by torch.distributed.checkpoint, grow them in one process, and shard the grown ones"
        )


def _refuse_state(optimizers: Sequence[optim.Optimizer], whole: dict[nn.Parameter, nn.Parameter]) -> None:
    for optimizer in optimizers:
        for parameter in whole:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    raise SurgeryError(
                        f"optimizer {type(optimizer).__name__}: expected sharded state of the parameter's shape "
                        f"{tuple(parameter.shape)}, got {tuple(value.shape)} in {key!r}; make a new optimizer after "
                        "the growth"
                    )


def _gathered(parameter: Any) -> nn.Parameter:
    new = nn.Parameter(parameter.detach().full_tensor(), requires_grad=parameter.requires_grad)
    new.grad = None if parameter.grad is None else parameter.grad.full_tensor()
    return new


def _whole(value: Any, _old: nn.Parameter, _new: nn.Parameter) -> Tensor:
    return value.full_tensor() if _is_sharded(value) else value  # type: ignore[no-any-return]


def _spread(value: Tensor, old: nn.Parameter, new: Any) -> Tensor:
    """Shard what is kept for a whole parameter as the new one is sharded: every rank takes its part of its own."""
    if value.shape != old.shape or not value.dim():
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, new.device_mesh, new.placements, src_data_rank=None)


def _replace(model: nn.Module, new: dict[nn.Parameter, nn.Parameter]) -> None:
    for module in model.modules():
        own = module._parameters  # noqa: SLF001 - a setter of the user's own is not asked
        for name, parameter in own.items():
            if parameter is not None:
                own[name] = new.get(parameter, parameter)


def _take_off(part: Any) -> None:
    """Take what ``fully_shard`` has put on a module off it: class, hooks and state."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed._composable_state import _module_state_mapping

    state = part._get_fsdp_state()  # noqa: SLF001
    handles = [state._pre_forward_hook_handle, state._post_forward_hook_handle]  # noqa: SLF001
    for group in _groups(part):
        for held in (
            group._module_to_pre_save_state_dict_hook_handle,  # noqa: SLF001
            group._module_to_pre_load_state_dict_hook_handle,  # noqa: SLF001
        ):
            handles += held.values()
        handles += [one._post_load_hook_handle for one in group.fsdp_params]  # noqa: SLF001
    for handle in handles:
        handle.remove()
    _module_state_mapping.pop(part)
    for key in (STATE_KEY, REGISTRY_KEY):  # what other composable functions have put there stays
        held = vars(part)[key]
        for name in [name for name in held if getattr(name, "__name__", name) == "fully_shard"]:
            del held[name]
        if not held:
            del vars(part)[key]
    for module in part.modules():
        for name in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
            vars(module).pop(name, None)
    part.__class__ = type(part).__mro__[type(part)._orig_cls_mro_index]  # noqa: SLF001
