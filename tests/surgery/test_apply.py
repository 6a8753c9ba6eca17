"""All or nothing: whatever fails, model and optimizer are as they were, bit for bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import Deepen, Widen, deepen, growth_sites, plan, widen, widen_all
from graftwork.surgery._transaction import Transaction

from .models import CASES, batch_of, scrambled


class Fault(Exception):
    pass


def _snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "ids": {name: id(t) for name, t in tensors},
        "values": {name: t.detach().clone() for name, t in tensors},
        "pointers": {name: t.data_ptr() for name, t in tensors},
        "grads": {name: None if t.grad is None else t.grad.clone() for name, t in tensors},
        "flags": {name: (t.requires_grad, t.dtype, t.stride()) for name, t in tensors},
        "modes": {name: m.training for name, m in model.named_modules()},
        "types": {name: type(m) for name, m in model.named_modules()},
        "hooks": {name: list(m._forward_hooks) + list(m._forward_pre_hooks) for name, m in model.named_modules()},
        "plain": {
            name: {k: v for k, v in vars(m).items() if isinstance(v, (int, float, str, tuple))}
            for name, m in model.named_modules()
        },
        "state": copy.deepcopy(optimizer.state_dict()),
        "step hooks": len(optimizer._optimizer_step_pre_hooks),
        "random": torch.get_rng_state(),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _trained(case_number: int) -> tuple[nn.Module, Tensor, torch.optim.Optimizer]:
    model, x = scrambled(CASES[case_number]), batch_of(CASES[case_number])
    model.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(x).sum().backward()
    optimizer.step()
    return model, x, optimizer


@pytest.mark.parametrize(
    ("kind", "case_number"),
    [("widen", 9), ("deepen", 2), ("deepen", 9), pytest.param("widen", 2, marks=pytest.mark.slow)],
)
def test_a_fault_at_any_step_leaves_everything_bit_identical(
    kind: str, case_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, optimizer = _trained(case_number)
    site = {2: "conv1", 9: "lstm"}[case_number]
    names: list[str] = []
    monkeypatch.setattr(Transaction, "before_step", lambda _self, name: names.append(name))

    growth = Widen(site, factor=1.5) if kind == "widen" else Deepen(site)

    def planned() -> Any:
        return plan(model, growth, example_input=x, optimizer=optimizer)

    steps = _count_steps(planned, model, optimizer, names)
    before, made = _snapshot(model, optimizer), planned()
    for number in range(steps):
        # Before the step's change, or after it; both for the residual network, by turns for the slower recurrent one.
        for late in (False, True) if case_number == 2 else (number % 2 == 0,):
            _inject(monkeypatch, number, late=late)
            with pytest.raises(Fault):
                made.apply()  # a plan that failed can be tried again
            monkeypatch.undo()
            assert _same(before, _snapshot(model, optimizer)), (number, late)
    assert steps >= (20 if kind == "widen" else 3)


def _count_steps(planned: Any, model: nn.Module, optimizer: Any, names: list[str]) -> int:
    """Make the growth once on the side, by undoing it at the very end."""
    made = planned()
    original = Transaction.__exit__

    def undo(self: Transaction, *_: object) -> None:
        original(self, Fault, Fault(), None)

    before = _snapshot(model, optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "__exit__", undo)
        made.apply()
    assert _same(before, _snapshot(model, optimizer))
    return len(names)


def _inject(monkeypatch: pytest.MonkeyPatch, number: int, *, late: bool) -> None:
    seen = []
    original = Transaction.step

    def step(self: Transaction, name: str, change: Any, undo: Any) -> None:
        seen.append(name)

        def faulty() -> None:
            if late:
                change()
            raise Fault(name)

        original(self, name, faulty if len(seen) == number + 1 else change, undo)

    monkeypatch.setattr(Transaction, "step", step)


class WidthInside(nn.Module):
    """The forward divides by its own width: every tensor grows right, the function changes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.up(x))
        return self.down(h / h.size(-1))


