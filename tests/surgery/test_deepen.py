"""Laws of deepening: exactly the identity at first, in place, under unchanged names, and it learns."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery import Deepen, deepen, growth_sites, load_model, plan, save_model, widen
from graftwork.surgery._specs import BlockSpec
from graftwork.surgery.growths._add_blocks import AddBlocks

from .models import CASES, Case, batch_of, scrambled

NAMES = [case.name for case in CASES]


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.float32])
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow) if c.name in ("resnet", "recurrent", "vgg") else c for c in CASES],
    ids=NAMES,
)
def test_a_new_block_is_exactly_the_identity_after_every_module(case: Case, dtype: torch.dtype) -> None:
    model, x = scrambled(case, dtype=dtype), batch_of(case, dtype=dtype)
    model.eval()
    with torch.no_grad():
        before = model(x)
    places = growth_sites(model, x).deepenable
    if dtype == torch.float32:  # one of each kind, and two at least; the others in double precision
        kinds = {type(model.get_submodule(place)): place for place in places}
        places = sorted({*kinds.values(), *places[:2]}, key=places.index)
    grown = 0
    for place in places:
        try:
            deepen(model, place, example_input=x)
        except SurgeryError as error:
            assert "never run" in str(error)  # noqa: PT017 - the reason is the point
            continue
        grown += 1
    with torch.no_grad():
        assert torch.equal(before, model(x))
    assert grown >= 0.8 * len(places)
    assert grown >= 2


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_no_existing_name_changes_and_parameters_keep_their_identity(case: Case) -> None:
    model, x = scrambled(case), batch_of(case)
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    place = growth_sites(model, x).deepenable[0]
    deepen(model, place, example_input=x)
    assert [name for name in model.state_dict() if ".graft0." not in name] == names
    assert all(dict(model.named_parameters())[name] is value for name, value in parameters.items())


def test_the_block_learns_and_its_halves_part() -> None:
    model, x = scrambled(CASES[1]), batch_of(CASES[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    deepen(model, "features.4", example_input=x, optimizer=optimizer)
    block = model.features[4].graft0
    start = {name: value.detach().clone() for name, value in block.named_parameters()}
    half = len(block.weight) // 2
    assert torch.equal(block.weight[:half], block.weight[half:])
    assert torch.equal(block.mix[:, :half], -block.mix[:, half:])
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in block.named_parameters() if not torch.equal(value, start[name])}
    # The bias before batch normalization has a gradient of rounding size only.
    assert {"weight", "mix", "norm.weight", "norm.bias"} <= moved
    assert not torch.equal(block.weight[:half], block.weight[half:])


def test_old_optimizer_state_keeps_its_bits_and_the_block_joins_its_neighbors() -> None:
    model, x = scrambled(CASES[1]), batch_of(CASES[1])
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    model(x).sum().backward()
    optimizer.step()
    old = {id(p): {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    block = model.features[0].graft0
    assert any(block.weight is p for p in optimizer.param_groups[0]["params"])
    assert any(block.bias is p for p in optimizer.param_groups[1]["params"])
    assert len(optimizer.param_groups) == 2
    kept = [p for p in model.parameters() if id(p) in old]
    assert all(torch.equal(optimizer.state[p][key], old[id(p)][key]) for p in kept for key in old[id(p)])
    model(x).sum().backward()
    optimizer.step()
    assert optimizer.state[block.weight]["step"] == 2  # counted along with the old ones


def test_blocks_take_norm_and_activation_of_their_neighborhood() -> None:
    vgg, attention = scrambled(CASES[1]), scrambled(CASES[7])
    images, tokens = batch_of(CASES[1]), batch_of(CASES[7])
    spec = _spec(vgg, Deepen("features.0"), images)
    assert (spec.norm, spec.spatial, spec.activation, spec.kernel_size) == ("batch", 2, "ReLU", 3)
    spec = _spec(attention, Deepen("down"), tokens)
    assert (spec.spatial, spec.norm) == (0, "layer")
    assert _spec(vgg, Deepen("features.0", norm="none"), images).norm == "none"


def _spec(model: nn.Module, growth: Deepen, x: Tensor) -> BlockSpec:
    edit = plan(model, growth, example_input=x).edit
    assert isinstance(edit, AddBlocks)
    assert isinstance(edit.specs[0], BlockSpec)
    return edit.specs[0]


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_kernel_size_and_hidden_width_can_be_chosen(kernel_size: int) -> None:
    model, x = scrambled(CASES[2]), batch_of(CASES[2])
    receipt = deepen(model, "layer1.0", example_input=x, kernel_size=kernel_size, hidden=10)
    assert receipt.largest_gap == 0.0
    assert model.layer1[0].graft0.weight.shape == (10, 6, kernel_size, kernel_size)
    for wrong in ({"hidden": 3}, {"kernel_size": 2}, {"norm": "odd"}, {"activation": "Nothing"}):
        with pytest.raises(SurgeryError):
            Deepen("layer1.0", **wrong)


def test_a_deepened_model_can_be_copied_pickled_widened_and_deepened_again() -> None:
    model, x = scrambled(CASES[2]), batch_of(CASES[2])
    deepen(model, "layer1", example_input=x)
    deepen(model, "layer1.0", example_input=x)
    deepen(model, "layer1.0", example_input=x)
    widen(model, "layer1.0.graft1", extra=4, example_input=x)
    widen(model, "conv1", extra=4, example_input=x)
    model.eval()
    with torch.no_grad():
        y = model(x)
        assert torch.equal(copy.deepcopy(model)(x), y)
        again = pickle.loads(pickle.dumps(model))  # our own bytes, in memory
        assert torch.equal(again(x), y)
    assert isinstance(again.layer1[0], type(scrambled(CASES[2]).layer1[0]))


class Indirect(nn.Module):
    """Uses a module's weight without calling the module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.inner.weight, self.inner.bias))


