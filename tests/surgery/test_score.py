"""Scores of sites are what they say: how fast the loss falls, per unit of rate, when a graft's zeros begin to move."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery import SiteScores, score_sites
from graftwork.surgery._calls import call_of
from graftwork.surgery._score import _deepened, _mean_loss, _scored, _widened


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 1)
        self.hidden, self.head = nn.Linear(6 * 4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        x = x + self.inner(x)
        return self.head(self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1)).tanh())  # type: ignore[no-any-return]


def _setup() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = Net().double()
    batches = [(torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.randint(4, (5,))) for _ in range(2)]
    return model, batches


@pytest.fixture(scope="module")
def scores() -> SiteScores:
    return score_sites(*_setup(), F.cross_entropy)


def test_scoring_leaves_the_model_as_it_was() -> None:
    model, batches = _setup()
    before, training = copy.deepcopy(model.state_dict()), model.training
    score_sites(model, batches, F.cross_entropy, only="hidden")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_every_site_of_both_kinds_is_scored_best_first(scores: SiteScores) -> None:
    kinds = {(score.kind, score.site) for score in scores}
    assert {("widen", "conv"), ("widen", "hidden"), ("deepen", "conv"), ("deepen", "hidden")} <= kinds
    assert all(score.gain > 0 and score.parameters > 0 for score in scores)
    assert [score.per_parameter for score in scores] == sorted((s.per_parameter for s in scores), reverse=True)
    text = str(scores)
    assert "gain/param" in text
    assert f"{len(scores) + 2}" == str(len(text.splitlines()))


@pytest.mark.parametrize("graft", [_widened, _deepened])
def test_a_gain_is_the_slope_of_the_loss_along_its_gradient(graft: Any) -> None:
    model, batches = _setup()
    pairs = [(call_of(x), y) for x, y in batches]
    grafts = graft(copy.deepcopy(model), pairs[0][0], 1.25, None, None)
    start = _mean_loss(grafts.model, pairs, F.cross_entropy)
    assert start == pytest.approx(_mean_loss(model, pairs, F.cross_entropy), rel=1e-12)
    found = _scored("kind", grafts, pairs, F.cross_entropy)
    named = dict(grafts.model.named_parameters())
    assert len(found) >= 2
    for score in found:
        step = 1e-5
        moved = copy.deepcopy(grafts.model)
        own = dict(moved.named_parameters())
        with torch.no_grad():
            for name, mask in grafts.zeros[score.site].items():
                gradient = named[name].grad
                own[name].sub_(step * (gradient if mask is None else gradient * mask))
        slope = (start - _mean_loss(moved, pairs, F.cross_entropy)) / step
        assert slope == pytest.approx(score.gain, rel=1e-2)


def test_costs_are_those_of_the_graft_alone(scores: SiteScores) -> None:
    hidden = next(s for s in scores if (s.kind, s.site) == ("widen", "hidden"))
    assert hidden.parameters == 2 * 24 + 2 + 4 * 2  # two rows, their biases, two columns
    assert hidden.flops == 2 * (2 * 24 + 4 * 2)
    conv = next(s for s in scores if (s.kind, s.site) == ("deepen", "conv"))
    assert conv.flops is not None
    assert conv.flops % (2 * 64) == 0


def test_a_site_that_nothing_reads_well_scores_lower() -> None:
    """With a head that ignores its input, wider hidden layers can still be read: their gain is not zero; deeper is."""
    model, batches = _setup()
    with torch.no_grad():
        model.head.weight.zero_()
    found = {(s.kind, s.site): s.gain for s in score_sites(model, batches, F.cross_entropy)}
    assert found["widen", "hidden"] > 0
    assert found["widen", "conv"] == 0
    assert found["deepen", "hidden"] == 0


def test_what_is_no_batch_or_no_loss_is_refused() -> None:
    model, batches = _setup()
    with pytest.raises(SurgeryError, match="got none"):
        score_sites(model, [], F.cross_entropy)
    with pytest.raises(SurgeryError, match="one number"):
        score_sites(model, batches, lambda output, target: output)
