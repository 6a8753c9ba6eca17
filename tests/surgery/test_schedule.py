"""A schedule grows at its moments, tells at the start what will be refused, and resumes where it was."""

import copy
import json
import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn, optim

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen, WidenAll, grow
from graftwork.surgery._plateau import LossWindows

from .models import CASES, batch_of, scrambled

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def _run(schedule: GrowthSchedule, model: nn.Module, losses: list[float]) -> list[int]:
    """Tell a schedule losses, one a step; returns the steps of them that made a growth."""
    grown_at = []
    for step, loss in enumerate(losses, start=1):
        schedule.observe(loss)
        due = schedule.due
        made = schedule.step(model, example_input=X)
        refused = [growth for growth, _ in schedule.skipped]
        assert [receipt.growth for receipt in made] == [growth for growth in due if growth not in refused]
        grown_at += [step] * len(made)
    return grown_at


def test_a_schedule_grows_at_its_moments_and_only_then() -> None:
    case = CASES[1]
    model, x = scrambled(case), batch_of(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = GrowthSchedule(
        {"50%": WidenAll(1.5), 2: Deepen("features.0"), "70%": Widen("classifier.0", factor=1.2)}, total_steps=10
    )
    assert schedule.moments == [2, 5, 7]
    grown_at = []
    for step in range(1, 11):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        if schedule.step(model, example_input=x, optimizer=optimizer):
            grown_at.append(step)
    assert grown_at == [2, 5, 7]
    assert [receipt.kind for receipt in schedule.receipts] == ["deepen", "widen-all", "widen"]
    resumed = GrowthSchedule({2: WidenAll(2), 9: WidenAll(2)})
    resumed.load_state_dict({"steps": 5})
    assert resumed.moments == [9]


@pytest.mark.parametrize("moment", ["half", "150%", -1, True, "x%"])
def test_moments_that_make_no_sense_are_refused(moment: str | int) -> None:
    with pytest.raises(ConfigError, match="moment"):
        GrowthSchedule({moment: WidenAll(2)}, total_steps=10)


def test_a_percentage_needs_the_length_of_the_training() -> None:
    with pytest.raises(ConfigError, match="total_steps"):
        GrowthSchedule({"50%": WidenAll(2)})


def test_several_growths_at_one_moment_are_made_in_their_order() -> None:
    model = _model()
    schedule = GrowthSchedule({2: [Widen("0", extra=2), Deepen("0")], "20%": Widen("2", extra=2)}, total_steps=10)
    assert schedule.moments == [2]
    assert _run(schedule, model, [1.0] * 4) == [2, 2, 2]
    assert [receipt.growth for receipt in schedule.receipts] == [
        Widen("0", extra=2),
        Deepen("0"),
        Widen("2", extra=2),
    ]


def test_a_refused_growth_stops_the_training_or_is_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    growths: dict[Any, Any] = {1: [Widen("0", extra=2), Widen("nowhere", extra=2), Widen("2", extra=2)]}
    model, schedule = _model(), GrowthSchedule(growths)
    with pytest.raises(SurgeryError, match="nowhere"):
        schedule.step(model, example_input=X)
    assert [receipt.growth for receipt in schedule.receipts] == [Widen("0", extra=2)]
    assert schedule.due == tuple(growths[1][1:])
    model, schedule = _model(), GrowthSchedule(growths, on_refused="skip")
    assert [receipt.site for receipt in schedule.step(model, example_input=X)] == ["0", "2"]
    (growth, error), *others = schedule.skipped
    assert (growth, others) == (Widen("nowhere", extra=2), [])
    assert str(error) in caplog.text
    assert schedule.made == 2
    assert not schedule.due
    with pytest.raises(ConfigError, match='expected "raise" or "skip", got \'ignore\''):
        GrowthSchedule(growths, on_refused="ignore")  # type: ignore[arg-type]


FALLING = [10.0 - step for step in range(8)]  # means of windows of four: 8.5, 4.5


def test_a_plateau_comes_where_the_mean_loss_of_a_window_is_no_lower_than_that_of_the_one_before() -> None:
    growths = {Plateau(4): Widen("0", extra=2), Plateau(4, threshold=0.5): Widen("2", extra=2)}
    noisy = [4.0, 5.0, 4.0, 4.9]  # mean 4.475, not lower by a hundredth
    assert _run(GrowthSchedule(growths), _model(), FALLING) == []
    schedule = GrowthSchedule(growths)
    assert _run(schedule, _model(), [*FALLING, *noisy, *[8.0] * 4, *[3.9] * 4]) == [12]
    assert schedule.plateaus == list(growths)[1:]
    slower = [8.0] * 4 + [4.1] * 4  # by less than a half: the second plateau, counted from the first growth on
    assert _run(GrowthSchedule(growths), _model(), [*FALLING, *noisy, *slower]) == [12, 20]
    for still, threshold in ((0.0, 0.01), (3.0, 0.0)):  # nothing is left to fall
        schedule = GrowthSchedule({Plateau(2, threshold): Widen("0", extra=2)})
        assert _run(schedule, _model(), [still] * 4) == [4]


def test_losses_that_are_not_finite_are_passed_over_and_lost_ones_are_an_error() -> None:
    losses = [4.0, float("nan"), 4.0, float("inf")]
    assert _run(GrowthSchedule({Plateau(2): Widen("0", extra=2)}), _model(), losses) == [4]
    schedule = GrowthSchedule({Plateau(2): Widen("0", extra=2)})
    schedule.step(_model(), example_input=X)
    with pytest.raises(ConfigError, match=r"Plateau\(window=2.*got none in 2 steps; call the schedule's observe"):
        schedule.step(_model(), example_input=X)


def test_a_loss_on_a_device_is_read_at_the_end_of_its_window_only() -> None:
    """A tensor of the meta device can't be read; one that the next step writes over is told as it was."""
    windows, plateau, loss = LossWindows(), Plateau(2), torch.tensor(3.0, requires_grad=True)
    windows.add(loss)
    with torch.no_grad():
        loss.zero_()
    windows.step(plateau)
    assert windows.state_dict()["total"] == 3.0
    windows.add(torch.empty((), device="meta"))
    assert not windows.ends(plateau)
    with pytest.raises(RuntimeError, match="meta"):
        windows.step(plateau)


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 2.5}, {"window": 5, "threshold": 1}])
def test_a_plateau_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a"):
        Plateau(**options)


