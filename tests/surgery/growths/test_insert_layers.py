"""Whole layers: real entries that start as the identity, with the numbers, names and groups of a deeper model."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import (
    Deepen,
    GrowthSchedule,
    InsertLayers,
    WidenAll,
    grow,
    growth_log,
    load_model,
    plan,
    replay,
    save_model,
)
from graftwork.surgery._transaction import Transaction
from tests.surgery.layers import blocks

RESIDUAL = (blocks.PreNorm, blocks.Parallel, blocks.LayerScale, blocks.Sandwich, blocks.Experts, blocks.Excited)


def _output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["zero-out", "r2r"])
@pytest.mark.parametrize("block", RESIDUAL, ids=lambda block: block.__name__)
def test_new_layers_keep_the_function_and_train(block: type, init: str) -> None:
    model, x = blocks.build(block)
    before = _output(model, x)
    receipt = grow(model, InsertLayers("blocks", after=(0, 2), init=init), example_input=x)
    assert len(model.blocks) == 5
    assert receipt.largest_gap <= 1e-10
    torch.testing.assert_close(_output(model, x), before, rtol=0, atol=1e-12)
    new = {change.name for change in receipt.tensors if change.role == "new"}
    held = {name: p.detach().clone() for name, p in model.named_parameters() if name in new}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    still = {name for name, p in model.named_parameters() if name in held and torch.equal(held[name], p)}
    assert still <= {name for name in new if any(name in note for note in receipt.notes)} | {
        f"blocks.{place}.experts.{number}.{leaf}.{kind}"  # an expert that nothing reaches
        for place in (1, 4) for number in range(3) for leaf in (0, 2) for kind in ("weight", "bias")
    }  # fmt: skip


def test_names_and_numbers_are_those_of_a_model_of_that_depth() -> None:
    model, x = blocks.build(blocks.PreNorm)
    old = [block.up.weight for block in model.blocks]
    planned = plan(model, InsertLayers("blocks", after=(0, 0, 2)), example_input=x)
    text = str(planned)
    assert "blocks.1: a copy of blocks.0, zero: out.weight, out.bias, down.weight, down.bias" in text
    assert "moved in blocks: 1 → 3, 2 → 4" in text
    assert "sets  blocks.3.layer_idx: 1 → 3" in text
    assert len(model.blocks) == 3
    planned.apply()
    built = blocks.Stack(blocks.PreNorm, 6)
    assert list(model.state_dict()) == list(built.state_dict())
    assert [block.layer_idx for block in model.blocks] == list(range(6))
    assert [block.slot for block in model.blocks] == [f"cache.{place}" for place in range(6)]
    assert model.n_layers == 6
    assert [model.blocks[place].up.weight for place in (0, 3, 4)] == old  # the same objects
    assert torch.equal(model.blocks[1].up.weight, model.blocks[0].up.weight)


@pytest.mark.parametrize(
    ("options", "places"),
    [({"every": 2}, (1, 3)), ({"count": 2}, (1, 3)), ({"count": 3}, (0, 1, 3)), ({"after": [-1, 0]}, (0, 3))],
    ids=str,
)
def test_places_can_be_counted(options: dict[str, Any], places: tuple[int, ...]) -> None:
    model, x = blocks.build(blocks.Parallel, 4)
    sites = plan(model, InsertLayers("blocks", **options), example_input=x).sites
    assert sites == tuple(f"blocks.{place + 1 + number}" for number, place in enumerate(places))


def test_r2r_twins_leave_queries_and_keys_as_they_were() -> None:
    model, x = blocks.build(blocks.PreNorm)
    grow(model, InsertLayers("blocks", after=(0,), init="r2r"), example_input=x)
    old, new = model.blocks[0], model.blocks[1]
    both = 2 * blocks.WIDTH
    assert torch.equal(old.qkv.weight[:both], new.qkv.weight[:both])
    values = new.qkv.weight[both:].view(2, 2, -1, blocks.WIDTH)  # heads, halves of each head
    assert torch.equal(values[:, 0], values[:, 1])
    columns = new.down.weight.view(blocks.WIDTH, 2, -1)
    assert torch.equal(columns[:, 0], -columns[:, 1])


def test_new_parameters_join_the_groups_of_the_ones_they_copy_and_old_state_keeps_its_bits() -> None:
    model, x = blocks.build(blocks.PreNorm)
    groups = [{"params": [(n, p)], "lr": 1e-3 * (1 + number)} for number, (n, p) in enumerate(model.named_parameters())]
    optimizer = torch.optim.AdamW(groups)
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    slots = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    receipt = grow(model, InsertLayers("blocks", after=(1,)), example_input=x, optimizer=optimizer)
    for parameter, held in slots.items():
        assert all(torch.equal(value, optimizer.state[parameter][key]) for key, value in held.items())
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        assert group["param_names"] == [names[id(p)] for p in group["params"]]
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for change in receipt.tensors:
        leaf = change.name.removeprefix("blocks.2.")
        new, source = model.get_parameter(change.name), model.blocks[1].get_parameter(leaf)
        assert found[id(new)] == rates[id(source)]


class LeftOut(blocks.PreNorm):
    """Is passed by at random in training, as by layer drop."""

    def forward(self, x: torch.Tensor) -> Any:
        return x if self.training and torch.rand(()) < 0.5 else super().forward(x)


def test_a_layer_that_training_leaves_out_at_random_is_not_taken_for_dead() -> None:
    model, x = blocks.build(LeftOut)
    for seed in range(4):
        torch.manual_seed(seed)
        assert plan(model, InsertLayers("blocks", count=1), example_input=x).apply().largest_gap <= 1e-10


def test_only_the_new_layers_train_if_asked_for() -> None:
    model, x = blocks.build(blocks.PreNorm)
    (model(x) - 1).square().mean().backward()
    receipt = grow(model, InsertLayers("blocks", after=(0,), train="new"), example_input=x)
    assert all(p.requires_grad == name.startswith("blocks.1.") for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    receipt.freeze_old(model)
    assert sum(p.requires_grad for p in model.parameters()) == len(receipt.tensors)
    grow(model, InsertLayers("blocks", after=(0,)), example_input=x)
    with pytest.raises(SurgeryError, match="last growth"):
        receipt.freeze_old(model)
    widened = grow(model, WidenAll(2, check=False), example_input=x)
    with pytest.raises(SurgeryError, match="adds tensors"):
        widened.freeze_old(model)


def test_new_layers_of_a_frozen_model_train() -> None:
    model, x = blocks.build(blocks.PreNorm)
    model.requires_grad_(False)
    grow(model, InsertLayers("blocks", after=(0,), train="new"), example_input=x)
    assert all(p.requires_grad == name.startswith("blocks.1.") for name, p in model.named_parameters())


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_an_error_at_any_step_leaves_everything_as_it_was(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = blocks.build(blocks.PreNorm)
    optimizer = torch.optim.Adam(model.parameters())
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    before, numbers = copy.deepcopy(model.state_dict()), [vars(b).copy() for b in model.blocks]
    state = copy.deepcopy(optimizer.state_dict())
    planned = plan(model, InsertLayers("blocks", after=(0,), train="new"), example_input=x, optimizer=optimizer)
    seen: list[str] = []

    def fail(_self: Transaction, name: str) -> None:
        seen.append(name)
        if len(seen) == step + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, "before_step", fail)
    with pytest.raises(KeyboardInterrupt):
        planned.apply()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [vars(b).copy() for b in model.blocks] == numbers
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    assert len(optimizer.state) == len(state["state"])
    assert growth_log(model) == []


def test_a_down_sampling_block_is_left_out_and_the_next_one_copied() -> None:
    from tests.surgery.models import ResNet

    torch.manual_seed(0)
    model, x = ResNet().double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(SurgeryError, match=r"down-samples.*pick a stack"):
        plan(model, InsertLayers("layer2", after=(0,)), example_input=x)
    before = _output(model, x)
    receipt = grow(model, InsertLayers("layer1", count=2), example_input=x)
    assert torch.equal(_output(model, x), before)
    assert len(model.layer1) == 4
    zero = [c.name for c in receipt.tensors if not bool(model.state_dict()[c.name].any())]
    assert {"layer1.1.bn2.weight", "layer1.1.bn2.bias"} <= set(zero)
    assert "layer1.1.conv2.weight" not in zero


@pytest.mark.parametrize("norm_first", [True, False])
def test_stock_encoders_work_with_padding_masks_or_say_what_stands_in_the_way(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    growth = Deepen("layers.1", like="layers.1")
    if not norm_first:
        with pytest.raises(SurgeryError, match="post-norm"):
            grow(model, growth, example_input=x)
        return
    with torch.no_grad():
        before = model(x, src_key_padding_mask=mask)
    receipt = grow(model, growth, example_input=x)
    assert type(model.layers[2]) is nn.TransformerEncoderLayer
    assert {"left padding", "right padding"} <= set(receipt.gaps)
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=mask), before)
    assert model.num_layers == 3


class _Pairs(nn.Module):
    """Runs the parts of its layers one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]) for _ in range(2))

    def forward(self, x: Any) -> Any:
        for first, second in self.layers:
            x = x + second(torch.tanh(first(x)))
        return x


