"""How a model with a grown interface is called, and what of its outputs the old one had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from graftwork.surgery._calls import Call
from graftwork.surgery._check import Interface


@dataclass(frozen=True)
class InputDim:
    """A dimension of a call that grows.

    Attributes:
        leaf: Place of the tensor among the call's tensors.
        dim: Dimension of it.
    """

    leaf: int
    dim: int


class GrownInterface(Interface):
    """The grown model gets more channels, with random numbers in them, and gives more outputs.

    Args:
        size: Length before.
        extra: New units.
        inputs: Dimensions of the call that grow.

    Attributes:
        grew: Whether an output has got longer.
    """

    def __init__(self, size: int, extra: int, inputs: Sequence[InputDim] = ()) -> None:
        self._size, self._extra = size, extra
        self._inputs = {one.leaf: one.dim for one in inputs}
        self.grew = False

    def call(self, call: Call) -> Call:
        """See `Interface.call`."""
        if not self._inputs:
            return call
        count = iter(range(10**6))

        def longer(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            dim = self._inputs.get(next(count))
            if dim is None:
                return value
            shape = list(value.shape)
            shape[dim] = self._extra
            generator = torch.Generator().manual_seed(value.numel())
            new = torch.randn(shape, generator=generator, dtype=torch.float64).to(value)
            return torch.cat([value, new], dim)

        arguments, keywords = tree_map(longer, (list(call.arguments), call.keywords))
        return replace(call, arguments=tuple(arguments), keywords=keywords)

    def old_call(self, call: Call) -> Call:
        """See `Interface.old_call`."""
        if not self._inputs:
            return call
        count = iter(range(10**6))

        def shorter(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            dim = self._inputs.get(next(count))
            return value if dim is None else value.narrow(dim, 0, value.shape[dim] - self._extra)

        arguments, keywords = tree_map(shorter, (list(call.arguments), call.keywords))
        return replace(call, arguments=tuple(arguments), keywords=keywords)

    def output(self, before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
        """See `Interface.output`."""
        if len(before) != len(after):
            return after
        return [self._old_part(old, new) for old, new in zip(before, after, strict=True)]

    def _old_part(self, old: Tensor, new: Tensor) -> Tensor:
        if self._inputs or old.dim() != new.dim():
            return new
        for dim, (was, now) in enumerate(zip(old.shape, new.shape, strict=True)):
            if was != now and was % self._size == 0 and now == was // self._size * (self._size + self._extra):
                new = new.narrow(dim, 0, was)
                self.grew = True
        return new