def test_a_schedule_goes_on_from_its_state_as_if_it_had_not_been_interrupted() -> None:
    losses = [*FALLING, *[5.0] * 12]

    def make() -> GrowthSchedule:
        growths = {3: [Deepen("0")] * 2, Plateau(3): Widen("0", extra=2), Plateau(2): Widen("nowhere", extra=2)}
        return GrowthSchedule({**growths, "80%": Widen("2", extra=2)}, total_steps=20, on_refused="skip")

    straight = make()
    steps = _run(straight, _model(), losses)
    assert len(steps) == 4
    for stop in (2, 7, 15):
        first, second, model = make(), make(), _model()
        before = _run(first, model, losses[:stop])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        after = _run(second, model, losses[stop:])
        assert [*before, *(stop + step for step in after)] == steps
        assert second.state_dict() == straight.state_dict()


def test_the_state_of_another_schedule_is_refused() -> None:
    state = GrowthSchedule({3: Deepen("0")}).state_dict()
    with pytest.raises(ConfigError, match="a schedule of 2 growths, got one of 1"):
        GrowthSchedule({3: [Deepen("0"), Deepen("2")]}).load_state_dict(state)
    with pytest.raises(ConfigError, match="tell no plateau"):
        GrowthSchedule({Plateau(3): Deepen("0")}).load_state_dict({"steps": 5})


def test_a_check_makes_all_growths_on_a_copy_and_changes_nothing() -> None:
    model, mirror = _model(), _model()
    optimizer = optim.AdamW(model.parameters())
    rates = optim.lr_scheduler.StepLR(optimizer, 3)
    optimizer.step()
    rates.step()
    generator = torch.Generator().manual_seed(5)
    state, held = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    random, own = torch.get_rng_state(), generator.get_state()
    growths = {3: [Widen("0", extra=2), Deepen("2")], Plateau(5): WidenAll(1.5)}
    schedule = GrowthSchedule(growths)
    along: dict[str, Any] = {"optimizer": optimizer, "mirrors": [mirror], "generator": generator}
    receipts = schedule.check(model, example_input=X, **along)
    assert [receipt.kind for receipt in receipts] == ["widen", "deepen", "widen-all"]
    assert all(receipt.optimizer_state for receipt in receipts if receipt.kind != "deepen")
    assert str(optimizer.state_dict()) == str(held)
    for now, before in ((model.state_dict(), state), (mirror.state_dict(), _model().state_dict())):
        assert list(now) == list(before)
        assert all(torch.equal(now[name], before[name]) for name in now)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(generator.get_state(), own)
    assert schedule.receipts == []
    assert schedule.state_dict() == GrowthSchedule(growths).state_dict()
    real = grow(model, Widen("0", extra=2), example_input=X, **along)
    assert str(real.tensors) == str(receipts[0].tensors)
    assert real.gaps == receipts[0].gaps  # so the copy had the same weights, after its step


