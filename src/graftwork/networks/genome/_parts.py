"""The parts of a genome: plain frozen data, each checked on its own when it is made."""

from dataclasses import dataclass
from typing import Literal

from graftwork import _files
from graftwork.errors import GenomeError, did_you_mean
from graftwork.typing import KERNEL_SIZES, BlockId, PoolKind

StemKind = Literal["none", "conv", "whiten"]
HeadKind = Literal["mlp", "linear", "r2r"]
HeadPooling = Literal["none", "avg", "max"]

STEM_ID = BlockId("stem")
HEAD_ID = BlockId("head")


def check_positive(name: str, value: int, where: str) -> None:
    """Raise `GenomeError` unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise GenomeError(f"{where}: {name}: expected an integer >= 1, got {value!r}")


def check_even(name: str, value: int, where: str) -> None:
    """Raise `GenomeError` unless ``value`` splits into twin halves."""
    check_positive(name, value, where)
    if value % 2:
        raise GenomeError(f"{where}: {name}: expected an even number (twin halves), got {value}; use {value + 1}")


def check_choice(name: str, value: object, choices: tuple[str, ...], where: str) -> None:
    """Raise `GenomeError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise GenomeError(f"{where}: {name}: expected one of {', '.join(choices)}, got {value!r}{hint}")


def check_id(value: str, where: str) -> None:
    """Raise `GenomeError` unless ``value`` can name a bank entry, a buffer and a file."""
    if "." in _files.check_id(value, f"{where}: id", error=GenomeError):
        raise GenomeError(f"{where}: id: expected an id without dots, got {value!r}")


@dataclass(frozen=True, slots=True)
class Block:
    """One R2R block: k×k convolution, norm, activation, 1×1 convolution.

    Args:
        id: Name of the block in the bank.
        kernel_size: Side of the k×k filters: 1, 3 or 5; stride 1, padded to keep height and width.
        hidden_channels: Channels between the two convolutions; even, for the twin halves.
        start: First channel of the layer's output that the block writes.
        stop: One past the last channel. Blocks whose ranges coincide are summed, disjoint ranges are concatenated.

    Raises:
        GenomeError: If a value is out of its range.
    """

    id: BlockId
    kernel_size: int
    hidden_channels: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        where = f"block {self.id!r}"
        check_id(self.id, where)
        if self.kernel_size not in KERNEL_SIZES or isinstance(self.kernel_size, bool):
            raise GenomeError(f"{where}: kernel_size: expected 1, 3 or 5, got {self.kernel_size!r}")
        check_even("hidden_channels", self.hidden_channels, where)
        check_positive("stop", self.stop, where)
        if not isinstance(self.start, int) or not 0 <= self.start < self.stop:
            raise GenomeError(
                f"{where}: expected a channel range [start, stop) that is neither empty nor negative, "
                f"got [{self.start!r}, {self.stop!r})"
            )

    @property
    def out_channels(self) -> int:
        """Number of output channels that the block writes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Layer:
    """A residual (zero-padded where channels grow) plus a sum of blocks: the poster's layer.

    Args:
        out_channels: Width of the output; fixed for life, and at least the width of the input.
        blocks: The blocks, at least one; each reads the layer's whole input.

    Raises:
        GenomeError: If there is no block, two share an id, or one writes past ``out_channels``.
    """

    out_channels: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        check_positive("out_channels", self.out_channels, "layer")
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise GenomeError("layer: expected at least one block, got none")
        for block in self.blocks:
            if block.stop > self.out_channels:
                raise GenomeError(
                    f"layer: block {block.id!r}: expected a range within the layer's {self.out_channels} channels, "
                    f"got [{block.start}, {block.stop})"
                )


@dataclass(frozen=True, slots=True)
class Pool:
    """Down-sampling between layers; window and stride are both ``size``, pixels that are left over are cut off."""

    kind: PoolKind = "max"
    size: int = 2

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("max", "avg"), "pool")
        check_positive("size", self.size, "pool")


@dataclass(frozen=True, slots=True)
class Stem:
    """What comes before the layers; a shared bank entry.

    Args:
        kind: ``"none"`` (the poster), ``"conv"`` (learned convolution, norm, activation) or ``"whiten"`` (fixed
            convolution that whitens image patches, each filter with its negative, learned bias, activation;
            after Page 2018 and Jordan 2024).
        id: Name of the stem in the bank; unused for ``"none"``.
        out_channels: Width of the output; 0 for ``"none"``. For ``"whiten"`` at most 2·C·kernel_size².
        kernel_size: Side of the filters: 1, 2, 3 or 5. Odd sizes keep height and width, 2 shortens both by one.
        stride: Pixels between two positions of the filters, at most ``kernel_size``: 2 halves height and width.
    """

    kind: StemKind = "none"
    id: BlockId = STEM_ID
    out_channels: int = 0
    kernel_size: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("none", "conv", "whiten"), "stem")
        check_positive("stride", self.stride, "stem")
        check_id(self.id, "stem")
        if self.kernel_size not in (1, 2, 3, 5):
            raise GenomeError(f"stem: kernel_size: expected 1, 2, 3 or 5, got {self.kernel_size!r}")
        if self.stride > self.kernel_size:
            raise GenomeError(
                f"stem: stride: expected at most the kernel size, as filters would pass pixels over, got {self.stride}"
            )
        if self.kind == "none":
            for name, value, plain in (("out_channels", self.out_channels, 0), ("stride", self.stride, 1)):
                if value != plain:
                    raise GenomeError(f"stem: {name}: expected {plain} for kind 'none', got {value!r}")
        elif self.kind == "conv":
            check_positive("out_channels", self.out_channels, "stem")
        else:
            check_even("out_channels", self.out_channels, "stem")

    @property
    def padding(self) -> int:
        """Pixels of zero padding on each side."""
        return self.kernel_size // 2 if self.kernel_size % 2 else 0


@dataclass(frozen=True, slots=True)
class Head:
    """The classifier; a shared bank entry.

    Args:
        kind: ``"mlp"`` (the poster: linear, activation, linear), ``"linear"``, or ``"r2r"`` (twin halves of a linear
            map, norm and activation, then ± weights: a new one gives exactly zero).
        id: Name of the head in the bank.
        hidden_features: Width between the two linear maps; 0 for ``"linear"``, even for ``"r2r"``.
        pooling: ``"none"`` flattens the activations; ``"avg"`` and ``"max"`` pool over all positions.
        scale: Factor on the logits.
    """

    kind: HeadKind = "mlp"
    id: BlockId = HEAD_ID
    hidden_features: int = 128
    pooling: HeadPooling = "none"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("mlp", "linear", "r2r"), "head")
        check_choice("pooling", self.pooling, ("none", "avg", "max"), "head")
        check_id(self.id, "head")
        if self.kind == "linear":
            if self.hidden_features != 0:
                raise GenomeError(f"head: hidden_features: expected 0 for kind 'linear', got {self.hidden_features!r}")
        elif self.kind == "r2r":
            check_even("hidden_features", self.hidden_features, "head")
        else:
            check_positive("hidden_features", self.hidden_features, "head")
        if not isinstance(self.scale, int | float) or isinstance(self.scale, bool) or not 0 < self.scale < 1e6:
            raise GenomeError(f"head: scale: expected a number > 0 and < 1e6, got {self.scale!r}")
