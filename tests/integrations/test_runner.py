"""The runner makes every growth of a schedule once, whatever steps a framework counts."""

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.integrations import ScheduleRunner
from graftwork.surgery import GrowthSchedule, Plateau, Widen, growth_log, replay

X = torch.randn(4, 3)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def _runner(**options: bool) -> ScheduleRunner:
    schedule = GrowthSchedule({3: Widen("0", factor=1.5), 5: Widen("0", factor=1.5)})
    return ScheduleRunner(schedule, example_input=X, **options)


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


def test_what_will_be_refused_is_told_before_the_first_step() -> None:
    schedule = GrowthSchedule({3: Widen("0", factor=1.5), 5: Widen("nowhere", extra=2)})
    model = _model()
    with pytest.raises(SurgeryError, match=r"at 5, .* will be refused.*nowhere"):
        ScheduleRunner(schedule, example_input=X).resume(model, 0)
    unchecked = ScheduleRunner(schedule, example_input=X, check=False)
    unchecked.resume(model, 0)
    assert model[0].out_features == 4
    with pytest.raises(SurgeryError, match="nowhere"):
        unchecked.advance(model, 5, optimizers=[])


def test_growths_that_were_skipped_are_not_missed_when_training_resumes() -> None:
    def make() -> ScheduleRunner:
        growths = {3: Widen("0", factor=1.5), 4: Widen("nowhere", extra=2), Plateau(2): Widen("0", factor=1.5)}
        return ScheduleRunner(GrowthSchedule(growths, on_refused="skip"), example_input=X)

    model, runner, later = _model(), make(), make()
    runner.resume(model, 0)
    for step in range(1, 6):
        runner.schedule.observe(float(9 - step))
        runner.advance(model, step, optimizers=[])
    state = runner.schedule.state_dict()
    with pytest.raises(ConfigError, match="tell no plateau"):
        later.resume(model, 5)
    with pytest.raises(ConfigError, match=r"with the 1 growths .*got one with 0"):
        later.resume(_model(), 5, state=state)
    later.resume(model, 5, state=state)
    made = []
    for step in range(6, 9):
        later.schedule.observe(4.0)
        made += [step] * len(later.advance(model, step, optimizers=[]))
    assert made == [8]  # a window of 4 and 4 after one of 5 and 4 falls; the one after it does not