class _Blocks(optim.SGD):
    """Keeps what can't be carried, for large parameters only, as optimizers of 8 bits do."""

    def __init__(self, parameters: Any, least: int) -> None:
        super().__init__(parameters)
        self.least = least

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in [parameter for parameter in group["params"] if parameter.numel() >= self.least]:
                self.state[parameter]["absmax"] = torch.ones(3)


def test_a_check_tells_at_the_start_what_will_be_refused_and_when(caplog: pytest.LogCaptureFixture) -> None:
    model = _model()
    optimizer = optim.AdamW(model.parameters())
    growths: dict[Any, Any] = {1: Widen("0", extra=2), "50%": Widen("nowhere", extra=2), 9: Deepen("2")}
    with pytest.raises(SurgeryError, match=r"the growth at '50%', Widen\('nowhere', extra=2\), will be refused: site"):
        GrowthSchedule(growths, total_steps=10).check(model, example_input=X, optimizer=optimizer)
    with caplog.at_level(logging.WARNING):
        skipping = GrowthSchedule(growths, total_steps=10, on_refused="skip")
        assert [r.kind for r in skipping.check(model, example_input=X, optimizer=optimizer)] == ["widen", "deepen"]
    assert "it will be skipped" in caplog.text
    twice = GrowthSchedule({1: Widen("0", extra=2), 2: Widen("0", extra=2)})
    with pytest.raises(SurgeryError, match=r"at 2, .* will be refused: optimizer state 'absmax'"):
        twice.check(model, example_input=X, optimizer=_Blocks(model.parameters(), 48))


class _Locked(nn.Linear):
    def __deepcopy__(self, memo: object) -> Any:
        raise RuntimeError("held elsewhere")


def test_a_check_of_what_can_not_be_copied_or_carried_says_so() -> None:
    with pytest.raises(SurgeryError, match=r"copy\.deepcopy can copy.*held elsewhere"):
        GrowthSchedule({1: Deepen("")}).check(_Locked(4, 4), example_input=X)
    model = _model()
    with pytest.raises(SurgeryError, match="curvature pairs"):
        GrowthSchedule({1: Widen("0", extra=2)}).check(
            model, example_input=X, optimizer=optim.LBFGS(model.parameters())
        )


def _spent(moments: list[int], ratios: list[float]) -> list[float]:
    """FLOPs at each moment, in steps of the first size."""
    spent, cost, before = [], 1.0, 0
    total = 0.0
    for moment, ratio in zip(moments, ratios, strict=True):
        total += (moment - before) * cost
        spent.append(total)
        cost, before = cost * ratio, moment
    return spent


@pytest.mark.parametrize(("ratio", "exponent"), [(2.0, 0.5), (1.5, 0.4), (3.0, 1.0)])
def test_an_anytime_schedule_grows_whenever_the_best_size_for_what_was_spent_has_grown_as_much(
    ratio: float, exponent: float
) -> None:
    growths = [[WidenAll(2), Deepen("0")], WidenAll(2), Deepen("0"), WidenAll(1.5)]
    schedule = GrowthSchedule.anytime(growths, first=70_000, step_ratio=ratio, exponent=exponent)
    assert [due.growth for due in schedule._all] == [WidenAll(2), Deepen("0"), *growths[1:]]
    assert schedule.moments[0] == 70_000
    spent = _spent(schedule.moments, [ratio] * 4)
    assert [after / before for before, after in pairwise(spent)] == pytest.approx([ratio ** (1 / exponent)] * 3, 1e-3)


def test_growths_of_different_size_come_halfway_between_the_budgets_at_which_sizes_are_best() -> None:
    ratios = [2.0, 1.2, 3.0]
    moments = GrowthSchedule.anytime([WidenAll(2)] * 3, first=10_000, step_ratio=ratios).moments
    spent = _spent(moments, ratios)
    assert [after / before for before, after in pairwise(spent)] == pytest.approx([2.0 * 1.2, 1.2 * 3.0], 1e-3)
    crowded = GrowthSchedule.anytime([WidenAll(2)] * 3, first=1, step_ratio=1.01).moments
    assert crowded == [1, 2, 3]
    assert GrowthSchedule.anytime([], first=5, step_ratio=2.0).moments == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": 0}, "first: expected a number of steps above 0, got 0"),
        ({"step_ratio": 1.0}, "step_ratio: expected numbers above 1"),
        ({"step_ratio": [2.0]}, "step_ratio: expected one number, or one for each of 2 moments, got 1"),
        ({"exponent": 0.0}, "exponent: expected a number above 0 and at most 1"),
    ],
)
def test_anytime_schedules_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        GrowthSchedule.anytime([WidenAll(2)] * 2, **{"first": 10, "step_ratio": 2.0, **options})
