"""Take a model out of the wrappers of distributed and compiled training, and put them on again after a growth."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._agreement import joined
from graftwork.surgery._grow import Optimizers, given_optimizers
from graftwork.surgery._sharded import Shard, is_sharded, sharding_group, unsharded


@contextmanager
def unwrapped(model: nn.Module, optimizer: Optimizers = None, *, shard: Shard | None = None) -> Iterator[nn.Module]:
    """Open a model's wrappers, so that it can grow inside; afterwards they are on again.

    The wrapper stays the same object, and so does the model in it:

    * ``torch.compile``, also as ``model.compile()``: everything that was compiled is forgotten, and compiled again
      when it is next called.
    * ``DistributedDataParallel``: its reducer, which hangs on the old parameters, is made again. All ranks make the
      same growths: what fails on one fails on all, and the bits of all weights are compared.
    * ``fully_shard``: parameters and the optimizer's state are gathered on every rank, which therefore needs memory for
      the whole model, and are sharded again at the end.

    A model without wrappers is yielded as it is.

    Args:
        model: The wrapper. Under ``DistributedDataParallel`` and ``fully_shard``, every rank has to come here.
        optimizer: Optimizers that the growth inside is given; needed under ``fully_shard``, which shards what they
            keep.
        shard: Function that applies ``fully_shard`` to the model and its parts as at first; needed for such a model.

    Yields:
        The model to grow.

    Raises:
        SurgeryError: A wrapper can't be opened, the ranks differ, or another rank has failed. The wrappers are on
            again then, and no rank's growth has been made halfway.

    Example:
        >>> with unwrapped(ddp, optimizer) as inner:  # doctest: +SKIP
        ...     grow(inner, WidenAll(1.5), example_input=x, optimizer=optimizer)
    """
    with ExitStack() as stack:
        inner, group, ranks = model, None, False
        while (opener := _opener(inner)) is not None:
            if isinstance(inner, nn.parallel.DistributedDataParallel):
                group, ranks = inner.process_group, True
            inner = stack.enter_context(opener(inner))
        stack.enter_context(_uncompiled(inner))
        if is_sharded(inner):
            if optimizer is None:
                raise SurgeryError(
                    "optimizer: expected those of a sharded model, whose parameters are replaced by others, got None; "
                    "pass them, or [] where there are none"
                )
            group, ranks = sharding_group(inner), True
            stack.enter_context(unsharded(inner, given_optimizers(optimizer), shard))
        if ranks:
            stack.enter_context(joined(inner, group))
        yield inner


def _opener(model: nn.Module) -> Callable[[Any], AbstractContextManager[nn.Module]] | None:
    if type(model).__name__ == "OptimizedModule":  # its class is imported with the compiler only
        return _compiled
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return _distributed
    return _parallel if isinstance(model, nn.DataParallel) else None


@contextmanager
def _compiled(wrapper: Any) -> Iterator[nn.Module]:
    try:
        yield wrapper._orig_mod  # noqa: SLF001 - the name that torch.compile documents in its state dicts
    finally:
        torch.compiler.reset()


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Take off what ``module.compile()`` has set on the model and its parts."""
    name = "_compiled_call_impl"
    held = {module: vars(module).pop(name) for module in model.modules() if vars(module).get(name) is not None}
    try:
        yield
    finally:
        for module, call in held.items():
            vars(module)[name] = call
        if held:
            torch.compiler.reset()


@contextmanager
def _parallel(wrapper: nn.DataParallel[Any]) -> Iterator[nn.Module]:
    yield wrapper.module  # which it copies to its devices at each call


@contextmanager
def _distributed(wrapper: nn.parallel.DistributedDataParallel) -> Iterator[nn.Module]:
    """Give a wrapper a new reducer, by the way that it has for pickles."""
    _refuse_parts(wrapper)
    module, group, hooks = wrapper.module, wrapper.process_group, list(wrapper._comm_hooks)  # noqa: SLF001
    state = wrapper.__getstate__()  # type: ignore[no-untyped-call]
    try:
        for name in ("reducer", "logger"):  # the reducer takes its hooks off the parameters when it goes
            delattr(wrapper, name)
        del wrapper._modules["module"]  # noqa: SLF001 - so that nobody takes the model for one that is still wrapped
        yield module
    finally:
        ignored = wrapper.parameters_to_ignore
        state["_modules"]["module"] = module
        state |= {
            "process_group": group,
            "_module_parameters": [p for name, p in module.named_parameters() if name not in ignored],
            "_comm_hooks": [],
            # What a first backward pass sets, and the new reducer has had none.
            "_static_graph_delay_allreduce_enqueued": False,
            "_has_rebuilt_buckets": False,
        }
        wrapper.__setstate__(state)  # type: ignore[no-untyped-call]
        for hook, own in hooks:
            wrapper.register_comm_hook(own, hook)


def _refuse_parts(wrapper: Any) -> None:
    """Refuse what hangs on single parameters besides the reducer."""
    parts = {
        "mixed_precision": wrapper.mixed_precision is not None,
        "delay_all_reduce_named_params": bool(wrapper._delay_all_reduce_params),  # noqa: SLF001
        "the reducer in Python": bool(wrapper._use_python_reducer),  # noqa: SLF001
        "a communication hook with state of its own": any(
            not isinstance(state, (dist.ProcessGroup, type(None)))
            for _, state in wrapper._comm_hooks  # noqa: SLF001
        ),
        "an optimizer in the backward pass": any(hasattr(p, "_in_backward_optimizers") for p in wrapper.parameters()),
    }
    for part, there in parts.items():
        if there:
            raise SurgeryError(
                f"model: expected a DistributedDataParallel that can be opened and closed, got one with {part}; take "
                "its module, delete the wrapper, grow, and wrap again"
            )
