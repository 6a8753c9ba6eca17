"""What stands around a model or in its tensors and forbids to grow it in place."""

import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from graftwork.errors import SurgeryError

_UNWRAP = "unwrap it, grow, wrap again"
_GATHER = "gather its weights into a plain model (get_model_state_dict, full_state_dict=True), grow it, wrap it again"
_OPEN = f"grow inside graftwork.unwrapped(model, optimizer), or {_UNWRAP}"


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse models that can't be edited in place, and say what to do.

    Raises:
        SurgeryError: The model is compiled, distributed, scripted, averaged, lazy, on the meta device or
            quantized.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        kind = type(module)
        names = {base.__name__ for base in kind.__mro__}
        where = f" at {path!r}" if path else ""
        if "OptimizedModule" in names:
            raise _unfit(
                f"one that is compiled{where}",
                "grow inside graftwork.unwrapped(model), or grow model._orig_mod and call torch.compile again",
            )
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise _unfit(f"one on which module.compile() was called{where}", "grow inside graftwork.unwrapped(model)")
        if names & {"DistributedDataParallel", "DataParallel", "FSDPModule"}:
            raise _unfit(f"one wrapped in {kind.__name__}{where}", _OPEN)
        if "FullyShardedDataParallel" in names:
            raise _unfit(f"one wrapped in {kind.__name__}{where}", _GATHER)
        if names & {"ScriptModule", "RecursiveScriptModule"}:
            raise _unfit(f"a ScriptModule{where}", "grow the Python module, then script again")
        if "AveragedModel" in names:
            raise _unfit(f"an AveragedModel{where}", "grow the trained model with mirrors=[averaged.module]")
        if getattr(module, "_is_fsdp_managed_module", False):
            open_ = any(type(parameter).__name__ == "DTensor" for parameter in module.parameters())
            raise _unfit(f"one whose parameters FSDP shards{where}", _OPEN if open_ else _GATHER)
    _refuse_tensors(model)
    _refuse_live_reducers(model)


def _unfit(found: str, advice: str) -> SurgeryError:
    return SurgeryError(f"model: expected an eager module with tensors of its own, got {found}; {advice}")


def _refuse_tensors(model: nn.Module) -> None:
    storages: dict[int, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise _unfit(f"one in which {name!r} is lazy", "run the model once before growing it")
        if tensor.is_meta:
            raise _unfit(
                f"one in which {name!r} is on the meta device", "load its weights first (graftwork.plan needs none)"
            )
        if tensor.is_inference():
            raise _unfit(f"one in which {name!r} was made in inference mode", "copy.deepcopy the model outside of it")
        if type(tensor).__name__ == "DTensor":
            raise _unfit(f"one in which {name!r} is a DTensor, sharded over processes", _OPEN)
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise _unfit(f"one in which {name!r} is quantized or sparse", "grow before converting")
        if tensor.numel() and isinstance(tensor, nn.Parameter):
            other = storages.setdefault(tensor.untyped_storage().data_ptr(), name)
            if other != name:
                raise _unfit(
                    f"one in which {name!r} and {other!r} are different parameters in one storage",
                    "make them one parameter (share the object) or copy one of them",
                )


def views(model: nn.Module) -> dict[str, str]:
    """Return parameters and buffers → another tensor that a module holds in the same storage, if there is one.

    It may be a parameter, a buffer or a plain attribute. If one grew, the other would go on showing the old storage.
    """
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    held: dict[int, dict[int, str]] = {}
    for path, module in model.named_modules():
        kept = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
        for leaf, tensor in {**module._parameters, **module._buffers, **kept}.items():  # noqa: SLF001
            if tensor is not None and tensor.numel() and tensor.layout is torch.strided and not tensor.is_meta:
                storage = held.setdefault(tensor.untyped_storage().data_ptr(), {})
                storage.setdefault(id(tensor), f"{path}.{leaf}".lstrip("."))
    found: dict[str, str] = {}
    for storage in held.values():
        for key in storage:
            if key in names and len(storage) > 1:
                found[names[key]] = next(label for other, label in storage.items() if other != key)
    return found


def _refuse_live_reducers(model: nn.Module) -> None:
    """Refuse the inside of a ``DistributedDataParallel`` that is still there.

    Its reducer hangs on the parameters as they were: it would not average the gradients of grown ones, and say nothing.
    Nothing on the module tells of it, so the wrappers are looked for among all objects, where processes are joined.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if not _holds(model):
        return
    gc.collect()  # a wrapper that was deleted may wait in a cycle
    if _holds(model):
        raise _unfit(
            "one inside a DistributedDataParallel that is still alive, whose reducer would not average the gradients "
            "of grown parameters",
            f"{_OPEN} (model = ddp.module; del ddp)",
        )


def _holds(model: nn.Module) -> bool:
    own = {id(parameter) for parameter in model.parameters()}
    return any(
        id(parameter) in own
        for found in gc.get_objects()
        # type(), as isinstance() would wake lazy objects
        if issubclass(type(found), nn.parallel.DistributedDataParallel) and "_modules" in vars(found)
        for parameter in found.parameters()
    )
