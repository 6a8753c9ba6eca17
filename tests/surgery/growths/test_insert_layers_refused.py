"""Layers that can't be inserted, or not exactly: refused by name, before or after a try, with what to do instead."""

from typing import Any

import pytest
import torch

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import InsertLayers, grow, plan
from tests.surgery.layers import blocks


def test_post_norm_layers_are_refused_and_offered_with_a_stated_gap() -> None:
    model, x = blocks.build(blocks.PostNorm)
    with pytest.raises(SurgeryError, match=r"post-norm.*approximate=True"):
        plan(model, InsertLayers("blocks", after=(0,)), example_input=x)
    receipt = grow(model, InsertLayers("blocks", after=(0,), approximate=True), example_input=x)
    assert receipt.approximations
    assert 0 < receipt.largest_gap < 10
    assert "approximate, not rounding" in str(receipt)


def test_plain_copies_need_approximate_and_state_their_gap() -> None:
    with pytest.raises(SurgeryError, match="approximate=True"):
        InsertLayers("blocks", after=(0,), init="copy")
    model, x = blocks.build(blocks.Constant)
    with pytest.raises(SurgeryError, match="init='copy'"):
        plan(model, InsertLayers("blocks", after=(0,)), example_input=x)
    receipt = grow(model, InsertLayers("blocks", after=(0,), init="copy", approximate=True), example_input=x)
    assert receipt.largest_gap > 1e-3
    assert torch.equal(model.blocks[0].proj.weight, model.blocks[1].proj.weight)


class _Named(blocks.Parallel):
    """Reads a number of its place that no rule continues."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.key = (7, 2, 11)[place]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.key
        return super().forward(x)


def test_a_number_of_the_place_that_can_not_be_continued_is_refused_by_name() -> None:
    model, x = blocks.build(_Named)
    with pytest.raises(SurgeryError, match=r"reads 'key'.*\[7, 2, 11\]"):
        plan(model, InsertLayers("blocks", after=(0,)), example_input=x)
    assert all(type(block) is _Named for block in model.blocks)


class _Counting(blocks.Stack):
    """Counts its layers itself, under a name that says nothing."""

    def __init__(self, block: Any, depth: int = 3) -> None:
        super().__init__(block, depth)
        self.rounds = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for number in range(self.rounds):
            x = self.blocks[number](x)
        return self.head(x)  # type: ignore[no-any-return]


class _ByPlace(blocks.Parallel):
    """Computes with its place."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.one(self.norm(x)) / (1 + self.place)


def test_a_forward_that_leaves_layers_out_or_computes_with_its_place_is_refused_and_put_back() -> None:
    torch.manual_seed(0)
    model, x = _Counting(blocks.Parallel).double().eval(), torch.randn(2, 5, blocks.WIDTH, dtype=torch.float64)
    with pytest.raises(SurgeryError, match=r"never run|same outputs"):
        grow(model, InsertLayers("blocks", after=(0,)), example_input=x)
    assert len(model.blocks) == 3
    other, x = blocks.build(_ByPlace)
    with pytest.raises(NotPreservedError, match=r"computes with \['place'\].*after=\[-1\]"):
        grow(other, InsertLayers("blocks", after=(0,)), example_input=x)
    assert [block.place for block in other.blocks] == [0, 1, 2]
    grow(other, InsertLayers("blocks", after=-1), example_input=x)
    assert [block.place for block in other.blocks] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "one of after, every and count"),
        ({"after": (0,), "count": 2}, "one of after, every and count"),
        ({"after": ()}, "positions of entries"),
        ({"count": 0}, "a number above 0"),
        ({"count": 1, "init": "zero"}, "did you mean 'zero-out'"),
        ({"count": 1, "train": "none"}, r"one of \['all', 'new'\]"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SurgeryError, match=words):
        InsertLayers("blocks", **options)


def test_a_stack_or_a_place_that_is_not_there_is_named() -> None:
    model, x = blocks.build(blocks.PreNorm)
    with pytest.raises(SurgeryError, match=r"'layers', which the model has not; pick one of \['blocks'\]"):
        plan(model, InsertLayers("layers", count=1), example_input=x)
    with pytest.raises(SurgeryError, match=r"from -3 to 2 in 'blocks', got 7"):
        plan(model, InsertLayers("blocks", after=(7,)), example_input=x)
    assert InsertLayers.from_dict(InsertLayers("blocks", after=[1, 2]).to_dict()) == InsertLayers(
        "blocks", after=(1, 2)
    )
