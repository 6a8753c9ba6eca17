"""Kernels: the passes of kernels.c over tensors."""

import ctypes
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from graftwork.errors import ResourceError
from graftwork.typing import Activation

EPSILON = 1e-5
"""Added to variances, as PyTorch's norms do."""

_SUFFIXES: Mapping[torch.dtype, str] = {torch.float32: "f32", torch.bfloat16: "bf16"}
_KINDS: Mapping[str, int] = {"relu": 1, "gelu": 2, "silu": 3, "leaky_relu": 4, "tanh": 5}

_SMALL = 2**17
"""Values of a volume below which one thread is as fast as several."""

_P, _L, _I, _D = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_PASSES: Mapping[str, tuple[object, ...]] = {
    "normaliser": (_P, _L, _L, _P, _P, _D, _P, _I),
    "forward": (_P, _L, _L, _P, _I, _P, _I),
    "backward": (_P, _P, _L, _L, _P, _I, _P, _D, _P, _P, _I),
    "mix": (_P, _P, _P, _L, _L, _I, _P, _P, _L, _P, _L, _P, _I),
    "mix_backward": (_P, _P, _P, _L, _L, _I, _P, _L, _P, _P, _D, _P, _P, _P, _P, _I),
    "add": (_P, _L, _P, _L, _L, _L, _I),
    "pool": (_P, _L, _L, _L, _L, _P, _P, _I),
    "unpool": (_P, _P, _L, _L, _L, _L, _P, _I),
}


def _shape(volume: Tensor) -> tuple[int, int]:
    """Rows and width of a volume."""
    return volume.shape[0] * volume.shape[2] * volume.shape[3], volume.shape[1]


