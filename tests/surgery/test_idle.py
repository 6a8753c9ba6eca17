"""What only another method of a model uses is named where a width grows that it may read."""

import pytest
import torch
from torch import Tensor, nn

from graftwork.surgery import Widen, WidenStream, grow
from tests.surgery import streams_models

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TwoHeads(nn.Module):
    """Its second head, and a gain in front of it, are for `embed` alone."""

    def __init__(self, *, other: int = 8) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(other, 3)
        self.gain = nn.Parameter(torch.ones(other))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))

    def embed(self, x: Tensor) -> Tensor:
        return self.aux(torch.relu(self.body(x)) * self.gain)


class Both(nn.Module):
    def __init__(self, model: TwoHeads) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(x), self.model.embed(x)


@pytest.mark.parametrize("check", [True, "fast", False])
def test_a_head_that_only_another_method_uses_is_named(check: bool | str) -> None:
    receipt = grow(TwoHeads().double(), Widen("body", extra=4, check=check), example_input=X)
    (note,) = [note for note in receipt.notes if note.startswith("left as before")]
    assert "'gain', 'aux.weight', with 8 entries" in note
    assert note in str(receipt)


def test_a_module_whose_forward_runs_both_grows_both() -> None:
    model = TwoHeads().double()
    before = model(X), model.embed(X)
    receipt = grow(Both(model), Widen("model.body", extra=4), example_input=X)
    assert not receipt.notes
    assert model.aux.in_features == len(model.gain) == 12
    torch.testing.assert_close((model(X), model.embed(X)), before, rtol=0, atol=1e-12)


def test_parameters_of_another_size_are_no_concern() -> None:
    assert not grow(TwoHeads(other=7).double(), Widen("body", extra=4), example_input=X).notes


def test_a_second_head_of_a_stream_is_named() -> None:
    model, x = streams_models.build(streams_models.Shape("layer"))
    model.register_module("second", nn.Linear(8, 3).double())
    (note,) = grow(model, WidenStream(1.5), example_input=x).notes
    assert "'second.weight', with 8 entries" in note
