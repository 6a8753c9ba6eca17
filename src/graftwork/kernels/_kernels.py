"""Kernels: the passes of kernels.c over tensors."""

import ctypes
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from graftwork.errors import ResourceError
from graftwork.typing import Activation

__all__ = ["EPSILON", "Kernels"]

EPSILON = 1e-5
"""Added to variances, as PyTorch's norms do."""

_SUFFIXES: Mapping[torch.dtype, str] = {torch.float32: "f32", torch.bfloat16: "bf16"}
_KINDS: Mapping[str, int] = {"relu": 1, "gelu": 2, "silu": 3, "leaky_relu": 4, "tanh": 5}

_SMALL = 2**17
"""Values of a volume below which one thread is as fast as several."""

_P, _L, _I, _D = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_PASSES: Mapping[str, tuple[object, ...]] = {
    "normaliser": (_P, _L, _L, _P, _P, _D, _P, _I),
    "forward": (_P, _L, _L, _P, _I, _P, _L, _I),
    "backward": (_P, _P, _L, _L, _L, _P, _I, _P, _D, _P, _P, _I),
    "add": (_P, _L, _P, _L, _L, _L, _I),
    "pool": (_P, _L, _L, _L, _L, _P, _P, _I),
    "unpool": (_P, _P, _L, _L, _L, _L, _P, _I),
}


def _shape(volume: Tensor) -> tuple[int, int]:
    """Rows and width of a volume."""
    return volume.shape[0] * volume.shape[2] * volume.shape[3], volume.shape[1]


class Kernels:
    """Passes over volumes: float32 or bfloat16 tensors [B, C, H, W] on the CPU, dense and channels-last in memory.

    Per-channel tensors are float32 [C] and dense. Nothing is checked here: callers (`graftwork.execution`) make the
    tensors. Rows are dealt to as many threads as PyTorch uses, of PyTorch's own OpenMP pool (another pool would fight
    with it for the cores); sums are added in the order of the parts, so the same number of threads gives the same bits.

    Args:
        library: kernels.c, compiled.
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

    def _run(self, name: str, volume: Tensor, *arguments: float) -> None:
        """A pass in the volume's type; a call of ctypes leaves Python's lock."""
        if self._functions[f"{name}_{_SUFFIXES[volume.dtype]}"](*arguments):
            raise ResourceError("kernels: no memory for a few kilobytes; lower the batch size")

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

    def forward(self, volume: Tensor, table: Tensor, activation: Activation, out: Tensor, first: int) -> None:
        """``out[:, first : first + C] = σ(volume · scale + shift)``; ``out`` has at least that many channels."""
        rows, width = _shape(volume)
        x, norm, y = volume.data_ptr(), table.data_ptr(), out.data_ptr() + first * out.element_size()
        kind, stride, parts = _KINDS[activation], out.shape[1], self._parts(rows, width)
        self._run("forward", volume, x, rows, width, norm, kind, y, stride, parts)

    def backward(
        self,
        volume: Tensor,
        gradient: Tensor,
        first: int,
        table: Tensor,
        activation: Activation,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The way back through `forward`, and through a norm by batch statistics.

        Args:
            volume: As in `forward`.
            gradient: Of the loss by ``out`` of `forward`.
            first: As in `forward`.
            table: As in `forward`.
            activation: As in `forward`.
            weight: Of the norm; ``None``: the table is taken as given.

        Returns:
            The gradient by the volume, a new one; and float32 [2, C], by the norm's weight and bias. Without a norm, of
            d = gradient · σ'(volume · scale + shift): d, and Σ d · (volume − mean) and Σ d.
        """
        rows, width = _shape(volume)
        out, found = torch.empty_like(volume), torch.empty(2, width)
        x, norm, d, sums = volume.data_ptr(), table.data_ptr(), out.data_ptr(), found.data_ptr()
        g, by = gradient.data_ptr() + first * gradient.element_size(), 0 if weight is None else weight.data_ptr()
        kind, stride, parts = _KINDS[activation], gradient.shape[1], self._parts(rows, width)
        self._run("backward", volume, x, g, rows, width, stride, norm, kind, by, EPSILON, d, sums, parts)
        return out, found

    def add(self, out: Tensor, x: Tensor) -> None:
        """``out[:, :n] += x[:, :n]`` in place; n is the smaller number of channels."""
        rows, wide = _shape(out)
        far = x.shape[1]
        width = min(wide, far)
        self._run("add", out, out.data_ptr(), wide, x.data_ptr(), far, rows, width, self._parts(rows, width))

    def pool(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """2×2 max-pool [B, C, H // 2, W // 2], and which of the four was the largest: uint8, as many."""
        images, width, height, breadth = volume.shape
        out = _like(volume, (images, width, height // 2, breadth // 2))
        which = torch.empty(out.numel(), dtype=torch.uint8)
        parts, pointers = self._parts(images, height * breadth * width), (out.data_ptr(), which.data_ptr())
        self._run("pool", volume, volume.data_ptr(), images, height, breadth, width, *pointers, parts)
        return out, which

    def unpool(self, gradient: Tensor, which: Tensor, shape: torch.Size) -> Tensor:
        """The gradient by the volume of `pool`, of the given shape."""
        images, width, height, breadth = shape
        out = _like(gradient, tuple(shape))
        g, w, parts = gradient.data_ptr(), which.data_ptr(), self._parts(images, height * breadth * width)
        self._run("unpool", gradient, g, w, images, height, breadth, width, out.data_ptr(), parts)
        return out


def _like(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=volume.dtype, memory_format=torch.channels_last)
