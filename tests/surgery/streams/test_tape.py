"""The operations of a run, and what of them changes with the width."""

import math

import pytest
import torch
from torch import Tensor, nn

from graftwork.surgery._calls import call_of
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery.streams._tape import Tape, UnevenError, powers


class _Numbers(nn.Module):
    """Multiplies by numbers of several kinds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.width = nn.Linear(3, width), width
        self.scale = nn.Buffer(torch.tensor(1 / width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) * math.sqrt(self.width) * self.scale.to(x.dtype) + 0.5
        return (y / (self.width + 1)).sum(-1) * y.mean()


def _tape(model: nn.Module) -> Tape:
    call = call_of(torch.ones(2, 3))
    return Tape.of(ChannelGraph.of(model, call, training=False), call)


def test_numbers_that_change_by_a_power_of_the_ratio_are_found() -> None:
    before, after = _tape(_Numbers(4)), _tape(_Numbers(9))
    power = powers(before, after, math.sqrt(9 / 4))
    at = {node.name: [] for node in before.nodes}
    for number, node in enumerate(before.nodes):
        at[node.name].append(number)
    assert [power(number, "other") for number in at["mul"]] == [1.0, -2.0, 0.0]  # the last one hangs on data
    assert power(at["add"][0], "other") == 0.0
    with pytest.raises(UnevenError, match="takes the number 5, and 10 when the model is wider"):
        power(at["div"][0], "other")


def test_writing_into_a_view_gives_everything_that_shows_it_a_new_number() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            whole = torch.zeros(2, 3)
            whole[0].add_(x[0])
            return whole * 2

    tape = _tape(Writes())
    (written,) = [node for node in tape.nodes if node.name == "add_"]
    (last,) = [node for node in tape.nodes if node.name == "mul"]
    assert last.inputs[0] in [after for _, after in written.written]
