"""Compare functions in double precision, also where the forward itself computes a part of them in single."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from graftwork.numerics import tolerance_for
from graftwork.surgery.streams._tape import Tape

_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
_KNOWN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def looseness(tape: Tape) -> float:
    """Return how much more rounding a run has inside than at its outputs: 1 where it has no more.

    Norms of transformers compute in single precision, so that a model in double gives outputs of single precision.
    """
    inside = [tolerance_for(fact.dtype) for fact in tape.facts if fact.dtype in _KNOWN and len(fact.shape) > 0]
    outside = [tolerance_for(kind) for ref in tape.outputs if (kind := tape.facts[ref.number].dtype) in _KNOWN]
    return max(1.0, max(inside, default=1.0) / max(outside, default=1.0)) if outside and inside else 1.0


class _Doubled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leaves double-precision tensors as they are where the forward would cast them to single."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        source = args[0] if args else None
        cast = func is torch.ops.aten._to_copy.default and keywords.get("dtype") is torch.float32  # noqa: SLF001
        if cast and isinstance(source, Tensor) and source.dtype is torch.float64:
            keywords["dtype"] = torch.float64
        leaves = [leaf.dtype for leaf in tree_flatten((args, keywords))[0] if isinstance(leaf, Tensor)]
        if func in _PRODUCTS and {torch.float32, torch.float64} <= set(leaves):  # a weight that is kept in single
            args = tree_map(_double, args)
        return func(*args, **keywords)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype is torch.float32 else value


@contextmanager
def doubled() -> Iterator[None]:
    """Let everything inside run in double precision that comes in double precision."""
    with _Doubled():  # type: ignore[no-untyped-call]
        yield