def test_places_that_never_run_or_make_no_tensor_are_refused() -> None:
    model, x = Indirect(), torch.randn(3, 3)
    with pytest.raises(SurgeryError, match="does not run it"):
        deepen(model, "inner", example_input=x)
    with pytest.raises(SurgeryError, match="no module 'nowhere'"):
        deepen(model, "nowhere", example_input=x)
    assert type(model.inner) is nn.Linear


class FirstOfTwo(nn.Module):
    """A sub-module that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def test_a_block_after_a_module_that_returns_a_tuple_acts_on_its_first_tensor() -> None:
    model, x = FirstOfTwo().double(), torch.randn(2, 5, 3, dtype=torch.float64)
    assert deepen(model, "lstm", example_input=x).largest_gap == 0.0
    assert model.lstm.graft0.weight.shape == (4, 4)


class Block(nn.Module):
    """A pre-norm transformer block that takes a mask."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Linear(8, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.head(x)


@pytest.mark.parametrize("kind", ["transformer", "resnet"])
def test_a_copy_of_a_residual_block_starts_as_the_identity_and_learns(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build = {"transformer": lambda: Transformer().double(), "resnet": lambda: scrambled(CASES[2])}[kind]
    model = build()
    x = torch.randint(9, (3, 5)) if kind == "transformer" else batch_of(CASES[2])
    place = "blocks.0" if kind == "transformer" else "layer1.1"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for number in range(3):
        receipt = deepen(model, place, like=place, example_input=x, optimizer=optimizer)
        assert receipt.largest_gap <= 1e-12
        assert receipt.site == f"{place[:-1]}{int(place[-1]) + 1}"  # an entry of its own
        new = {change.name for change in receipt.tensors}
        start = {n: p.detach().clone() for n, p in model.named_parameters() if n in new}
        model.train()
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        still = {n for n, p in model.named_parameters() if n in new and torch.equal(p, start[n])}
        assert not still, (number, still)
    save_model(model, tmp_path)
    model.eval()
    assert torch.equal(load_model(build, tmp_path).eval()(x), model(x))


def test_a_block_whose_branches_cannot_be_silenced_is_refused() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    with pytest.raises(SurgeryError, match="like="):
        deepen(model, "0", like="1", example_input=x)
    with pytest.raises(SurgeryError, match="like must be"):
        deepen(model, "0", like="nowhere", example_input=x)


class Annotated(nn.Module):
    """Says that it takes and makes one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("after", ["0", "1", "1.linear", "2"])
def test_a_module_that_was_deepened_twice_is_scripted_pickled_and_called_by_name(after: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), Annotated(), nn.Sequential(nn.LayerNorm(6))), torch.randn(5, 4)
    for _ in range(2):
        deepen(model, after=after, example_input=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    names = list(model.state_dict())
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x))
    assert list(scripted.state_dict()) == list(model.state_dict()) == names
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    assert torch.equal(again[1](x=again[0](input=x)), model[1](model[0](x)))
