"""Widening all sites leaves out those that can't grow, and says why."""

import torch
from torch import Tensor, nn

from graftwork.surgery import WidenAll, grow

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class _Branches(nn.Module):
    """Two branches that may grow by a half each, but not both: the forward changes beyond a joint width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)
        self.c, self.d = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        return x + self.c(a) + self.d(b) + float(a.size(-1) + b.size(-1) > 20)


class _Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).relu()
        return x + self.down(hidden / hidden.size(-1))


def test_what_can_not_grow_alone_or_beside_the_rest_is_left_out_with_the_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), _Mean(), _Branches(), _Mean())
    before = model(X)
    receipt = grow(model, WidenAll(1.5), example_input=X)
    torch.testing.assert_close(model(X), before)
    assert receipt.site == "0, 4.a"
    reasons = {note.split(":")[0]: note for note in receipt.notes}
    assert set(reasons) == {"left out 3.up", "left out 4.b", "left out 5.up"}
    assert all("depends on the width" in note for note in reasons.values())
