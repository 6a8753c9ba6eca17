"""Models with a residual stream as users write them: norms, tied heads, factors of branches, widths in the forward."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

VOCABULARY, LENGTH = 11, 5
NORMS = ("layer", "layer-bare", "layer-written", "rms", "rms-bare", "rms-written", "rms-one-plus", "rms-literal")


class WrittenRMS(nn.Module):
    """RMSNorm by hand; the gain may be stored as 1 + w, and the eps may be a number in the code."""

    def __init__(self, width: int, *, one_plus: bool = False, literal: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width) if one_plus else torch.ones(width))
        self.variance_epsilon, self.one_plus, self.literal = 1e-3, one_plus, literal

    def forward(self, x: Tensor) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True)
        y = x * torch.rsqrt(square + (1e-3 if self.literal else self.variance_epsilon))
        return y * (1.0 + self.weight) if self.one_plus else self.weight * y


class WrittenLayer(nn.Module):
    """LayerNorm by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), 1e-3

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.pow(2).mean(-1, keepdim=True)
        return centered / torch.sqrt(variance + self.eps) * self.gain + self.shift


def norm(kind: str, width: int) -> nn.Module:
    """Return a norm over channels by the name of its kind."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=1e-3)
    if kind == "layer-bare":
        return nn.LayerNorm(width, eps=1e-3, elementwise_affine=False)
    if kind == "layer-written":
        return WrittenLayer(width)
    if kind.startswith("rms-") and kind != "rms-bare":
        return WrittenRMS(width, one_plus=kind.endswith("plus"), literal=kind.endswith("literal"))
    return nn.RMSNorm(width, eps=1e-3, elementwise_affine=kind != "rms-bare")


@dataclass(frozen=True)
class Shape:
    """What a model is made of.

    Attributes:
        norm: Kind of norm, of `NORMS`.
        width: Channels of the stream.
        depth: Blocks.
        tied: Whether the head is the embedding.
        bias: Whether linear maps have one.
        factors: Whether every branch has a gain for each channel (LayerScale).
        positions: Whether positions are added.
        rooted: Whether embeddings are multiplied by the root of the width.
    """

    norm: str = "rms"
    width: int = 8
    depth: int = 1
    tied: bool = False
    bias: bool = True
    factors: bool = False
    positions: bool = True
    rooted: bool = False


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.norm_1, self.norm_2 = norm(shape.norm, width), norm(shape.norm, width)
        self.qkv, self.out = nn.Linear(width, 12, bias=shape.bias), nn.Linear(4, width, bias=shape.bias)
        self.gate, self.up = nn.Linear(width, 6, bias=shape.bias), nn.Linear(width, 6, bias=shape.bias)
        self.down = nn.Linear(6, width, bias=shape.bias)
        self.factors = nn.ParameterList([torch.ones(width), torch.ones(width)]) if shape.factors else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x)).chunk(3, -1)
        y = self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + (y if self.factors is None else self.factors[0] * y)
        z = self.norm_2(x)
        y = self.down(F.silu(self.gate(z)) * self.up(z))
        return x + (y if self.factors is None else y * self.factors[1])


class Model(nn.Module):
    """Tokens → logits through a residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, shape.width)
        self.places = nn.Parameter(torch.zeros(1, LENGTH, shape.width)) if shape.positions else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = norm(shape.norm, shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        self.rooted = shape.rooted
        if shape.tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.rooted:
            x = x * math.sqrt(x.shape[-1])
        if self.places is not None:
            x = x + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build(shape: Shape) -> tuple[Model, Tensor]:
    """A model in float64 as after some training, and a batch for it."""
    torch.manual_seed(0)
    model = Model(shape).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, torch.randint(VOCABULARY, (3, LENGTH))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Any model of the kind that has an exact way to become wider."""
    kind = draw(st.sampled_from(NORMS))
    bare = kind.endswith("bare")  # without a gain nothing can undo what a tied head makes of a scaled stream
    return Shape(
        kind,
        width=draw(st.sampled_from([5, 6, 9])),
        depth=draw(st.integers(1, 2)),
        tied=draw(st.booleans()) and not bare,
        bias=draw(st.booleans()),
        factors=draw(st.booleans()),
        positions=draw(st.booleans()),
        rooted=draw(st.booleans()) and not bare,
    )
