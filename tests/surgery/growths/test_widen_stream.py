"""Model width: the residual stream grows, and what the model computes stays."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import WidenAll, WidenStream, grow, plan
from graftwork.surgery._transaction import Transaction
from tests.surgery import streams_models as models
from tests.surgery.streams_models import NORMS, Shape, build


def _output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


def _trained(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", NORMS)
def test_a_wider_stream_keeps_the_function_and_every_new_entry_trains(kind: str) -> None:
    model, x = build(Shape(kind))
    before = _output(model, x)
    receipt = grow(model, WidenStream(1.5), example_input=x)
    shapes = {change.name: change.old_shape for change in receipt.tensors}
    assert receipt.largest_gap <= 1e-10
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    assert model.embed.embedding_dim == model.blocks[0].down.out_features == model.head.in_features == 12
    news = {change.name for change in receipt.tensors}
    held = {name: p.detach().clone() for name, p in model.named_parameters() if name in news}
    _trained(model, x, torch.optim.Adam(model.parameters(), lr=1e-3), 3)
    assert len(held) == len(dict(model.named_parameters())) - 3  # all but the biases of qkv, gate and up
    for name, old in held.items():
        new = torch.ones_like(old, dtype=torch.bool)
        new[tuple(slice(0, n) for n in shapes[name])] = False
        if name == "embed.weight":
            new[[token for token in range(models.VOCABULARY) if token not in x]] = False
        assert new.any()
        assert not torch.isclose(old, model.get_parameter(name), rtol=0, atol=1e-7)[new].any(), name


@pytest.mark.parametrize("kind", ["layer", "rms", "rms-literal"])
@pytest.mark.parametrize("more", [{"factors": True}, {"tied": True, "rooted": True}])
def test_tied_heads_factors_of_branches_and_roots_of_the_width_are_followed(kind: str, more: dict[str, bool]) -> None:
    model, x = build(Shape(kind, **more))  # type: ignore[arg-type]
    before = _output(model, x)
    grow(model, WidenStream(to=13), example_input=x)
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)


def test_zeros_and_means_stand_where_the_norms_ask_for_them() -> None:
    model, x = build(Shape("rms"))
    old = copy.deepcopy(model.state_dict())
    text = str(plan(model, WidenStream(2.0), example_input=x))
    assert "new channels stay zero" in text
    assert "times 0.707107: blocks.0.norm_1.weight" in text
    grow(model, WidenStream(2.0), example_input=x)
    assert not model.embed.weight[:, 8:].any()
    assert not model.blocks[0].down.weight[8:].any()
    assert model.blocks[0].gate.weight[:, 8:].all()
    assert torch.equal(model.blocks[0].gate.weight[:, :8], old["blocks.0.gate.weight"])
    assert model.norm.eps == 0.5e-3

    model, x = build(Shape("layer"))
    grow(model, WidenStream(2.0), example_input=x)
    for rows in (model.embed.weight.T, model.blocks[0].out.weight, model.blocks[0].out.bias[:, None]):
        torch.testing.assert_close(rows[8:], rows[:8].mean(0, keepdim=True).expand(8, -1), rtol=0, atol=1e-15)
    assert not model.norm.bias[8:].any()


def test_writers_are_scaled_where_an_eps_can_not_follow() -> None:
    model, x = build(Shape("rms-literal", tied=True))
    old = model.embed.weight.detach().clone()
    grow(model, WidenStream(4.0), example_input=x)
    torch.testing.assert_close(model.embed.weight[:, :8], 2 * old)
    assert "times 2:" in str(plan(build(Shape("rms-literal"))[0], WidenStream(4.0), example_input=x))


def test_optimizer_state_of_old_entries_keeps_its_bits() -> None:
    model, x = build(Shape("layer", tied=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    _trained(model, x, optimizer, 2)
    held = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    grow(model, WidenStream(1.5), example_input=x, optimizer=optimizer)
    for name, parameter in model.named_parameters():
        now = optimizer.state[parameter]["exp_avg"]
        assert now.shape == parameter.shape
        old = now[tuple(slice(0, n) for n in held[name].shape)]
        assert torch.equal(old, held[name])
        assert torch.count_nonzero(now) == torch.count_nonzero(old)


def test_a_copy_of_the_model_grows_along_and_keeps_its_own_function() -> None:
    model, x = build(Shape("layer", factors=True))
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = _output(average, x)
    grow(model, WidenStream(1.5), example_input=x, mirrors=[average])
    torch.testing.assert_close(_output(average, x), before, rtol=0, atol=1e-12)


def test_a_saved_model_comes_back_without_a_trace(tmp_path: Path) -> None:
    model, x = build(Shape("rms-one-plus"))
    grow(model, WidenStream(1.5), example_input=x)
    gw.save_model(model, tmp_path / "model.pt")
    again = gw.load_model(lambda: models.Model(Shape("rms-one-plus")).double(), tmp_path / "model.pt").eval()
    assert torch.equal(_output(again, x), _output(model, x))
    assert again.norm.variance_epsilon == model.norm.variance_epsilon != 1e-3


class _Tied(nn.Module):
    """An attention whose heads are as wide as the stream divided by their number, by hand or PyTorch's own."""

    def __init__(self, *, stock: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.n_embd, self.n_head = nn.Embedding(11, 8), nn.LayerNorm(8), 8, 4
        self.stock = nn.MultiheadAttention(8, 4, batch_first=True) if stock else None
        self.c_attn, self.c_proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        if self.stock is not None:
            return self.head(self.last(x + self.stock(y, y, y, need_weights=False)[0]))  # type: ignore[no-any-return]
        b, t, c = y.shape
        parts = self.c_attn(y).split(self.n_embd, dim=2)
        q, k, v = (part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        return self.head(self.last(x + self.c_proj(y)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("stock", [False, True])
def test_heads_grow_along_where_the_code_ties_them_to_the_width(stock: bool) -> None:
    torch.manual_seed(0)
    model, x = _Tied(stock=stock).double().eval(), torch.randint(11, (3, 5))
    before = _output(model, x)
    receipt = grow(model, WidenStream(1.5), example_input=x)
    assert receipt.largest_gap <= 1e-10
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    if model.stock is not None:
        assert (model.stock.embed_dim, model.stock.num_heads) == (12, 6)
    else:
        assert (model.n_embd, model.n_head) == (12, 6)
    with pytest.raises(SurgeryError, match="the forward fails at that width"):
        plan(model, WidenStream(to=13), example_input=x)


class _AnyLength(nn.Module):
    """An attention whose code takes heads of any length: its number of heads need not grow for it to run."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.heads = nn.Embedding(11, 8), nn.LayerNorm(8), 4
        self.queries, self.keys, self.values = (nn.Linear(8, 8) for _ in range(3))
        self.merge, self.last, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y, (b, t) = self.norm(x), tokens.shape
        q, k, v = (m(y).view(b, t, self.heads, -1).transpose(1, 2) for m in (self.queries, self.keys, self.values))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.last(x + self.merge(y)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["netmorph", "r2r", "net2net"])
def test_more_heads_are_preferred_where_longer_ones_run_too(method: str) -> None:
    torch.manual_seed(0)
    model, x = _AnyLength().double().eval(), torch.randint(11, (3, 5))
    before = _output(model, x)
    grow(model, WidenAll(1.5, width=1.5, method=method), example_input=x)
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    assert (model.heads, model.queries.weight.shape) == (6, (12, 12))


@pytest.mark.parametrize("width", [1.5, 2.0])
def test_stream_and_inner_widths_grow_in_one_call(width: float, tmp_path: Path) -> None:
    model, x = build(Shape("layer", tied=True))
    before = _output(model, x)
    receipt = grow(model, WidenAll(2.0, width=width), example_input=x)
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    assert model.embed.embedding_dim == 8 * width
    assert model.blocks[0].gate.out_features == 12
    assert receipt.method == "means"
    gw.save_model(model, tmp_path / "model")
    again = gw.load_model(lambda: models.Model(Shape("layer", tied=True)).double(), tmp_path / "model").eval()
    assert torch.equal(_output(again, x), _output(model, x))


def test_an_error_at_any_step_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(Shape("layer"))
    planned = plan(model, WidenStream(1.5), example_input=x)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    left = 0

    def fail(_transaction: Transaction, _name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, "before_step", fail)
    for step in range(0, 29, 4):
        left = step
        with pytest.raises(KeyboardInterrupt):
            planned.apply()
        for name, tensor in model.state_dict(keep_vars=True).items():
            assert tensor is before[name][0]
            assert torch.equal(tensor, before[name][1])
        assert model.norm.eps == 1e-3
        assert model.embed.embedding_dim == 8


class Changed(nn.Module):
    """A model whose stream meets one more operation before the last norm."""

    def __init__(self, kind: str, change: Any) -> None:
        super().__init__()
        self.inner, _ = build(Shape(kind.removesuffix("-tied"), tied=kind.endswith("-tied")))
        self.change = change

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.inner.embed(tokens) + self.inner.places
        for block in self.inner.blocks:
            x = self.change(block(x))
        return self.inner.head(self.inner.norm(x))  # type: ignore[no-any-return]


_MASK = torch.tensor([True, False, False, False, True])[None, :, None]
_LET_THROUGH = [
    ("rms", lambda x: x.clone().mul_(2).add_(x.sigmoid() * x)),
    ("rms", lambda x: torch.stack([x[:, 0] * 2, *x.unbind(1)[1:]], 1)),
    ("layer", lambda x: x.masked_fill(_MASK, 3.0)),
    ("layer", lambda x: nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]),
]


def test_what_keeps_zeros_or_means_is_let_through() -> None:
    for kind, change in (("rms", lambda x: x + x.tanh()), ("layer", lambda x: 3 * x + 1), *_LET_THROUGH):
        model = Changed(kind, change)
        x = torch.randint(models.VOCABULARY, (3, models.LENGTH))
        assert grow(model, WidenStream(1.5), example_input=x).largest_gap <= 1e-10


def test_copies_keep_what_zeros_and_means_can_not() -> None:
    """Post-norm streams, and anything that acts on each channel alike, by an integer factor."""
    for change in (nn.LayerNorm(8).double(), nn.functional.gelu, lambda x: 2 * x.relu() + 1):
        model = Changed("layer", change)
        x = torch.randint(models.VOCABULARY, (3, models.LENGTH))
        with pytest.raises(SurgeryError, match="an integer factor is exact, by copies"):
            plan(model, WidenStream(1.5), example_input=x)
        before, gate = _output(model, x), model.inner.blocks[0].gate.weight.detach().clone()
        held = model.inner.blocks[0].down.weight.detach().clone()
        receipt = grow(model, WidenStream(2.0), example_input=x)
        assert receipt.method == "copies"
        torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
        rows, columns = model.inner.blocks[0].down.weight, model.inner.blocks[0].gate.weight
        assert torch.equal(rows, torch.cat([held, held]))
        torch.testing.assert_close(columns[:, :8] + columns[:, 8:], gate)
        assert not torch.isclose(columns[:, :8], columns[:, 8:]).any()  # so that copies part


class _Images(nn.Module):
    """A convolutional stream whose norms run over channels and positions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        own = {"group": lambda: nn.GroupNorm(1, 4), "layer": lambda: nn.LayerNorm([4, 3, 3])}[kind]
        self.stem, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.norms = nn.ModuleList(own() for _ in range(2))
        self.up, self.down = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(self.up(self.norms[0](x)).relu())
        return self.head(self.norms[1](x).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_norms_over_channels_and_positions_grow_by_copies(kind: str) -> None:
    torch.manual_seed(0)
    model, x = _Images(kind).double(), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    before = _output(model, x)
    with pytest.raises(SurgeryError, match=r"over channels and positions together in .* an integer factor is exact"):
        plan(model, WidenStream(1.5), example_input=x)
    receipt = grow(model, WidenStream(2), example_input=x)
    assert receipt.method == "copies"
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    _trained(model, x, torch.optim.Adam(model.parameters(), lr=1e-2), 2)
    assert not torch.isclose(model.up.weight[:, :4], model.up.weight[:, 4:]).any()


class _Scaled(nn.Module):
    """Multipliers of the maximal update parametrization: of embeddings, of branches, and of what the head reads."""

    def __init__(self, *, held: bool) -> None:
        super().__init__()
        self.inner, _ = build(Shape("rms"))
        self.held = 8 / 8 if held else None

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.inner
        x = 10.0 * (inner.embed(tokens) + inner.places)
        for block in inner.blocks:
            x = x + 0.5 * (block(x) - x)
        ratio = 8 / x.shape[-1] if self.held is None else self.held
        return inner.head(inner.norm(x)) * ratio  # type: ignore[no-any-return]


@pytest.mark.parametrize("held", [True, False])
def test_multipliers_of_the_width_are_followed(held: bool) -> None:
    """A number that the forward computes from the width is compensated, one that the model holds stays."""
    model, x = _Scaled(held=held), torch.randint(models.VOCABULARY, (3, models.LENGTH))
    before = _output(model, x)
    assert grow(model, WidenStream(1.5), example_input=x).largest_gap <= 1e-10
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    assert model.held in (None, 1.0)


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_copies_of_a_tied_embedding_are_heard_once(factor: float) -> None:
    model, x = build(Shape("layer", tied=True))
    wrapped = Changed("layer", nn.functional.gelu)
    wrapped.inner = model
    before = _output(wrapped, x)
    grow(wrapped, WidenStream(factor), example_input=x)
    torch.testing.assert_close(_output(wrapped, x), before, rtol=0, atol=1e-12)
    assert torch.equal(model.embed.weight, model.embed.weight[:, :8].repeat(1, int(factor)))


def test_a_wrong_reading_is_caught_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: free entries everywhere change the function."""
    from graftwork.surgery.growths import _wider_stream

    filled = _wider_stream.filled
    monkeypatch.setattr(_wider_stream, "filled", lambda old, own, _fills, **more: filled(old, own, {}, **more))
    for kind in ("rms", "layer"):
        model, x = build(Shape(kind))
        with pytest.raises(NotPreservedError, match="everything was put back"):
            grow(model, WidenStream(1.5), example_input=x)


def test_a_plan_leaves_the_model_alone_also_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    from graftwork.surgery.streams import _choose

    model, x = build(Shape("rms"))
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}

    def interrupted(*_: object) -> None:
        assert model.embed.weight.shape[1] == 12
        raise KeyboardInterrupt

    plan(model, WidenStream(1.5), example_input=x)
    monkeypatch.setattr(_choose.Tape, "again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan(model, WidenStream(1.5), example_input=x)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert model.norm.eps == 1e-3