def test_a_number_that_depends_on_the_width_is_caught_and_rolled_back() -> None:
    model, x = WidthInside().double(), torch.randn(5, 4, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = _snapshot(model, optimizer)
    with pytest.raises(NotPreservedError, match="put back"):
        widen(model, "up", extra=2, example_input=x, optimizer=optimizer)
    assert _same(before, _snapshot(model, optimizer))


def test_a_gradient_in_waiting_is_padded_with_zeros_and_counts_on() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    model(x).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    widen(model, "0", extra=2, example_input=x)
    assert torch.equal(model[0].weight.grad[:7], grads["0.weight"])
    assert not model[0].weight.grad[7:].any()
    model(x).sum().backward()
    assert torch.allclose(model[0].weight.grad[:7], 2 * grads["0.weight"])


def test_growing_while_the_last_loss_is_alive_does_not_break_the_next_step() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    loss = model(x).sum()
    loss.backward(retain_graph=True)
    widen(model, "0", extra=2, example_input=x)
    deepen(model, "1", example_input=x)
    after = model(x).sum()
    after.backward()
    assert torch.allclose(loss, after)


def test_flags_modes_memory_format_and_frozen_parameters_stay() -> None:
    model, x = scrambled(CASES[1]).to(memory_format=torch.channels_last), batch_of(CASES[1])
    model.features[4].weight.requires_grad_(False)
    model.features[1].eval()
    modes = {name: m.training for name, m in model.named_modules()}
    widen(model, "features.0", extra=2, example_input=x)
    assert not model.features[4].weight.requires_grad
    assert model.features[4].weight.is_contiguous(memory_format=torch.channels_last)
    assert modes == {name: m.training for name, m in model.named_modules()}


@pytest.mark.parametrize("layout", ["channels-last", "every second column"])
def test_the_example_may_lie_in_memory_in_any_order(layout: str) -> None:
    model, x = scrambled(CASES[1]), batch_of(CASES[1])
    wide = (
        x.to(memory_format=torch.channels_last) if layout == "channels-last" else x.repeat_interleave(2, -1)[..., ::2]
    )
    assert not wide.is_contiguous()
    before = model.eval()(wide).detach()
    widen(model, "features.4", extra=4, example_input=wide)
    torch.testing.assert_close(model.eval()(wide), before)


def test_a_moving_average_grows_along_as_a_mirror() -> None:
    model, x = scrambled(CASES[1]), batch_of(CASES[1])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for p in averaged.module.parameters():
            p.mul_(0.9)
    averaged.eval()
    y = averaged(x)
    widen(model, "features.0", extra=4, example_input=x, mirrors=[averaged.module])
    assert torch.allclose(averaged(x), y, rtol=1e-10, atol=1e-12)
    averaged.update_parameters(model)


class Heads(nn.Module):
    """Holds its width as a number, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.up, self.down = 8, nn.Linear(4, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)).view(len(x), 2, self.width).sum(1))


def test_a_mirror_gets_the_blocks_and_the_numbers_too_and_a_failure_puts_it_back() -> None:
    model, x = Heads().double(), torch.randn(5, 4).double()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        averaged.module.up.weight.mul_(0.9)
    y = averaged(x)
    widen(model, "up", factor=1.5, example_input=x, mirrors=[averaged.module])
    deepen(model, after="up", example_input=x, mirrors=[averaged.module])
    assert averaged.module.width == model.width == 12
    assert list(averaged.module.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(averaged(x), y, rtol=1e-10, atol=1e-12)
    averaged.update_parameters(model)
    before = str(averaged), list(averaged.state_dict())
    planned = plan(model, Deepen("up"), example_input=x, mirrors=[averaged.module])
    model.down = nn.Linear(9, 3)  # the forward fails now
    with pytest.raises(SurgeryError):
        planned.apply()
    assert (str(averaged), list(averaged.state_dict())) == before


class Auxiliary(nn.Module):
    """A second head in training only, which divides by its width."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.up = nn.Linear(4, 6)
        self.head, self.extra = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = torch.relu(self.up(x))
        if not self.training:
            return (self.head(h),)
        return self.head(h), self.extra(h / (h.size(-1) if self.wrong else 1))


def test_branches_that_run_in_training_only_grow_along_and_are_checked() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    model = Auxiliary(wrong=False).double()
    receipt = widen(model, "up", extra=2, example_input=x)
    assert model.extra.in_features == 8
    assert "training, example" in receipt.gaps
    with pytest.raises(NotPreservedError):
        widen(Auxiliary(wrong=True).double(), "up", extra=2, example_input=x)


@pytest.mark.filterwarnings("ignore")
def test_a_grown_model_exports_and_traces() -> None:
    model, x = scrambled(CASES[2]), batch_of(CASES[2])
    widen(model, "conv1", extra=2, example_input=x)
    deepen(model, "layer1.0", example_input=x)
    model.eval()
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x))


class OneBadSite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.bad = WidthInside()

    def forward(self, x: Tensor) -> Tensor:
        return self.bad(x + self.good(x))


def test_widen_all_leaves_out_what_cannot_follow_and_names_it() -> None:
    model, x = OneBadSite().double(), torch.randn(5, 4, dtype=torch.float64)
    before = model(x)
    receipt = widen_all(model, 1.5, example_input=x)
    assert model.good[0].out_features == 10
    assert model.bad.up.out_features == 6
    assert "bad.up" in receipt.notes[-1]
    assert torch.allclose(before, model(x), rtol=1e-10)


class Halves(nn.Module):
    """Two halves of one width that never meet again, split at half of whatever the width is."""

    def __init__(self, chunk: bool) -> None:
        super().__init__()
        self.chunk = chunk
        self.stem = nn.Linear(4, 8)
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        middle = h.size(-1) // 2
        a, b = h.chunk(2, dim=-1) if self.chunk else (h[:, :middle], h[:, middle:])
        return self.left(torch.relu(a)) + self.right(torch.tanh(b))


@pytest.mark.parametrize("chunk", [True, False])
def test_halves_of_a_split_grow_alike_and_count_as_one_width(chunk: bool) -> None:
    model, x = Halves(chunk).double(), torch.randn(5, 4, dtype=torch.float64)
    before = model(x)
    assert growth_sites(model, x)["stem"].step == 4
    widen(model, "stem", extra=4, example_input=x)
    assert (model.stem.out_features, model.left.in_features, model.right.in_features) == (12, 6, 6)
    assert torch.allclose(before, model(x), rtol=1e-10)
