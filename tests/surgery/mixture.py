"""A small model whose config counts heads of keys and values, experts and shared experts, as those of transformers."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class MixtureConfig:
    """Sizes that a model is built from."""

    hidden_size: int = 8
    num_channels: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    num_experts: int = 4
    num_experts_per_tok: int = 2
    intermediate_size: int = 6
    n_shared_experts: int = 0

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> "MixtureConfig":
        return cls(**held)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Attention(nn.Module):
    """Several heads of queries share one of keys and values."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q = nn.Linear(config.hidden_size, 2 * self.heads)
        self.k, self.v = (nn.Linear(config.hidden_size, 2 * self.kv_heads) for _ in range(2))
        self.out = nn.Linear(2 * self.heads, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """Every token goes through the experts that a softmax chooses, and through a shared one, where there is one."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.router, self.chosen = nn.Linear(width, config.num_experts), config.num_experts_per_tok
        self.up = nn.Parameter(0.5 * torch.randn(config.num_experts, inner, width))
        self.down = nn.Parameter(0.5 * torch.randn(config.num_experts, width, inner))
        self.shared = None
        if config.n_shared_experts:
            sizes = inner * config.n_shared_experts
            self.shared = nn.Sequential(nn.Linear(width, sizes), nn.ReLU(), nn.Linear(sizes, width))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        best, places = weights.topk(self.chosen, dim=-1)
        weights = torch.zeros_like(weights).scatter(-1, places, best)
        hidden = torch.relu(torch.einsum("bti,ehi->bteh", x, self.up))
        y = torch.einsum("bteh,eoh,bte->bto", hidden, self.down, weights)
        return y if self.shared is None else y + self.shared(x)


class MixtureNet(nn.Module):
    """Tokens of some channels → classes of each."""

    config_class = MixtureConfig

    def __init__(self, config: MixtureConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MixtureConfig()
        self.stem, self.head = nn.Linear(config.num_channels, config.hidden_size), nn.Linear(config.hidden_size, 3)
        self.attention, self.mixture = Attention(config), Mixture(config)
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attention(self.norms[0](x))
        x = x + self.mixture(self.norms[1](x))
        return self.head(self.norms[2](x))  # type: ignore[no-any-return]
