"""Forwards that a trace can misread: every growth keeps the function on inputs of other kinds, or is refused.

The comparison owes nothing to the library's check: other batch sizes, other numbers, longer sequences, both modes.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import Widen, growth_sites, plan, widen
from graftwork.surgery._calls import sandbox

METHODS = ("r2r", "net2net", "netmorph")


class Middle(nn.Module):
    """A function of the hidden channels between two linear maps."""

    def __init__(self, middle: Callable[[Tensor], Tensor] = torch.sin) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        return self.down(self.middle(torch.tanh(self.up(x))))


def _inputs(*, length: int = 0) -> list[Tensor]:
    shape = (length,) if length else ()
    found = [torch.randn(n, *shape, 5, dtype=torch.float64) for n in (4, 1, 2, 7)]
    found += [-found[0], 3 * found[0] + 1, 0.01 * found[0]]
    if length:
        found.append(torch.cat([found[2]] * 4, 1) + torch.arange(4 * length)[None, :, None])
    return found


def _outputs(model: nn.Module, inputs: list[Tensor]) -> list[Any]:
    found = []
    for training in (False, True):
        for x in inputs:
            with sandbox(model), torch.no_grad():
                found.append(model.train(training)(x.clone()))
    return found


def _exact_or_refused(model: nn.Module, site: str, *, length: int = 0) -> int:
    """Grow a copy by every method and two factors; returns how often that was not refused."""
    torch.manual_seed(1)
    inputs, grown = _inputs(length=length), 0
    before = _outputs(model, inputs)
    for method in METHODS:
        for factor in (1.25, 2.0):
            child = copy.deepcopy(model)
            try:
                widen(child, site, factor=factor, example_input=inputs[0], method=method)
                grown += 1
            except SurgeryError:
                pass  # refused is as good as exact: the function must be the same
            for old, new in zip(before, _outputs(child, inputs), strict=True):
                assert output_gap(old, new) <= 1e-10, (method, factor)
    return grown


def _read_numpy(h: Tensor) -> Tensor:
    return h / float(np.abs(h.numpy()).max())


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "through NumPy": _read_numpy,
    "through np.asarray": lambda h: h / float(np.asarray(h).max()),
    "through a list": lambda h: h / max(abs(v) for row in h.tolist() for v in row),
    "through a copy by value": lambda h: h * torch.tensor(h).abs().amax(1, keepdim=True),
    "how many are large": lambda h: h / (1 + len(torch.nonzero(h > 0.9))),
    "whether any is large": lambda h: 2 * h if (h > 0.95).any() else h,
    "whether all are small": lambda h: h if torch.equal(h, h.clamp(-0.95, 0.95)) else 2 * h,
    "the largest few": lambda h: h * (h >= h.topk(3, 1).values[:, -1:]),
    "the channel before": lambda h: torch.where(h > h.roll(1, 1), h, -h),
    "rolled as one vector": lambda h: h.roll(3),
    "a transform over channels": lambda h: torch.fft.fft(h, dim=1).abs(),
    "differences of channels": lambda h: F.pad(h.diff(dim=1), (1, 0)),
    "a place among channels": lambda h: h * torch.ones_like(h).cumsum(1),
    "filled in order": lambda h: torch.zeros_like(h).masked_scatter(h > 0, h.flatten()),
    "by a function over rows": torch.vmap(lambda row: row * row.sum()),
    "by the width": lambda h: h * h.shape[1] ** -0.5,
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("name", MIXING)
def test_values_that_hang_on_all_channels_are_refused(name: str) -> None:
    torch.manual_seed(0)
    assert _exact_or_refused(Middle(MIXING[name]).double(), "up") == 0


APART: dict[str, Callable[[Tensor], Tensor]] = {
    "a function over rows": torch.vmap(torch.sin),
    "a quantile over the batch": lambda h: h.clamp(max=h.quantile(0.9, dim=0)),
    "rounding with a straight gradient": lambda h: h + (torch.round(h * 4) / 4 - h).data,
    "a product with itself": lambda h: (h[:, :, None] * h[:, None, :]).diagonal(dim1=1, dim2=2).contiguous(),
    "sums over pairs": lambda h: h * h.detach().clone().requires_grad_(True),
}


@pytest.mark.parametrize("name", APART)
def test_what_treats_channels_apart_still_grows(name: str) -> None:
    torch.manual_seed(0)
    grown = _exact_or_refused(Middle(APART[name]).double(), "up")
    assert grown == (0 if "itself" in name else 6)  # a diagonal has no rule: refused


class Branching(nn.Module):
    """Takes another way where the inputs sum to more than zero."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up, self.experts = nn.Linear(5, 8), nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h, large = torch.tanh(self.up(x)), bool(x.sum() > 0)
        if self.kind == "mixes":
            h = h.softmax(1) if large else h
        return self.experts[int(large and self.kind == "expert")](h)


def test_a_way_that_only_other_numbers_take_is_followed_too() -> None:
    torch.manual_seed(0)
    for sign in (1, -1):
        example = sign * torch.rand(4, 5, dtype=torch.float64)
        with pytest.raises(SurgeryError, match="softmax"):
            widen(Branching("mixes").double(), "up", extra=2, example_input=example)
        model = Branching("expert").double()
        before = [model(example), model(-example)]
        receipt = widen(model, "up", extra=2, example_input=example)
        assert [model.experts[i].in_features for i in (0, 1)] == [10, 10]
        assert output_gap(before, [model(example), model(-example)]) <= 1e-10
        assert any("reads values" in note for note in receipt.notes)
    steady = widen(Middle().double(), "up", extra=2, example_input=example)
    assert not any("reads values" in note for note in steady.notes)