class Kernels:
    """Passes over volumes: float32 or bfloat16 tensors [B, C, H, W] on the CPU, dense and channels-last in memory.

    Per-channel tensors are float32 [C] and dense. Nothing is checked here: callers (see `networks.execution`) make the
    tensors. The rows are dealt in parts to as many threads as PyTorch uses, from PyTorch's own OpenMP pool (a second
    pool would compete with it for the cores). Sums are added in the order of the parts, so the same number of threads
    gives the same bits.

    Args:
        library: The compiled kernels.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in _PASSES.items():
            for suffix in _SUFFIXES.values():
                self._functions[f"{name}_{suffix}"] = self._declare(library, f"{name}_{suffix}", arguments)
        self._threaded = bool(self._declare(library, "threaded", ())())

    @staticmethod
    def _declare(library: ctypes.CDLL, name: str, arguments: tuple[object, ...]) -> Callable[..., int]:
        function = getattr(library, name)
        function.argtypes, function.restype = list(arguments), _I
        return function  # type: ignore[no-any-return]

    def _run(self, name: str, volume: Tensor, *arguments: object) -> None:
        """Run a pass in the volume's type; ctypes releases Python's lock during the call."""
        if self._functions[f"{name}_{_SUFFIXES[volume.dtype]}"](*arguments):
            raise ResourceError("kernels: expected memory for a few kilobytes, got none; lower the batch size")

    @staticmethod
    def supports(dtype: torch.dtype) -> bool:
        """Whether there are passes for a type."""
        return dtype in _SUFFIXES

    def _parts(self, rows: int, width: int) -> int:
        if not self._threaded or rows * width < _SMALL:
            return 1
        return max(1, min(torch.get_num_threads(), rows))

    def normaliser(self, volume: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The table [4, C] of a norm: mean, (biased) variance, and the scale and shift that normalise each channel."""
        rows, width = _shape(volume)
        table = torch.empty(4, width)
        x, a, b, out = volume.data_ptr(), weight.data_ptr(), bias.data_ptr(), table.data_ptr()
        self._run("normaliser", volume, x, rows, width, a, b, EPSILON, out, self._parts(rows, width))
        return table

    def forward(self, volume: Tensor, table: Tensor, activation: Activation) -> Tensor:
        """σ(volume · scale + shift) by a table (see `normaliser`): a new volume."""
        rows, width = _shape(volume)
        out = torch.empty_like(volume)
        x, norm, y, kind = volume.data_ptr(), table.data_ptr(), out.data_ptr(), _KINDS[activation]
        self._run("forward", volume, x, rows, width, norm, kind, y, self._parts(rows, width))
        return out

    def backward(
        self, volume: Tensor, gradient: Tensor, table: Tensor, activation: Activation, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The way back through `forward`, and through a norm by batch statistics.

        Args:
            volume: As in `forward`.
            gradient: Gradient of the loss by what `forward` gave.
            table: As in `forward`.
            activation: As in `forward`.
            weight: Weight of the norm; ``None``: the table is a constant.

        Returns:
            A new volume, the gradient by ``volume``; and float32 [2, C], the gradients by the norm's weight and bias.
            Without a norm, with d = gradient · σ'(volume · scale + shift): d; and Σ d · (volume − mean) and Σ d.
        """
        rows, width = _shape(volume)
        out, found = torch.empty_like(volume), torch.empty(2, width)
        x, g, norm, d, sums = (one.data_ptr() for one in (volume, gradient, table, out, found))
        by, kind = 0 if weight is None else weight.data_ptr(), _KINDS[activation]
        self._run("backward", volume, x, g, rows, width, norm, kind, by, EPSILON, d, sums, self._parts(rows, width))
        return out, found

    def mix(
        self,
        volumes: Sequence[Tensor],
        tables: Sequence[Tensor],
        activation: Activation,
        mixing: Tensor,
        bias: Tensor,
        source: Tensor,
    ) -> Tensor:
        """The output of a layer, from its volumes: hidden channels as in `forward`, a 1×1 convolution, the residual.

        The hidden channels are never all in memory at once; `mix_backward` computes them again.

        Args:
            volumes: Volumes that side by side have the H hidden channels.
            tables: The table of each volume.
            activation: Activation σ.
            mixing: Mixing filters, float32 [out, H]; rounded to the type of the volumes, as the hidden channels are.
            bias: Mixing bias, float32 [out].
            source: Input of the layer [B, C, H, W], of the volumes' type; added to the output's first channels.

        Returns:
            The output [B, out, H, W], of the volumes' type.
        """
        shape, hidden, out = _side_by_side(volumes, tables), mixing.shape[1], _with_width(volumes[0], len(mixing))
        rows, width = _shape(out)
        parts = self._parts(rows, max(width, hidden))
        w, b, x, y = mixing.data_ptr(), bias.data_ptr(), source.data_ptr(), out.data_ptr()
        self._run("mix", out, *shape, len(volumes), rows, _KINDS[activation], w, b, width, x, source.shape[1], y, parts)
        return out

    def mix_backward(
        self,
        volumes: Sequence[Tensor],
        tables: Sequence[Tensor],
        activation: Activation,
        mixing: Tensor,
        gradient: Tensor,
        weight: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """The way back through `mix`, except to the source, and through a norm by batch statistics.

        Args:
            volumes: As in `mix`.
            tables: As in `mix`.
            activation: As in `mix`.
            mixing: As in `mix`.
            gradient: Gradient of the loss by what `mix` gave.
            weight: As in `backward`, for all volumes: float32 [H].

        Returns:
            New volumes, the gradients by ``volumes``; float32 [2, H] as in `backward`; the gradients by ``mixing``
            [out, H, 1, 1] and by ``bias``.
        """
        (rows, width), hidden = _shape(gradient), mixing.shape[1]
        ds = [torch.empty_like(volume) for volume in volumes]
        by_mixing = torch.empty(width, hidden, 1, 1, memory_format=torch.channels_last)  # as parameters lie
        by_norm, by_bias = torch.empty(2, hidden), torch.empty(width)
        by, parts = 0 if weight is None else weight.data_ptr(), self._parts(rows, max(width, hidden))
        found = (one.data_ptr() for one in (by_norm, by_mixing, by_bias))
        given = (len(volumes), rows, _KINDS[activation], mixing.data_ptr(), width, gradient.data_ptr(), by, EPSILON)
        self._run("mix_backward", gradient, *_side_by_side(volumes, tables), *given, _pointers(ds), *found, parts)
        return ds, by_norm, by_mixing, by_bias

    def add(self, out: Tensor, x: Tensor) -> None:
        """``out[:, :n] += x[:, :n]`` in place; n is the smaller number of channels."""
        rows, wide = _shape(out)
        far = x.shape[1]
        width = min(wide, far)
        self._run("add", out, out.data_ptr(), wide, x.data_ptr(), far, rows, width, self._parts(rows, width))

    def pool(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """2×2 max-pool: [B, C, H // 2, W // 2], and for each value which of the four was the largest, uint8."""
        images, width, height, breadth = volume.shape
        out = _like(volume, (images, width, height // 2, breadth // 2))
        which = torch.empty(out.numel(), dtype=torch.uint8)
        parts, pointers = self._parts(images, height * breadth * width), (out.data_ptr(), which.data_ptr())
        self._run("pool", volume, volume.data_ptr(), images, height, breadth, width, *pointers, parts)
        return out, which

    def unpool(self, gradient: Tensor, which: Tensor, shape: torch.Size) -> Tensor:
        """The gradient by the volume that `pool` was given, which had this shape."""
        images, width, height, breadth = shape
        out = _like(gradient, tuple(shape))
        g, w, parts = gradient.data_ptr(), which.data_ptr(), self._parts(images, height * breadth * width)
        self._run("unpool", gradient, g, w, images, height, breadth, width, out.data_ptr(), parts)
        return out


def _like(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=volume.dtype, memory_format=torch.channels_last)


def _with_width(volume: Tensor, width: int) -> Tensor:
    return _like(volume, (volume.shape[0], width, *volume.shape[2:]))


def _pointers(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (_P * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _side_by_side(volumes: Sequence[Tensor], tables: Sequence[Tensor]) -> tuple[object, object, object]:
    """Volumes, their tables and widths as C takes them."""
    return _pointers(volumes), _pointers(tables), (_L * len(volumes))(*[volume.shape[1] for volume in volumes])
