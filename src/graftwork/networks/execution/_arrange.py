"""The blocks of a layer side by side: their tensors as those of one fused layer, and its gradients back to theirs."""

# A worked example. A layer of 16 input and 32 output channels under batch norm has three blocks:
#
#     a  3×3, 8 hidden channels, writes [0, 32)       filter [8, 16, 3, 3]   mixing [32, 8, 1, 1]   bias [32]
#     b  5×5, 6 hidden channels, writes [0, 16)       filter [6, 16, 5, 5]   mixing [16, 6, 1, 1]   bias [16]
#     c  3×3, 4 hidden channels, writes [16, 32)      filter [4, 16, 3, 3]   mixing [16, 4, 1, 1]   bias [16]
#
# `arrange` sorts them by kernel size: ids (a, c, b), groups [0:2] (3×3) and [2:3] (5×5), hidden (8, 4, 6). Each block
# then has a range of the 18 hidden channels: a 0:8, c 8:12, b 12:18. `Arrangement.tensors` lists 15 tensors by name
# (the three filters, the three norm weights, …), and `Arrangement.assemble` makes of them:
#
#     filters        a over c [12, 16, 3, 3], and b [6, 16, 5, 5]
#     norm           weight [18], bias [18]
#     mixing         [32, 18, 1, 1]               columns 0:8      8:12     12:18
#                                     rows  0:16        a        zero       b
#                                     rows 16:32        a         c        zero
#     mixing bias    [32]             rows  0:16  a + b,  rows 16:32  a + c
#
# `Arrangement.take_apart` goes the other way with gradients: the one by [12, 16, 3, 3] is split by rows into a's
# [8, 16, 3, 3] and c's [4, 16, 3, 3], the one by the norm's [18] by hidden range; of the one by mixing a block gets its
# columns, and of these the rows that it writes (c: columns 8:12, rows 16:32); of the one by the mixing bias its rows.

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
        filters: Filters [hidden, C, k, k], one tensor for each kernel size; their outputs lie side by side.
        weight: Weight of the norm, float32 [all hidden]; ``None``: no norm.
        bias: Bias of the norm or, without one, of the filters, float32 [all hidden].
        mixing: 1×1 filters [out, all hidden, 1, 1], followed by the residual; ``None``: the output of σ is the layer's.
        mixing_bias: Bias of the mixing filters [out].
    """

    filters: Sequence[Tensor]
    weight: Tensor | None
    bias: Tensor
    mixing: Tensor | None = None
    mixing_bias: Tensor | None = None


def _ranges(sizes: Sequence[int]) -> list[slice]:
    """Consecutive ranges of these sizes: (8, 4, 6) → [0:8, 8:12, 12:18]."""
    found, start = [], 0
    for size in sizes:
        found.append(slice(start, start + size))
        start += size
    return found


def _cut(tensor: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    """Undo `join`."""
    return (tensor,) if len(sizes) == 1 else torch.split(tensor, list(sizes), dim)


def _rows_of(tensor: Tensor, rows: slice) -> Tensor:
    return tensor if len(tensor) == rows.stop - rows.start else tensor[rows]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where the blocks of a layer stand in its fused form, in order of their kernel sizes; a stem is a lone block.

    Args:
        ids: Ids of the blocks.
        kernel_sizes: Kernel size of each block, ascending; blocks of one size run as one convolution.
        paddings: Padding of the convolution of each kernel size.
        hidden: Hidden channels of each block.
        names: Names of a block's tensors: the filter, the norm's weight (where there is a norm), the bias of the norm
            or of the filter, and for a layer the mixing filter and its bias.
        normed: Whether there is a norm.
        ranges: Output channels that each block writes; empty for a stem, whose output is that of σ.
        out_channels: Width of the layer's output; 0 for a stem.
        stride: Stride of the convolutions; only a stem's may be above 1.
    """

    ids: tuple[BlockId, ...]
    kernel_sizes: tuple[int, ...]
    paddings: tuple[int, ...]
    hidden: tuple[int, ...]
    names: tuple[str, ...]
    normed: bool
    ranges: tuple[slice, ...] = ()
    out_channels: int = 0
    stride: int = 1

    @property
    def groups(self) -> list[slice]:
        """The blocks of each kernel size."""
        return _ranges([self.kernel_sizes.count(size) for size in dict.fromkeys(self.kernel_sizes)])

    def tensors(self, weights: Weights) -> list[Tensor]:
        """The tensors of all blocks, name by name: all filters first."""
        return [weights[block_id][name] for name in self.names for block_id in self.ids]

    def by_name(self, tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """Split what `tensors` gave: for each name, the tensors of all blocks."""
        for same_name in _ranges([len(self.ids)] * len(self.names)):
            yield tensors[same_name]

    def join_filters(self, filters: Sequence[Tensor]) -> list[Tensor]:
        """The filters of each kernel size as one tensor."""
        return [join(filters[group]) for group in self.groups]

    def join_mixing(self, mixing: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Each block's rows where it writes and zeros elsewhere, columns side by side; biases are added up."""
        wide = [self._all_rows(tensor, rows) for tensor, rows in zip(biases, self.ranges, strict=True)]
        bias = wide[0] if len(wide) == 1 else torch.stack(wide).sum(0)
        return join([self._all_rows(tensor, rows) for tensor, rows in zip(mixing, self.ranges, strict=True)], 1), bias

    def _all_rows(self, tensor: Tensor, rows: slice) -> Tensor:
        """Pad with zeros: [rows, …] → [out, …]."""
        if len(tensor) == self.out_channels:
            return tensor
        after = [0, 0] * (tensor.dim() - 1)
        return F.pad(tensor, (*after, rows.start, self.out_channels - rows.stop))

    def assemble(self, tensors: Sequence[Tensor]) -> Convolutions:
        """Make the fused layer of what `tensors` gave."""
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
        """Gradients by each of the `tensors`, from the gradients by the assembled ones; filters may have none."""
        found: list[Tensor | None] = []
        for group, one in zip(self.groups, filters, strict=True):
            found += [None] * (group.stop - group.start) if one is None else _cut(one, self.hidden[group])
        if weight is not None:
            found += _cut(weight, self.hidden)
        found += _cut(bias, self.hidden)
        if mixing is not None and mixing_bias is not None:
            columns = _cut(mixing, self.hidden, 1)
            found += [_rows_of(column, rows) for column, rows in zip(columns, self.ranges, strict=True)]
            found += [_rows_of(mixing_bias, rows) for rows in self.ranges]
        return found


def arrange(layer: Layer, norm: Norm) -> Arrangement:
    """Arrange the blocks of a layer."""
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
    """Arrange a stem as a lone block; one that whitens has no norm."""
    norm = "none" if stem.kind == "whiten" else norm
    names = ("filter", *_norm_names(norm, "bias"))
    return Arrangement(
        (stem.id,),
        (stem.kernel_size,),
        (stem.padding,),
        (stem.out_channels,),
        names,
        normed=norm != "none",
        stride=stem.stride,
    )


def _norm_names(norm: Norm, bias: str) -> tuple[str, ...]:
    """Names of the norm's weight and bias; without a norm only that of the given bias."""
    return (bias,) if norm == "none" else ("norm_weight", "norm_bias")
