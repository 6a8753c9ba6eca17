"""Residual blocks as users write them, and a model around a stack of them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Scaled(nn.Module):
    """RMSNorm written out; with ``one_plus`` the gain is stored as 1 + w."""

    def __init__(self, *, one_plus: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.one_plus = one_plus

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return y * (1.0 + self.weight) if self.one_plus else self.weight * y


class PreNorm(nn.Module):
    """Attention and MLP, each behind a LayerNorm; a number of its place that nothing reads."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.layer_idx, self.slot = place, f"cache.{place}"
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.ln_1(x)).chunk(3, -1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Parallel(nn.Module):
    """Two branches from one norm, added in place."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        result = x.clone()
        result += self.one(y.relu()) + 0.5 * self.two(y)
        return result


class LayerScale(nn.Module):
    """A small gain after the branch, and a projection with weight normalization."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.norm, self.gamma = nn.LayerNorm(WIDTH), nn.Parameter(1e-3 * torch.rand(WIDTH))
        self.proj = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.proj(self.norm(x))


class Sandwich(nn.Module):
    """A norm before and a written-out one after the branch, as in gemma-2."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), Scaled(one_plus=True)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.proj(self.before(x)))


class Experts(nn.Module):
    """Each position goes through one of three experts."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, WIDTH)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).flatten(0, 1)
        shares = self.router(y).softmax(-1)
        best = shares.argmax(-1)
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            (chosen,) = torch.where(best == number)
            if len(chosen):
                out.index_add_(0, chosen, expert(y[chosen]) * shares[chosen, number, None])
        return x + out.view_as(x)


class PostNorm(nn.Module):
    """A norm over the sum, as in BERT."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.proj(x))


class Rectified(nn.Module):
    """A branch that ends in a rectifier: a zero projection before it would never train."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(x).relu()


class Constant(nn.Module):
    """Adds a part of the input itself: no weight can silence it."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.proj(x) + 0.1 * x)


class Excited(nn.Module):
    """A convolutional block with batch norm, a gate over its channels, and a rectifier over the sum."""

    def __init__(self, _place: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        return (y + x).relu()


class Stack(nn.Module):
    """Tokens or images through a list of blocks."""

    def __init__(self, block: Callable[[int], nn.Module], depth: int = 3, *, spatial: bool = False) -> None:
        super().__init__()
        self.n_layers = depth
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1) if spatial else nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(block(place) for place in range(depth))
        self.head = nn.Linear(WIDTH, 3)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu() if self.spatial else self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)) if self.spatial else x)


def build(block: Callable[[int], nn.Module], depth: int = 3) -> tuple[Stack, Tensor]:
    """A stack of blocks in float64, trained-like, and a batch for it."""
    torch.manual_seed(0)
    spatial = block is Excited
    model = Stack(block, depth, spatial=spatial).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shape = (4, 3, 6, 6) if spatial else (4, 5, WIDTH)
    return model, torch.randn(shape, dtype=torch.float64)