def test_layers_without_a_forward_are_refused_with_the_way_out() -> None:
    with pytest.raises(SurgeryError, match="no forward of its own; Deepen grafts"):
        grow(_Pairs(), InsertLayers("layers", count=1), example_input=torch.randn(2, 4))


def test_what_a_layer_shares_with_the_model_stays_shared() -> None:
    model, x = blocks.build(blocks.PreNorm)
    shared = model.stem.weight
    for block in model.blocks:
        block.table = shared
    hooked: list[int] = []
    model.blocks[0].register_forward_hook(lambda *_: hooked.append(1))
    receipt = grow(model, InsertLayers("blocks", after=(0,)), example_input=x)
    assert model.blocks[1].table is shared
    assert not any(change.name.endswith("table") for change in receipt.tensors)
    hooked.clear()
    _output(model, x)
    assert hooked == [1]


def test_a_grown_model_is_saved_and_loaded_by_its_log(tmp_path: Path) -> None:
    model, x = blocks.build(blocks.PreNorm)
    grow(model, InsertLayers("blocks", after=(0, 1)), example_input=x)
    grow(model, Deepen("blocks.3", like="blocks.0"), example_input=x)
    save_model(model, tmp_path)
    again = load_model(lambda: blocks.Stack(blocks.PreNorm).double(), tmp_path).eval()
    assert list(again.state_dict()) == list(model.state_dict())
    assert torch.equal(_output(again, x), _output(model, x))
    assert [block.layer_idx for block in again.blocks] == list(range(6))
    assert again.n_layers == 6
    other = blocks.Stack(blocks.PreNorm)
    replay(other, growth_log(model))
    assert len(other.blocks) == 6


