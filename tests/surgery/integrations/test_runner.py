"""The runner makes every growth of a schedule once, whatever steps a framework counts."""

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError
from graftwork.surgery import GrowthSchedule, Widen, growth_log, replay
from graftwork.surgery.integrations import ScheduleRunner

X = torch.randn(4, 3)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def _runner() -> ScheduleRunner:
    return ScheduleRunner(GrowthSchedule({3: Widen("0", factor=1.5), 5: Widen("0", factor=1.5)}), example_input=X)


@pytest.mark.parametrize("counts", [[1, 2, 3, 4, 5, 6], [2, 2, 4, 8], [9]])
def test_every_growth_is_made_once_also_where_steps_are_skipped(counts: list[int]) -> None:
    model, runner = _model(), _runner()
    optimizer = torch.optim.Adam(model.parameters())
    made = [len(runner.advance(model, steps, optimizers=[optimizer])) for steps in counts]
    assert sum(made) == 2
    assert model[0].out_features == 10
    assert made == [
        sum(before < moment <= now for moment in (3, 5)) for before, now in zip([0, *counts[:-1]], counts, strict=True)
    ]


def test_a_resume_makes_only_what_is_still_to_come() -> None:
    model, runner = _model(), _runner()
    runner.advance(model, 4, optimizers=[])
    again, later = _model(), _runner()
    replay(again, growth_log(model))
    later.resume(again, 4)
    assert [receipt.site for receipt in later.advance(again, 5, optimizers=[])] == ["0"]
    assert again[0].out_features == 10


def test_a_module_without_its_past_growths_is_refused() -> None:
    with pytest.raises(ConfigError, match="replay"):
        _runner().resume(_model(), 4)
    _runner().resume(_model(), 0)
    with pytest.raises(ConfigError, match="GrowthSchedule"):
        ScheduleRunner({"50%": Widen("0", factor=2)}, example_input=X)
