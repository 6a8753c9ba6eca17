"""The blocks of a layer side by side: their tensors as those of one fused layer, and its gradients back to theirs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.networks.execution._ops import Weights, join
from graftwork.networks.genome import Layer, Stem
from graftwork.typing import BlockId, Norm


@dataclass(frozen=True, slots=True)
class Convolutions:
    """The tensors of a fused layer or of a stem.

    Args:
        filters: One a kernel size [hidden, C, k, k]; their outputs lie side by side.
        weight: Of the norm, float32 [all hidden]; ``None``: no norm.
        bias: Of the norm, or before σ, float32 [all hidden].
        mixing: 1×1 filters [out, all hidden, 1, 1], followed by the residual; ``None``: σ is the output.
        mixing_bias: [out].
    """

    filters: Sequence[Tensor]
    weight: Tensor | None
    bias: Tensor
    mixing: Tensor | None = None
    mixing_bias: Tensor | None = None


def _parts(sizes: Sequence[int]) -> list[slice]:
    """Consecutive stretches of these sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(slice(start, start + size))
        start += size
    return found


def _cut(tensor: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    """`join` undone."""
    return (tensor,) if len(sizes) == 1 else torch.split(tensor, list(sizes), dim)


def _range(tensor: Tensor, rows: slice) -> Tensor:
    return tensor if len(tensor) == rows.stop - rows.start else tensor[rows]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where the blocks of a layer stand in its fused form, in order of their kernel sizes; a stem is a lone block.

    Args:
        ids: Of the blocks.
        kernel_sizes: Of the blocks, ascending; those of one size run as one convolution.
        paddings: Of the convolution of each kernel size.
        hidden: Hidden channels of each block.
        names: Of the tensors of a block: filter, weight of the norm (where there is one), bias of the norm or before
            σ, and for a layer the mixing filter and its bias.
        normed: Whether there is a norm.
        ranges: Output channels that each block writes; none for a stem, whose output is σ.
        out_channels: Of the layer.
    """

    ids: tuple[BlockId, ...]
    kernel_sizes: tuple[int, ...]
    paddings: tuple[int, ...]
    hidden: tuple[int, ...]
    names: tuple[str, ...]
    normed: bool
    ranges: tuple[slice, ...] = ()
    out_channels: int = 0

    @property
    def groups(self) -> list[slice]:
        """The blocks of each kernel size."""
        return _parts([self.kernel_sizes.count(size) for size in dict.fromkeys(self.kernel_sizes)])

    def tensors(self, weights: Weights) -> list[Tensor]:
        """Those of all blocks, by name: all filters first."""
        return [weights[block_id][name] for name in self.names for block_id in self.ids]

    def by_name(self, tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """What `tensors` gave: of each name those of all blocks."""
        for part in _parts([len(self.ids)] * len(self.names)):
            yield tensors[part]

    def join_filters(self, filters: Sequence[Tensor]) -> list[Tensor]:
        """One a kernel size."""
        return [join(filters[group]) for group in self.groups]

    def join_mixing(self, mixing: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Each block's rows where it writes, zeros elsewhere; biases are added up."""
        rows = [self._rows(tensor, part) for tensor, part in zip(biases, self.ranges, strict=True)]
        bias = rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)
        return join([self._rows(tensor, part) for tensor, part in zip(mixing, self.ranges, strict=True)], 1), bias

    def _rows(self, tensor: Tensor, part: slice) -> Tensor:
        """[range, …] → [out, …]."""
        if len(tensor) == self.out_channels:
            return tensor
        after = [0, 0] * (tensor.dim() - 1)
        return F.pad(tensor, (*after, part.start, self.out_channels - part.stop))

    def assemble(self, tensors: Sequence[Tensor]) -> Convolutions:
        """From what `tensors` gave."""
        named = self.by_name(tensors)
        filters = self.join_filters(next(named))
        weight = join(next(named)).float() if self.normed else None
        bias = join(next(named)).float()
        return Convolutions(filters, weight, bias, *(self.join_mixing(*named) if self.ranges else ()))

    def take_apart(
        self,
        filters: Sequence[Tensor | None],
        weight: Tensor | None,
        bias: Tensor,
        mixing: Tensor | None,
        mixing_bias: Tensor | None,
    ) -> list[Tensor | None]:
        """Gradients by each of the `tensors`, from those by what was assembled of them; a filter may have none."""
        found: list[Tensor | None] = []
        for group, one in zip(self.groups, filters, strict=True):
            found += [None] * (group.stop - group.start) if one is None else _cut(one, self.hidden[group])
        if weight is not None:
            found += _cut(weight, self.hidden)
        found += _cut(bias, self.hidden)
        if mixing is not None and mixing_bias is not None:
            columns = _cut(mixing, self.hidden, 1)
            found += [_range(column, rows) for column, rows in zip(columns, self.ranges, strict=True)]
            found += [_range(mixing_bias, rows) for rows in self.ranges]
        return found


def arrange(layer: Layer, norm: Norm) -> Arrangement:
    """The fused form of a layer."""
    blocks = sorted(layer.blocks, key=lambda block: block.kernel_size)
    sizes = tuple(block.kernel_size for block in blocks)
    return Arrangement(
        ids=tuple(block.id for block in blocks),
        kernel_sizes=sizes,
        paddings=tuple(size // 2 for size in dict.fromkeys(sizes)),
        hidden=tuple(block.hidden_channels for block in blocks),
        names=("filter", *_norm_names(norm, "filter_bias"), "mixing", "bias"),
        normed=norm != "none",
        ranges=tuple(slice(block.start, block.stop) for block in blocks),
        out_channels=layer.out_channels,
    )


def arrange_stem(stem: Stem, norm: Norm) -> Arrangement:
    """A stem; one that whitens has no norm."""
    norm = "none" if stem.kind == "whiten" else norm
    names = ("filter", *_norm_names(norm, "bias"))
    return Arrangement(
        (stem.id,), (stem.kernel_size,), (stem.padding,), (stem.out_channels,), names, normed=norm != "none"
    )


def _norm_names(norm: Norm, bias: str) -> tuple[str, ...]:
    """Of the norm's weight and bias; without a norm only the named bias."""
    return (bias,) if norm == "none" else ("norm_weight", "norm_bias")