class Experts(nn.Module):
    """Each row goes to one of six experts, of which a small batch reaches some."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.router = nn.Linear(5, 8), nn.Linear(5, 6)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        h, chosen = torch.tanh(self.up(x)), self.router(x).argmax(1)
        y = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                y[rows] = expert(h[rows])
        return y


def test_experts_that_the_example_does_not_reach_do_not_stay_behind() -> None:
    torch.manual_seed(0)
    model, few, many = Experts().double(), torch.randn(1, 5).double(), torch.randn(200, 5).double()
    before = model(many)
    with pytest.raises(SurgeryError, match=r"did not run on the example input.*pass a batch that runs all"):
        widen(model, "up", extra=2, example_input=few)
    assert torch.equal(model(many), before)
    own = growth_sites(model, few)
    assert "did not run" in (own["up"].refusal or "")
    inner = next(name for name in own.widenable if name.endswith(".0"))
    widen(model, inner, extra=2, example_input=few)  # its hidden units are its own
    widen(model, "up", extra=2, example_input=many)
    assert output_gap(before, model(many)) <= 1e-10


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_outputs_without_dictionary_are_outputs_and_a_model_without_any_is_refused() -> None:
    class Slotted(Middle):
        def forward(self, x: Tensor) -> Any:
            return Slots(super().forward(x))

    class Number(Middle):
        def forward(self, x: Tensor) -> Any:
            return {"score": super().forward(x).sum().item()}

    x = torch.randn(4, 5, dtype=torch.float64)
    with pytest.raises(SurgeryError, match="model's output"):
        widen(Slotted().double(), "down", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match="expected the same outputs"):
        widen(Slotted(MIXING["by the width"]).double(), "up", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match=r"returns no tensor \(dict\)"):
        widen(Number(MIXING["by the width"]).double(), "up", extra=2, example_input=x)


class Window(nn.Module):
    """Two numbers that are equal by chance: a width, which the forward needs, and how far it looks back."""

    def __init__(self) -> None:
        super().__init__()
        self.width = self.window = 8
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.up(x)).view(x.shape[0], -1, self.width)
        return self.down(h[:, -self.window :].mean(1))


def test_a_number_that_equals_the_width_by_chance_stays() -> None:
    torch.manual_seed(0)
    assert _exact_or_refused(Window().double(), "up", length=6) == 6
    model, x = Window().double(), torch.randn(3, 6, 5, dtype=torch.float64)
    receipt = widen(model, "up", extra=2, example_input=x)
    assert (model.width, model.window) == (10, 8)
    assert "window" not in str(receipt)


def test_a_view_of_a_weight_is_not_left_behind() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)

    class Viewed(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(F.linear(x, self.seen)))

    for buffer in (True, False):
        model = (Viewed if buffer else Middle)().double()
        if buffer:
            model.register_buffer("seen", model.up.weight.data)
        else:
            model.seen = model.up.weight.data
        with pytest.raises(SurgeryError, match="is a view of"):
            widen(model, "seen" if buffer else "up", extra=2, example_input=x)
        assert model.up.weight.shape == (8, 5)


def test_buffers_continue_what_they_hold() -> None:
    """A blur stays a blur, and variances stay positive, whatever their shape."""

    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(5, 8, 1), nn.Conv2d(8, 3, 1)
            self.register_buffer("blur", torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])).repeat(8, 1, 1, 1))
            self.register_buffer("variance", torch.rand(1, 8, 1, 1) + 0.5)
            self.register_buffer("kept", torch.ones(8, dtype=torch.bool))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x) / self.variance.sqrt() * self.kept[:, None, None]
            return self.head(F.conv2d(torch.relu(h), self.blur, groups=len(self.blur)))

    model, x = Blur().double(), torch.randn(2, 5, 6, 6, dtype=torch.float64)
    before = model(x)
    widen(model, "stem", extra=4, example_input=x)
    assert torch.equal(model.blur, model.blur[:1].expand(12, 1, 3, 3))
    assert torch.allclose(model.variance[0, 8:], model.variance[0, :8].mean())
    assert model.kept.all()
    assert output_gap(before, model(x)) <= 1e-10


def test_complex_weights_grow_and_learn() -> None:
    torch.manual_seed(0)
    up, down = (nn.Linear(a, b, dtype=torch.complex128) for a, b in ((5, 8), (8, 3)))
    model, x = nn.Sequential(up, nn.Identity(), down), torch.randn(4, 5, dtype=torch.complex128)
    before = model(x)
    widen(model, "0", extra=4, example_input=x)
    assert output_gap(before, model(x)) <= 1e-10
    model(x).abs().sum().backward()
    for grad in (up.weight.grad[8:], down.weight.grad[:, 8:]):
        assert bool((grad.abs() > 0).all())
    assert bool((up.weight[8:].imag != 0).all())


def test_an_lstm_with_a_projection_grows_its_hidden_units() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 8, num_layers=2, proj_size=4, bidirectional=True, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    torch.manual_seed(0)
    assert _exact_or_refused(Projected().double(), "lstm", length=4) >= 3
    model = Projected().double()
    plan(model, Widen("lstm", extra=2), example_input=torch.randn(2, 4, 5, dtype=torch.float64)).apply()
    assert (model.lstm.hidden_size, model.lstm.proj_size) == (10, 4)
