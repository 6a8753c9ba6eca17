"""More outputs and inputs: what was there stays, and every number that counts them follows."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import (
    GrowthSchedule,
    SurgeryReceipt,
    WidenInputs,
    WidenOutputs,
    grow,
    load_model,
    plan,
    save_model,
)
from graftwork.surgery._transaction import Transaction

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IDS = torch.randint(0, 12, (2, 5), generator=torch.Generator().manual_seed(1))


class Classifier(nn.Module):
    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.num_classes = classes
        self.conv = nn.Conv2d(channels, 5, 3, padding=1)  # as many channels inside as classes
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Language(nn.Module):
    def __init__(self, tokens: int = 12, *, tied: bool = True) -> None:
        super().__init__()
        self.vocab_size = tokens
        self.embed = nn.Embedding(tokens, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, tokens, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.head(torch.tanh(self.inner(self.embed(ids))))
        return logits.view(-1, self.vocab_size).view(*ids.shape, self.vocab_size)  # type: ignore[no-any-return]


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _trained(model: nn.Module, x: Tensor, **options: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **options)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return optimizer


def _run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)  # type: ignore[no-any-return]


def _grown(model: nn.Module, growth: Any, x: Any, **along: Any) -> SurgeryReceipt:
    return grow(model, growth, example_input=x, **along)


@pytest.mark.parametrize("init", ["zero", "mean"])
def test_new_classes_leave_old_rows_logits_and_optimizer_slots_as_they_were(init: str) -> None:
    model = _built(Classifier)
    optimizer = _trained(model, X)
    weight, bias = model.fc.weight.detach().clone(), model.fc.bias.detach().clone()
    slots = {key: optimizer.state[model.fc.weight][key].clone() for key in ("exp_avg", "exp_avg_sq")}
    before = _run(model, X)
    receipt = _grown(model, WidenOutputs("fc", 3, init=init), X, optimizer=optimizer)
    assert torch.equal(model.fc.weight[:5], weight)
    assert torch.equal(model.fc.bias[:5], bias)
    expected = weight.mean(0) if init == "mean" else torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(model.fc.weight[5:].detach(), expected.expand(3, 5))
    after = _run(model, X)
    torch.testing.assert_close(after[:, :5], before, rtol=1e-14, atol=1e-14)
    for key, old in slots.items():
        assert torch.equal(optimizer.state[model.fc.weight][key][:5], old)
    assert not optimizer.state[model.fc.weight]["exp_avg"][5:].any()
    assert (model.fc.out_features, model.num_classes, model.conv.out_channels) == (8, 8, 5)
    assert receipt.kind == "widen-outputs"
    assert len(receipt.gaps) == 3
    assert receipt.largest_gap < 1e-10
    start = model.fc.weight.detach().clone()
    F.cross_entropy(model.train()(X), torch.tensor([5, 6, 7])).backward()
    optimizer.step()
    assert (model.fc.weight.detach() != start)[5:].any(1).all()


def test_the_only_head_and_the_only_reader_are_found() -> None:
    model = _built(Classifier)
    assert plan(model, WidenOutputs(None, 1), example_input=X).sites == ("fc",)
    assert plan(model, WidenInputs(None, 1), example_input=X).sites == ("conv",)


def test_one_head_whose_rows_are_several_dimensions_is_not_taken_for_several_heads() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    with pytest.raises(SurgeryError, match="'0' can't get new ones: its 6 rows are made of several dimensions"):
        plan(model, WidenOutputs(None, 2), example_input=torch.randn(3, 4))


def test_a_tied_vocabulary_grows_once_and_its_new_tokens_can_be_read() -> None:
    model = _built(Language)
    optimizer = _trained(model, IDS)
    before, parameter = _run(model, IDS), model.embed.weight
    receipt = _grown(model, WidenOutputs("head", 4), IDS, optimizer=optimizer)
    assert model.head.weight is model.embed.weight is parameter
    assert (model.vocab_size, model.embed.num_embeddings, model.head.out_features) == (16, 16, 16)
    assert torch.equal(_run(model, IDS)[..., :12], before)
    assert _run(model, torch.tensor([[12, 15]])).isfinite().all()
    assert [change.name for change in receipt.tensors] == ["embed.weight"]


def test_an_untied_vocabulary_grows_by_both_names_and_one_alone_says_so() -> None:
    def build() -> Language:
        return Language(tied=False)

    alone = _built(build)
    assert any("('embed', 'head')" in note for note in _grown(alone, WidenOutputs("head", 4), IDS).notes)
    model = _built(build)
    before = _run(model, IDS)
    _grown(model, WidenOutputs(("embed", "head"), 4, init="mean"), IDS)
    assert torch.equal(_run(model, IDS)[..., :12], before)
    assert _run(model, torch.tensor([[15]])).isfinite().all()


def test_an_embedding_alone_gets_rows_and_outputs_stay() -> None:
    model = _built(lambda: nn.Sequential(nn.Embedding(12, 4), nn.Linear(4, 3)))
    before = _run(model, IDS)
    _grown(model, WidenOutputs("0", 2), IDS)
    assert torch.equal(_run(model, IDS), before)
    assert model[0].num_embeddings == 14  # type: ignore[union-attr, index]


def test_a_head_of_pixels_gets_classes() -> None:
    model = _built(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 5, 3)))
    before = _run(model, X)
    _grown(model, WidenOutputs(None, 2), X)
    after = _run(model, X)
    assert after.shape[1] == 7
    torch.testing.assert_close(after[:, :5], before)


class _Loss(Classifier):
    def __init__(self) -> None:
        super().__init__(classes=6)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(6))


class _Weights(Classifier):
    def __init__(self) -> None:
        super().__init__(classes=6)
        self.class_weights = torch.ones(6)


class _Two(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.conv(x)).mean((2, 3))
        return self.fc(h), self.other(h)


class _Anchors(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3))).view(len(x), 3, -1)  # type: ignore[no-any-return]


def _weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)))


def _then(*more: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(Classifier(), *more)


@pytest.mark.parametrize(
    ("build", "growth", "reason"),
    [
        (_then(nn.Softmax(-1)), WidenOutputs(None, 1), "softmax.*logits"),
        (_then(nn.LogSoftmax(-1)), WidenOutputs("0.fc", 1), "softmax.*logits"),
        (_then(nn.ReLU()), WidenOutputs("0.fc", 1), "would not train.*init='mean'"),
        (_then(nn.LayerNorm(5)), WidenOutputs("0.fc", 1), "a norm mixes the channels"),
        (_then(nn.BatchNorm1d(5)), WidenOutputs("0.fc", 1), "normalizes them"),
        (_Loss, WidenOutputs("fc", 1), "'criterion.weight' would be left behind"),
        (_Weights, WidenOutputs("fc", 1), "'class_weights' would be left behind"),
        (_Two, WidenOutputs(None, 1), r"several, \['fc', 'other'\]"),
        (_Two, WidenOutputs(("fc", "other"), 1), "as many rows"),
        (lambda: _Anchors(classes=6), WidenOutputs("fc", 1), "several dimensions"),
        (Classifier, WidenOutputs("conv", 1), "channels stay inside"),
        (Classifier, WidenOutputs("fcc", 1), "did you mean 'fc'"),
        (Classifier, WidenInputs("fc", 1), "made inside"),
        (Classifier, WidenInputs("norm", 1), "a BatchNorm2d"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), WidenInputs("0", 1), "with groups"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), WidenOutputs("", 1), "parametrization"),
        (_weight_norm, WidenOutputs(None, 1), "WeightNorm"),
    ],
)  # fmt: skip
def test_what_would_change_the_old_part_is_refused_with_its_reason(
    build: Callable[[], nn.Module], growth: Any, reason: str
) -> None:
    model = _built(build)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SurgeryError, match=reason):
        _grown(model, growth, X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(m.num_classes == m.fc.out_features for m in model.modules() if isinstance(m, Classifier))


def test_a_rectifier_behind_the_head_takes_the_mean() -> None:
    model = _built(_then(nn.Softplus()))
    before = _run(model, X)
    _grown(model, WidenOutputs("0.fc", 1, init="mean"), X)
    torch.testing.assert_close(_run(model, X)[:, :5], before)


class _Normalized(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.sum(-1, keepdim=True)


def test_a_sum_over_the_classes_is_found() -> None:
    model = _built(_Normalized)
    with pytest.raises(SurgeryError, match="sum"):
        _grown(model, WidenOutputs("fc", 1, init="mean"), X)
    with pytest.raises(NotPreservedError, match="stay within rounding"):
        _grown(_built(_Scores), WidenOutputs("fc", 1), X)


class _Scores(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.fc.out_features


class _Chance(Classifier):
    """Its forward reads a number that is the number of classes by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 5

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.tokens


