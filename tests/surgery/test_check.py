"""The check: how many runs it takes, what it accepts as rounding, and that it is not fooled by time or chance."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import tolerance_for
from graftwork.surgery import Deepen, ModelGrowth, Widen, WidenAll, grow, plan, widen


class Transformer(nn.Module):
    """Two pre-norm blocks; ``attention_dropout`` is random in training whatever modules say, as GPT-2's is."""

    def __init__(self, *, attention_dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.blocks = nn.ModuleList(Block(attention_dropout) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self, attention_dropout: float) -> None:
        super().__init__()
        self.share = attention_dropout
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.drop = nn.Linear(8, 12), nn.Linear(12, 8), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, -1, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.share if self.training else 0.0)
        x = x + self.drop(self.proj(y.transpose(1, 2).flatten(2)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


@contextmanager
def forwards(model: nn.Module) -> Iterator[list[int]]:
    """Count the forward passes of a model."""
    seen = [0]

    def count(*_: Any) -> None:
        seen[0] += 1

    handle = model.register_forward_pre_hook(count)
    yield seen
    handle.remove()


TOKENS = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(0))
GROWTHS = [
    lambda check: Widen("blocks.0.up", extra=4, check=check),
    lambda check: WidenAll(1.5, check=check),
    lambda check: Deepen("blocks.0", check=check),
]


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize(
    ("dropout", "check", "most"), [(0.0, True, 6), (0.1, True, 5), (0.0, "fast", 2), (0.0, False, 2)]
)
def test_a_growth_traces_once_and_takes_six_forward_passes_or_two(
    growth: Callable[[Any], ModelGrowth], dropout: float, check: Any, most: int
) -> None:
    model = Transformer(attention_dropout=dropout)
    with forwards(model) as seen:
        receipt = grow(model, growth(check), example_input=TOKENS)
    assert 0 < seen[0] <= most
    assert len(receipt.gaps) == {True: 3 if dropout == 0.0 else 2, "fast": 1, False: 0}[check]


def test_ways_that_fail_and_sites_that_cannot_follow_do_not_trace_again() -> None:
    class Heads(nn.Module):
        """Its heads are a constant of the code, so the width of heads must grow."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.relu(self.up(x)).view(len(x), 3, -1).flatten(1))

    model, x = Heads(), torch.randn(3, 4)
    with forwards(model) as seen:
        assert widen(model, "up", factor=1.5, example_input=x).largest_gap < 1e-5
    assert model.up.out_features == 18
    assert seen[0] <= 12  # a trace of two, the first way fails at once, the second is compared

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad = Middle(), Middle(lambda h: h / h.size(-1))

        def forward(self, x: Tensor) -> Tensor:
            return self.bad(self.good(x))

    pair = Pair()
    with forwards(pair) as seen:
        receipt = grow(pair, WidenAll(1.5), example_input=x)
    assert "bad.up" in receipt.notes[-1]
    assert seen[0] <= 16  # 2 traced, 1 more batch, 3 that fail, 7 for three sites alone, 3 at last


class Middle(nn.Module):
    def __init__(self, middle: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.middle(self.up(x)))


class Drift(nn.Module):
    """Changes its output by a known share of its size once it is wider."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.up(x))
        y = self.down(h)
        return y * (1 + (self.share if h.shape[-1] > 6 else 0.0))


class Deeper(Drift):
    """Changes its output by a known share of its size once it has a block more."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.tanh(self.up(x)))
        return y * (1 + (self.share if len(list(self.modules())) > 3 else 0.0))


@pytest.mark.parametrize("kind", [Drift, Deeper])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("times", "kept"), [(0.5, True), (4.0, False), (40.0, False)])
def test_the_limit_of_the_check_is_the_stated_tolerance(
    kind: type[Drift], dtype: torch.dtype, times: float, kept: bool
) -> None:
    """A change of four times the tolerance is no rounding in a model that does not amplify it."""
    torch.manual_seed(0)
    model, x = kind(times * tolerance_for(dtype)).to(dtype), torch.randn(5, 4, dtype=dtype)
    growth = Widen("up", extra=2) if kind is Drift else Deepen("up")
    names = {name: value.shape for name, value in model.named_parameters()}
    if kept:
        assert grow(model, growth, example_input=x).largest_gap < tolerance_for(dtype)
        return
    with pytest.raises(NotPreservedError, match="put back"):
        grow(model, growth, example_input=x)
    assert names == {name: value.shape for name, value in model.named_parameters()}


def test_a_model_that_amplifies_rounding_is_given_as_much_as_it_amplifies() -> None:
    torch.manual_seed(0)
    model, x = Middle(lambda h: torch.tanh(h) + 1e4 * torch.sin(1e4 * h)), torch.randn(5, 4)
    model(x)
    receipt = widen(model, "up", extra=2, example_input=x)
    assert model.up.out_features == 8
    assert math.isfinite(receipt.largest_gap)


def test_training_between_plan_and_apply_is_no_change_of_the_function() -> None:
    torch.manual_seed(0)
    model, x = Transformer(), TOKENS
    planned = plan(model, Widen("blocks.0.up", extra=4), example_input=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = model.eval()(x)
    receipt = planned.apply()
    assert receipt.largest_gap < 1e-5
    torch.testing.assert_close(model(x), before)


def test_a_training_mode_that_is_random_by_python_is_left_out() -> None:
    class Skipping(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return x if self.training and random.random() < 0.5 else super().forward(x)

    random.seed(0)
    torch.manual_seed(0)
    model, x = Skipping(), torch.randn(3, 4)
    assert len(widen(model, "up", extra=2, example_input=x).gaps) in {2, 3}
    assert model.up.out_features == 8


def test_fast_names_what_only_training_uses() -> None:
    class Auxiliary(Middle):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return (y, self.extra(y)) if self.training else y

    receipt = widen(Auxiliary(), "up", extra=2, check="fast", example_input=torch.randn(3, 4))
    assert "extra.weight" in str(receipt)


def test_a_forward_that_writes_to_its_input_leaves_the_example_alone() -> None:
    class InPlace(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2.0))

    model, x = InPlace(), torch.randn(3, 4)
    kept = x.clone()
    widen(model, "up", extra=2, example_input=x)
    assert torch.equal(x, kept)


def test_an_approximate_growth_must_be_measured() -> None:
    with pytest.raises(SurgeryError, match="check=True"):
        Widen("up", extra=2, approximate=True, check=False)
