"""Kernels: the passes of kernels.c over tensors."""

import ctypes
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

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
    "moments": (_P, _L, _L, _P, _P, _P),
    "forward": (_P, _L, _L, _P, _P, _I, _P, _L),
    "backward": (_P, _P, _L, _L, _L, _P, _P, _P, _I, _P, _P, _P),
    "finish": (_P, _P, _L, _L, _P, _P, _P),
    "add": (_P, _L, _P, _L, _L, _L),
    "pool": (_P, _L, _L, _L, _L, _P, _P),
    "unpool": (_P, _P, _L, _L, _L, _L, _P),
}
_TABLES: Mapping[str, tuple[object, ...]] = {
    "normaliser": (_P, _P, _P, _P, _P, _L, _L, _D, _P, _P, _P, _P),
    "gradients": (_P, _P, _P, _P, _P, _L, _L, _D, _P, _P, _P, _P),
}

_Call = Callable[[int, int, int], int]
"""Work on rows [start, stop) as part number so-and-so; 0 for done."""


def _shape(volume: Tensor) -> tuple[int, int]:
    """Rows and width of a volume."""
    return volume.shape[0] * volume.shape[2] * volume.shape[3], volume.shape[1]


class Kernels:
    """Passes over volumes: float32 or bfloat16 tensors [B, C, H, W] on the CPU, dense and channels-last in memory.

    Per-channel tensors are float32 [C] and dense. Nothing is checked here: callers (`graftwork.execution`) make the
    tensors. Rows are dealt to as many threads as PyTorch uses; sums are added in the order of the parts, so the same
    number of threads gives the same bits.

    Args:
        library: kernels.c, compiled.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in _PASSES.items():
            for suffix in _SUFFIXES.values():
                self._functions[f"{name}_{suffix}"] = self._declare(library, f"{name}_{suffix}", arguments)
        for name, arguments in _TABLES.items():
            self._functions[name] = self._declare(library, name, arguments)
        self._workers: ThreadPoolExecutor | None = None

    @staticmethod
    def _declare(library: ctypes.CDLL, name: str, arguments: tuple[object, ...]) -> Callable[..., int]:
        function = getattr(library, name)
        function.argtypes, function.restype = list(arguments), _I
        return function  # type: ignore[no-any-return]

    def _pass(self, name: str, volume: Tensor) -> Callable[..., int]:
        return self._functions[f"{name}_{_SUFFIXES[volume.dtype]}"]

    @staticmethod
    def supports(dtype: torch.dtype) -> bool:
        """Whether there are passes for a type."""
        return dtype in _SUFFIXES

    def _parts(self, rows: int, width: int) -> int:
        return 1 if rows * width < _SMALL else max(1, min(torch.get_num_threads(), rows))

    def _deal(self, rows: int, parts: int, call: _Call) -> None:
        """Deal rows to threads (a call of ctypes leaves Python's lock)."""
        if parts == 1:
            done = [call(0, rows, 0)]
        else:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(thread_name_prefix="kernels")
            bounds = [rows * part // parts for part in range(parts + 1)]
            done = list(self._workers.map(call, bounds[:-1], bounds[1:], range(parts)))
        if any(done):
            raise ResourceError("kernels: no memory for a few kilobytes; lower the batch size")

    def normaliser(self, volume: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and (biased) variance of each channel, and the scale and shift that normalise it: four [C]."""
        rows, width = _shape(volume)
        parts, start_of, size = self._parts(rows, width), volume.data_ptr(), width * volume.element_size()
        pivot = volume[0, :, 0, 0].float()
        found = torch.empty(2, parts, width, dtype=torch.float64)
        function, sums, squares = self._pass("moments", volume), found[0].data_ptr(), found[1].data_ptr()

        def call(start: int, stop: int, part: int) -> int:
            at = part * width * 8
            args = start_of + start * size, stop - start, width, pivot.data_ptr(), sums + at, squares + at
            return function(*args)

        self._deal(rows, parts, call)
        total = found[:, 0] if parts == 1 else found.sum(1)
        out = torch.empty(4, width)
        self._functions["normaliser"](
            total[0].data_ptr(), total[1].data_ptr(), pivot.data_ptr(), weight.data_ptr(), bias.data_ptr(),
            rows, width, EPSILON, *(row.data_ptr() for row in out),
        )  # fmt: skip
        return out[0], out[1], out[2], out[3]

    def forward(
        self, volume: Tensor, scale: Tensor, shift: Tensor, activation: Activation, out: Tensor, first: int
    ) -> None:
        """``out[:, first : first + C] = σ(volume · scale + shift)``; ``out`` has at least that many channels."""
        rows, width = _shape(volume)
        size, stride = volume.element_size(), out.shape[1]
        start_of, out_of = volume.data_ptr(), out.data_ptr() + first * size
        function, kind = self._pass("forward", volume), _KINDS[activation]
        a, b = scale.data_ptr(), shift.data_ptr()

        def call(start: int, stop: int, part: int) -> int:
            x, y = start_of + start * width * size, out_of + start * stride * size
            return function(x, stop - start, width, a, b, kind, y, stride)

        self._deal(rows, self._parts(rows, width), call)

    def backward(
        self,
        volume: Tensor,
        gradient: Tensor,
        first: int,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        activation: Activation,
    ) -> tuple[Tensor, Tensor]:
        """The way back through `forward`, without the norm's share.

        Args:
            volume: As in `forward`.
            gradient: Of the loss by ``out`` of `forward`.
            first: As in `forward`.
            scale: As in `forward`.
            shift: As in `forward`.
            mean: Of each channel.
            activation: As in `forward`.

        Returns:
            d = gradient · σ'(volume · scale + shift), a new volume; float64 [2, C]: Σ d and Σ d · (volume − mean).
        """
        rows, width = _shape(volume)
        parts, size, stride = self._parts(rows, width), volume.element_size(), gradient.shape[1]
        out = torch.empty_like(volume)
        found = torch.empty(2, parts, width, dtype=torch.float64)
        function, kind = self._pass("backward", volume), _KINDS[activation]
        x_of, g_of, d_of = volume.data_ptr(), gradient.data_ptr() + first * size, out.data_ptr()
        a, b, m, sums, products = (t.data_ptr() for t in (scale, shift, mean, found[0], found[1]))

        def call(start: int, stop: int, part: int) -> int:
            at, row, far = part * width * 8, start * width * size, start * stride * size
            return function(
                x_of + row, g_of + far, stop - start, width, stride, a, b, m, kind, d_of + row, sums + at, products + at
            )

        self._deal(rows, parts, call)
        return out, found[:, 0] if parts == 1 else found.sum(1)

    def finish(
        self, volume: Tensor, d: Tensor, sums: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn `backward`'s ``d`` into the gradient by the volume, in place, through a norm by batch statistics.

        Returns:
            The gradients by the norm's weight and bias [C].
        """
        rows, width = _shape(volume)
        out = torch.empty(4, width)
        self._functions["gradients"](
            sums[0].data_ptr(), sums[1].data_ptr(), mean.data_ptr(), variance.data_ptr(), weight.data_ptr(),
            rows, width, EPSILON, *(row.data_ptr() for row in out),
        )  # fmt: skip
        size, function = width * volume.element_size(), self._pass("finish", volume)
        x_of, d_of, a, e, f = (t.data_ptr() for t in (volume, d, scale, out[2], out[3]))

        def call(start: int, stop: int, part: int) -> int:
            return function(x_of + start * size, d_of + start * size, stop - start, width, a, e, f)

        self._deal(rows, self._parts(rows, width), call)
        return out[0], out[1]

    def add(self, out: Tensor, x: Tensor) -> None:
        """``out[:, :n] += x[:, :n]`` in place; n is the smaller number of channels."""
        rows, wide = _shape(out)
        size, far = out.element_size(), x.shape[1]
        width, function, y_of, x_of = min(wide, far), self._pass("add", out), out.data_ptr(), x.data_ptr()

        def call(start: int, stop: int, part: int) -> int:
            return function(y_of + start * wide * size, wide, x_of + start * far * size, far, stop - start, width)

        self._deal(rows, self._parts(rows, width), call)

    def pool(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """2×2 max-pool [B, C, H // 2, W // 2], and which of the four was the largest: uint8, as many."""
        images, width, height, breadth = volume.shape
        out = _like(volume, (images, width, height // 2, breadth // 2))
        which = torch.empty(out.numel(), dtype=torch.uint8)
        size, whole, quarter = volume.element_size(), height * breadth * width, out[0].numel()
        function, x_of, y_of, w_of = self._pass("pool", volume), volume.data_ptr(), out.data_ptr(), which.data_ptr()

        def call(start: int, stop: int, part: int) -> int:
            x, y, w = x_of + start * whole * size, y_of + start * quarter * size, w_of + start * quarter
            return function(x, stop - start, height, breadth, width, y, w)

        self._deal(images, self._parts(images, whole), call)
        return out, which

    def unpool(self, gradient: Tensor, which: Tensor, shape: torch.Size) -> Tensor:
        """The gradient by the volume of `pool`, of the given shape."""
        images, width, height, breadth = shape
        out = _like(gradient, tuple(shape))
        size, whole, quarter = gradient.element_size(), height * breadth * width, gradient[0].numel()
        function, g_of, w_of, d_of = (
            self._pass("unpool", gradient),
            gradient.data_ptr(),
            which.data_ptr(),
            out.data_ptr(),
        )

        def call(start: int, stop: int, part: int) -> int:
            g, w, d = g_of + start * quarter * size, w_of + start * quarter, d_of + start * whole * size
            return function(g, w, stop - start, height, breadth, width, d)

        self._deal(images, self._parts(images, whole), call)
        return out


def _like(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=volume.dtype, memory_format=torch.channels_last)