@pytest.mark.parametrize(
    "entry",
    [
        ["blocks.1", "training", False],
        ["blocks.1", "forward", "x"],
        ["blocks.1", "_parameters", []],
        ["blocks.1", "layer_idx", "x"],
        ["blocks.1", "layer_idx", [1]],
        ["blocks.1", "missing", True],
        ["", "n_layers", None],
    ],
    ids=lambda entry: f"{entry[1]} {entry[2]}",
)
def test_a_log_of_new_layers_sets_plain_data_in_place_of_plain_data(entry: list[Any]) -> None:
    """A log may come from a stranger."""
    model, x = blocks.build(blocks.PreNorm)
    grow(model, InsertLayers("blocks", after=(0,)), example_input=x)
    log = json.loads(json.dumps(growth_log(model)))
    log[0]["changes"]["attributes"].append(entry)
    other = blocks.Stack(blocks.PreNorm)
    with pytest.raises(SurgeryError, match="growth log: expected plain data"):
        replay(other, log)
    assert len(other.blocks) == len(model.blocks) - 1


def test_a_schedule_inserts_layers_in_training() -> None:
    model, x = blocks.build(blocks.PreNorm)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = GrowthSchedule({"50%": InsertLayers("blocks", count=1)}, total_steps=4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        schedule.step(model, example_input=x, optimizer=optimizer)
    assert len(schedule.receipts) == 1
    assert len(model.blocks) == 4
    assert losses == sorted(losses, reverse=True)


def test_a_number_that_equals_the_depth_by_chance_is_left_alone() -> None:
    model, x = blocks.build(blocks.PreNorm)
    model.block_size = model.blocks[0].heads = 3
    grow(model, InsertLayers("blocks", count=1), example_input=x)
    assert model.block_size == model.blocks[0].heads == 3
    assert model.n_layers == 4


def test_a_mirror_grows_along() -> None:
    model, x = blocks.build(blocks.PreNorm)
    average = copy.deepcopy(model)
    grow(model, InsertLayers("blocks", after=(0,)), example_input=x, mirrors=[average])
    assert torch.equal(_output(average, x), _output(model, x))
    assert [block.layer_idx for block in average.blocks] == [0, 1, 2, 3]
