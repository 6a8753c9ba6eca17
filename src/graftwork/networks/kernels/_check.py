"""Check that a library does what PyTorch does, once, when it is loaded."""

import torch
from torch.nn import functional as F

from graftwork.networks.kernels._kernels import EPSILON, Kernels
from graftwork.typing import ACTIVATIONS, Activation

_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest difference allowed for values around 1: far above rounding, far below any mistake."""


def _volume(generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> torch.Tensor:
    drawn = torch.randn(shape, generator=generator)
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def agrees(kernels: Kernels) -> bool:
    """Compare every pass, in both types, with PyTorch's operations on a few small volumes."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 6, 5, 4), (2, 16, 4, 4), (2, 40, 3, 3))
    return all(_agree(kernels, generator, dtype, shape, close) for dtype, close in _CLOSE.items() for shape in shapes)


def _agree(
    kernels: Kernels, generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int, int], close: float
) -> bool:
    volume, gradient = _volume(generator, dtype, shape), _volume(generator, dtype, shape)
    weight, bias = torch.rand(shape[1], generator=generator) + 0.5, torch.randn(shape[1], generator=generator)
    table = kernels.normaliser(volume, weight, bias)
    good = [torch.allclose(table[0], volume.float().mean((0, 2, 3)), atol=1e-4)]
    for activation in ACTIVATIONS:
        out = kernels.forward(volume, table, activation)
        d, (by_weight, by_bias) = kernels.backward(volume, gradient, table, activation, weight)
        with torch.enable_grad():
            leaves = [volume.float().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
            hidden = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True, eps=EPSILON)
            expected = _sigma(activation, hidden)
            ways = torch.autograd.grad((expected * gradient.float()).sum(), leaves)
        found = (out, d, by_weight / len(volume), by_bias / len(volume))
        wanted = (expected, ways[0], ways[1] / len(volume), ways[2] / len(volume))
        good += [torch.allclose(a.float(), b, atol=close, rtol=close) for a, b in zip(found, wanted, strict=True)]
        good += _mixes(kernels, generator, volume, gradient, table, activation)
    pooled, which = kernels.pool(volume)
    back = kernels.unpool(pooled, which, volume.shape)
    good += [torch.equal(pooled, F.max_pool2d(volume, 2)), torch.equal(F.max_pool2d(back.abs(), 2), pooled.abs())]
    total = volume.clone()
    kernels.add(total, gradient)
    return all([*good, torch.equal(total, volume + gradient)])


def _mixes(
    kernels: Kernels,
    generator: torch.Generator,
    volume: torch.Tensor,
    gradient: torch.Tensor,
    table: torch.Tensor,
    activation: Activation,
) -> list[bool]:
    """Compare a layer made of this volume twice; the gradients by the volumes are those before the norm."""
    width, (_, _, scale, shift) = volume.shape[1], table.view(4, -1, 1, 1)
    mixing, bias = torch.randn(width, 2 * width, generator=generator) / width, torch.randn(width, generator=generator)
    mixing = mixing.to(volume.dtype).float()
    given = ([volume, volume], [table, table], activation, mixing)
    ds, _, *others = kernels.mix_backward(*given, gradient)
    with torch.enable_grad():
        z = (torch.cat([volume, volume], 1).float() * scale.repeat(2, 1, 1) + shift.repeat(2, 1, 1)).requires_grad_()
        leaves = [z, mixing[..., None, None].requires_grad_(), bias.requires_grad_()]
        out = F.conv2d(_sigma(activation, z), *leaves[1:])
        ways = torch.autograd.grad((out * gradient.float()).sum(), leaves)
    found = (kernels.mix(*given, bias, volume), torch.cat(ds, 1), *others)
    close, wanted = _CLOSE[volume.dtype], (out + volume.float(), *ways)
    return [float((a.float() - b).norm()) < close * float(b.norm()) for a, b in zip(found, wanted, strict=True)]


def _sigma(activation: str, hidden: torch.Tensor) -> torch.Tensor:
    return torch.tanh(hidden) if activation == "tanh" else getattr(F, activation)(hidden)
