"""A growth is taken out again: the model, its names and the optimizer are as before; what it had learned is the gap."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery import (
    Deepen,
    InsertLayers,
    ModelGrowth,
    Widen,
    WidenAll,
    WidenInputs,
    WidenOutputs,
    WidenStream,
    grow,
    growth_log,
    remove,
)
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry._first_update import waiting_slots

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 5
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList([Block(0), Block(1)])
        self.hidden, self.head = nn.Linear(6 * 16, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x).relu()
        return self.head(self.hidden(nn.functional.avg_pool2d(x, 2).flatten(1)).relu())  # type: ignore[no-any-return]


GROWTHS: list[ModelGrowth] = [
    Widen("hidden", extra=4),
    Widen("stem", extra=2),
    WidenAll(1.5),
    Widen("hidden", extra=3, method="netmorph"),
    Deepen("stem"),
    Deepen(("stem", "hidden")),
    InsertLayers("blocks", after=(0, 1)),
    InsertLayers("blocks", count=1, train="new"),
    WidenOutputs("head", 2),
    WidenInputs("stem", 1),
]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def _train(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def _run(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)  # type: ignore[no-any-return]


def _numbers(model: nn.Module) -> dict[str, Any]:
    plain = (int, float, bool, str, tuple)
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, plain) and name != "training"
    }


def _more(growth: ModelGrowth) -> Tensor:
    return torch.cat([X, X[:, :1]], 1) if isinstance(growth, WidenInputs) else X


@pytest.mark.parametrize("growth", GROWTHS, ids=str)
def test_what_has_not_been_trained_goes_without_a_trace(growth: ModelGrowth) -> None:
    model = _net()
    average = copy.deepcopy(model)
    optimizer = optim.AdamW(model.named_parameters(), lr=1e-3)
    _train(model, optimizer, X)
    output, numbers = _run(model), _numbers(model)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    kinds, flags = [type(m) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    receipt = grow(model, growth, example_input=X, optimizer=optimizer, mirrors=[average])
    removal = remove(model, receipt, example_input=_more(growth), optimizer=optimizer, mirrors=[average])
    assert removal.gap < 1e-12
    assert list(tensors) == list(model.state_dict()) == list(average.state_dict())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(_run(model), output)
    assert _numbers(model) == numbers
    assert (kinds, flags) == ([type(m) for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert all(waiting_slots(optimizer, parameter) is None for parameter in model.parameters())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for key, held in state["state"].items():
        assert held.keys() == after["state"][key].keys()
        assert all(torch.equal(value, after["state"][key][name]) for name, value in held.items())
    assert growth_log(model) == []
    _train(model, optimizer, X, 1)
    assert _run(average).shape == (4, 5)


@pytest.mark.parametrize("growth", GROWTHS, ids=str)
def test_what_has_learned_leaves_its_gap_and_old_slots_stay(growth: ModelGrowth) -> None:
    model, x = _net(), _more(growth)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    _train(model, optimizer, X)
    names = dict(model.named_parameters())
    receipt = grow(model, growth, example_input=X, optimizer=optimizer)
    _train(model, optimizer, x, 3)
    before, slots = _run(model, x), {n: optimizer.state[p]["momentum_buffer"].clone() for n, p in names.items()
                                     if "momentum_buffer" in optimizer.state[p]}  # fmt: skip
    removal = remove(model, receipt, example_input=x, optimizer=optimizer)
    after = _run(model)
    gap = float((after - before[:, :5]).abs().max() / before[:, :5].abs().max())
    assert removal.gap == pytest.approx(gap)
    assert removal.gap > 0 or isinstance(growth, WidenOutputs)
    for name, parameter in names.items():
        if name in slots:
            part = tuple(slice(n) for n in parameter.shape)
            now = optimizer.state[parameter]["momentum_buffer"]
            assert now.shape == parameter.shape
            assert torch.equal(now, slots[name][part]) or "hidden.weight" in name  # its columns lie between new ones
    _train(model, optimizer, X, 1)


def test_factored_moments_go_back_too() -> None:
    model = _net()
    optimizer = optim.Adafactor(model.parameters(), lr=1e-3)
    _train(model, optimizer, X)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    receipt = grow(model, Widen("hidden", extra=4), example_input=X, optimizer=optimizer)
    removal = remove(model, receipt, example_input=X, optimizer=optimizer)
    assert any("row_var" in line for line in removal.optimizer_state)
    for key, held in optimizer.state_dict()["state"].items():
        assert all(value is None or torch.equal(value, held[name]) for name, value in state[key].items())


def test_only_the_last_growth_can_be_removed_and_then_the_one_before() -> None:
    model = _net()
    output = _run(model)
    first = grow(model, Widen("hidden", extra=2), example_input=X)
    second = grow(model, WidenOutputs("head", 1), example_input=X)
    with pytest.raises(SurgeryError, match="last growth, WidenOutputs"):
        remove(model, first, example_input=X)
    remove(model, second, example_input=X)
    assert str(remove(model, first, example_input=X)).startswith("removed Widen('hidden', extra=2)")
    assert torch.equal(_run(model), output)
    with pytest.raises(SurgeryError, match="none"):
        remove(model, first, example_input=X)


def test_net2net_has_changed_old_weights_and_stays() -> None:
    model = _net()
    receipt = grow(model, Widen("hidden", extra=2, method="net2net"), example_input=X)
    with pytest.raises(SurgeryError, match="has changed old weights"):
        remove(model, receipt, example_input=X)


@pytest.mark.parametrize("growth", [GROWTHS[0], GROWTHS[4], GROWTHS[6], GROWTHS[8]], ids=str)
def test_a_fault_on_the_way_leaves_the_grown_model(growth: ModelGrowth, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _net()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    _train(model, optimizer, X)
    receipt = grow(model, growth, example_input=X, optimizer=optimizer)
    output, numbers, state = _run(model), _numbers(model), copy.deepcopy(optimizer.state_dict())
    for fault in range(4):
        steps = iter(range(1000))

        def strike(*_: object, steps: Any = steps, fault: int = fault) -> None:
            if next(steps) == fault:
                raise KeyboardInterrupt

        monkeypatch.setattr(Transaction, "before_step", strike)
        with pytest.raises(KeyboardInterrupt):
            remove(model, receipt, example_input=X, optimizer=optimizer)
        monkeypatch.undo()
        assert torch.equal(_run(model), output)
        assert _numbers(model) == numbers
        assert str(sorted(optimizer.state_dict()["state"].items())) == str(sorted(state["state"].items()))
        assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    remove(model, receipt, example_input=X, optimizer=optimizer)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("growth", [InsertLayers("model.layers", after=(0,)), WidenOutputs(None, 3)], ids=str)
def test_a_config_goes_back(growth: ModelGrowth) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=12, pad_token_id=0, **sizes))
    ids = {"input_ids": torch.arange(10).view(2, 5)}
    config, output = model.config.to_dict(), model.eval()(**ids).logits
    receipt = grow(model, growth, example_input=ids)
    assert model.config.to_dict() != config
    remove(model, receipt, example_input=ids)
    assert model.config.to_dict() == config
    assert torch.equal(model(**ids).logits, output)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]


class Stream(nn.Module):
    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.norms = nn.ModuleList([norm(8), norm(8)])
        self.inner, self.out = nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.out(self.inner(self.norms[0](x)).relu())
        return self.head(self.norms[1](x))  # type: ignore[no-any-return]


class PostNorm(Stream):
    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm in self.norms:
            x = norm(x + self.out(self.inner(x).relu()))
        return self.head(x)  # type: ignore[no-any-return]


ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("growth", [WidenStream(1.5), WidenStream(2), WidenAll(1.5, width=1.5)], ids=str)
def test_a_wider_stream_goes_and_what_it_has_scaled_is_scaled_back(growth: ModelGrowth, norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Stream(norm).double()
    average = copy.deepcopy(model)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    _train(model, optimizer, ROWS)
    output, numbers = _run(model, ROWS), _numbers(model)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own, state = copy.deepcopy(average.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    receipt = grow(model, growth, example_input=ROWS, optimizer=optimizer, mirrors=[average])
    assert not torch.equal(dict(model.named_parameters())["norms.0.weight"][:8], tensors["norms.0.weight"])
    removal = remove(model, receipt, example_input=ROWS, optimizer=optimizer, mirrors=[average])
    assert removal.gap < 1e-13
    for before, after in ((tensors, model), (own, average)):
        for name, tensor in after.state_dict().items():
            torch.testing.assert_close(tensor, before[name], rtol=1e-14, atol=0.0)
    torch.testing.assert_close(_run(model, ROWS), output, rtol=1e-12, atol=1e-13)
    assert _numbers(model) == numbers
    for key, held in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[key][name]) for name, value in held.items())
    _train(model, optimizer, ROWS, 1)


def test_a_wider_stream_that_has_learned_leaves_its_gap() -> None:
    torch.manual_seed(0)
    model = Stream().double()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    receipt = grow(model, WidenStream(1.5), example_input=ROWS, optimizer=optimizer)
    _train(model, optimizer, ROWS, 3)
    before = _run(model, ROWS)
    removal = remove(model, receipt, example_input=ROWS, optimizer=optimizer)
    assert removal.gap == pytest.approx(float((_run(model, ROWS) - before).abs().max() / before.abs().max()))
    assert 0 < removal.gap < 1


def test_a_stream_of_copies_has_changed_old_weights_and_stays() -> None:
    torch.manual_seed(0)
    model = PostNorm().double()
    receipt = grow(model, WidenStream(2), example_input=ROWS)
    with pytest.raises(SurgeryError, match="new channels are copies"):
        remove(model, receipt, example_input=ROWS)


@pytest.mark.filterwarnings("ignore")
def test_a_config_and_its_model_go_back_to_their_width() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4}
    config = transformers.Gemma2Config(
        intermediate_size=12, num_key_value_heads=2, query_pre_attn_scalar=4, pad_token_id=0, **sizes
    )
    model = transformers.Gemma2ForCausalLM(config).eval()
    ids = {"input_ids": torch.arange(10).view(2, 5)}
    config, output = model.config.to_dict(), model(**ids).logits
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    receipt = grow(model, WidenStream(1.5), example_input=ids)
    assert model.config.hidden_size == 12
    assert remove(model, receipt, example_input=ids).gap < 1e-5
    assert model.config.to_dict() == config
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    torch.testing.assert_close(model(**ids).logits, output, rtol=1e-5, atol=1e-6)