def test_a_number_that_equals_the_classes_by_chance_stays() -> None:
    model = _built(_Chance)
    before = _run(model, X)
    receipt = _grown(model, WidenOutputs("fc", 2), X)
    assert (model.tokens, model.num_classes, model.fc.out_features) == (5, 7, 7)
    assert {change.name for change in receipt.attributes} == {"out_features", "num_classes"}
    torch.testing.assert_close(_run(model, X)[:, :5], before)


def test_another_head_with_as_many_rows_is_named() -> None:
    model = _built(lambda: _Two().requires_grad_())
    model.other = nn.Linear(5, 5).double()
    assert any("('other', 'fc')" in note for note in _grown(model, WidenOutputs("fc", 1), X).notes)


class _Prior(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prior", torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.prior


def test_a_buffer_that_grows_along_is_named() -> None:
    model = _built(_Prior)
    receipt = _grown(model, WidenOutputs("fc", 2), X)
    assert model.prior.tolist()[5:] == [0.0, 0.0]
    assert any("'prior' gets zero" in note for note in receipt.notes)


def test_schedules_and_files_hold_the_growths(tmp_path: Path) -> None:
    model = _built(Classifier)
    schedule = GrowthSchedule({1: WidenOutputs("fc", 2), 2: WidenInputs("conv", 1)})
    schedule.step(model, example_input=X)
    schedule.step(model, example_input=X)
    save_model(model, tmp_path)
    again = load_model(lambda: Classifier().double(), tmp_path)
    x = torch.cat([X, X[:, :1]], 1)
    assert torch.equal(_run(again, x), _run(model, x))
    assert (again.num_classes, again.fc.out_features, again.conv.in_channels) == (7, 7, 4)


def test_a_mirror_and_a_waiting_gradient_grow_along() -> None:
    model, average = _built(Classifier), _built(Classifier)
    with torch.no_grad():
        average.fc.weight.mul_(0.5)
    model(X).sum().backward()
    gradient, old = model.fc.weight.grad, average.fc.weight.detach().clone()
    _grown(model, WidenOutputs("fc", 1, init="mean"), X, mirrors=[average])
    assert gradient is not None
    assert torch.equal(model.fc.weight.grad[:5], gradient)  # type: ignore[index]
    assert torch.equal(average.fc.weight[:5], old)
    torch.testing.assert_close(average.fc.weight[5:].detach(), old.mean(0, keepdim=True))
    assert average.num_classes == 6


def test_a_fault_at_any_step_leaves_model_and_optimizer_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _built(Language)
    optimizer = _trained(model, IDS)
    before, state = _run(model, IDS), optimizer.state_dict()["state"][0]["exp_avg"].clone()
    for fault in range(6):
        steps = iter(range(100))

        def strike(*_: object, steps: Any = steps, fault: int = fault) -> None:
            if next(steps) == fault:
                raise KeyboardInterrupt

        monkeypatch.setattr(Transaction, "before_step", strike)
        with pytest.raises(KeyboardInterrupt):
            _grown(model, WidenOutputs("head", 2), IDS, optimizer=optimizer)
        monkeypatch.undo()
        assert torch.equal(_run(model, IDS), before)
        assert torch.equal(optimizer.state[model.embed.weight]["exp_avg"], state)
        assert (model.vocab_size, model.embed.num_embeddings, model.head.out_features) == (12, 12, 12)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"site": 3, "extra": 1}, "site: expected the path"),
        ({"site": (), "extra": 1}, "site: expected the path"),
        ({"site": "fc", "extra": 0}, "extra: expected a number above 0"),
        ({"site": "fc", "extra": True}, "extra: expected a number above 0"),
        ({"site": "fc", "extra": 1, "init": "means"}, "did you mean 'mean'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SurgeryError, match=reason):
        WidenOutputs(**options)
