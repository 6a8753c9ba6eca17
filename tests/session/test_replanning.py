"""A budget of time is kept by planning again, by simulated clocks; a resume replays the plans that are stored."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import RunError
from graftwork.evolution import Generation, Plan
from graftwork.machine import Speed
from graftwork.networks.genome import seed_genome, training_flops
from graftwork.session import SearchConfig, Session, SilentListener, _looks
from graftwork.session._budget import parse_budget
from graftwork.session._replanning import Replanner, plan_again
from graftwork.session._timing import Timing, effort_of
from tests.session.test_session import predictions, records, result, tiny

WORK = 10**6


@given(
    st.integers(0, 4), st.integers(1, WORK), st.integers(0, 2 * WORK), st.integers(1, WORK // 5), st.floats(0.1, 0.9)
)
def test_what_is_left_is_divided_as_before_and_every_later_round_has_work(
    generations: int, spent: int, total: int, round_flops: int, fraction: float
) -> None:
    plan = Plan(generations, flops=WORK, initial_fraction=fraction)
    generation = next(n for n in range(generations + 1) if spent <= plan.flops_until(n) or n == generations)
    again = plan_again(plan, generation=generation, spent=spent, total=total, round_flops=round_flops)
    if again is None:
        assert abs(max(total, spent) - WORK) <= 0.02 * WORK
        return
    assert again.flops == max(total, spent)
    assert generation <= again.num_generations <= generations
    assert again.ends is not None
    later = again.ends[generation:]
    assert all(after - before >= round_flops for before, after in pairwise(later))
    if again.num_generations == generations and spent < plan.flops_until(generation):
        scale = (again.flops - spent) / (WORK - spent)
        wanted = [spent + scale * (plan.flops_until(n) - spent) for n in range(generation, generations + 1)]
        assert list(later) == pytest.approx(wanted, abs=2)


def simulated(slowness: Callable[[float], float], seconds: float, *, plan: Plan, speed: Speed) -> tuple[float, Plan]:
    """Seconds that a search takes whose updates take so many times as long as measured, and its last plan."""
    now = [0.2 * seconds]  # imports, decoding
    replanner = Replanner(Timing(seconds, 0.0, 1, speed), clock=lambda: now[0])
    state = SimpleNamespace(spent_flops=0, generation=0)
    update = WORK // 500
    while state.spent_flops + update <= (plan.flops or 0):
        state.spent_flops += update
        small = state.spent_flops < plan.small_share * (plan.flops or 0)
        now[0] += update / (speed.small if small else speed.whole) * slowness(now[0] / seconds)
        while state.generation < plan.num_generations and state.spent_flops > plan.flops_until(state.generation):
            state.generation += 1
        again = replanner.again(state, plan, scoring_flops=lambda: update, update_flops=update)  # type: ignore[arg-type]
        plan = again or plan
    return now[0] + 1.5, plan


LOADS: dict[str, Callable[[float], float]] = {
    "idle": lambda share: 1.0,
    "half busy from the start": lambda share: 2.0,
    "half busy from the middle": lambda share: 2.0 if share > 0.5 else 1.0,
    "busy now and then": lambda share: 2.0 if int(10 * share) % 2 else 1.0,
    "faster than measured": lambda share: 0.6,
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("seconds", [10.0, 60.0, 3600.0])
def test_a_budget_is_kept_within_a_tenth_or_three_seconds(load: str, seconds: float) -> None:
    speed = Speed(whole=WORK / (0.72 * seconds), small=WORK / (0.9 * seconds))
    plan = Plan(2, flops=WORK, initial_fraction=0.75, small_share=0.4, small_size=(24, 24))
    took, _ = simulated(LOADS[load], seconds, plan=plan, speed=speed)
    assert took == pytest.approx(seconds, abs=max(3.0, 0.1 * seconds))


def test_a_machine_that_slows_down_gets_a_shorter_plan_and_a_steady_one_keeps_it() -> None:
    speed, plan = Speed(WORK / 79.0, WORK / 79.0), Plan(2, flops=WORK, initial_fraction=0.75)
    _, steady = simulated(LOADS["idle"], 100.0, plan=plan, speed=speed)
    assert steady is plan
    _, shorter = simulated(LOADS["half busy from the middle"], 100.0, plan=plan, speed=speed)
    assert (shorter.flops or 0) < 0.8 * WORK


def test_a_control_gets_as_much_time_as_the_search() -> None:
    timing = Timing(100.0, 1.0, 3, Speed(1, 1), with_control=True)
    assert timing.left(10.0, 0.0, ending=10.0) == 40.0  # 80 seconds for both
    assert timing.left(30.0, 20.0, ending=10.0) == 20.0
    assert timing.left(95.0, 85.0, ending=10.0) == 0.0
    assert [timing.ending(generations) for generations in (0, 1, 2)] == [3.5, 5.5, 5.5]
    assert timing.ending(2, slowness=2.0) == 9.5
    assert timing.ending(2, slowness=99.0) == 25.0
    assert Timing.from_dict(json.loads(json.dumps(asdict(timing)))) == timing


def test_short_budgets_are_measured_briefly() -> None:
    for step, efforts in ((0.1, [0.025, 0.25, 1.0]), (2.0, [0.0125, 0.125, 1.0])):
        assert [effort_of(parse_budget(text), step) for text in ("10s", "100s", "10h")] == efforts
    assert effort_of(None, 9.0) == effort_of(parse_budget("1PFLOP"), 9.0) == 1.0
    assert effort_of(parse_budget("100s"), None) == 0.25


# Sessions by a simulated clock --------------------------------------------------------------------------------------

UPDATE = training_flops(seed_genome("poster", (1, 8, 8), 10), 64)
ALONE = {
    "batch_size": 64,
    "control": False,
    "passes": "torch",
    "num_generations": 1,
    "num_survivors": 1,
}  # no ensembles


class Clock(SilentListener):
    """Time passes with FLOPs alone: an update of the seed a second, and ``slow`` seconds after the tenth.

    The process ends at a step.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, slow: float, end: int = 10**9) -> None:
        self.now, self.slow, self.end, self.plans = 0.0, slow, end, list[int]()
        self.training = self.scoring = self.step = 0
        for module in ("_session", "_setup"):
            patch.setattr(f"graftwork.session.{module}.monotonic", lambda: self.now)
        patch.setattr("graftwork.session._planning.calibrate_speed", lambda *_, **__: UPDATE)

    def on_step(self, state: Any, member: str, loss: float, progress: float) -> None:
        self.now += (state.training_flops - self.training) / UPDATE * (1 if state.step <= 10 else self.slow)
        self.training, self.step = state.training_flops, state.step
        if state.step == self.end:
            raise KeyboardInterrupt

    def on_generation(self, stage: str, generation: Generation) -> None:
        self.now += (generation.scoring_flops - self.scoring) / UPDATE * self.slow
        self.scoring = generation.scoring_flops

    def on_plan(self, plan: Plan) -> None:
        self.plans.append(self.step)


def timed() -> SearchConfig:
    return tiny(**ALONE, budget="120s")


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A search whose machine slows down in the middle."""
    path = tmp_path_factory.mktemp("runs") / "slowed"
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch, slow=2.0)
        Session.start(timed(), path, listener=clock).run()
    return path, clock.plans


def test_a_slow_machine_makes_fewer_updates_and_ends_in_time(slowed: tuple[Path, list[int]]) -> None:
    path, plans = slowed
    assert len(plans) >= 1
    assert result(path)["seconds"] <= 120
    assert result(path)["steps"] < 60
    stored = json.loads((path / "plans.json").read_text())["plans"]
    assert [entry["step"] for entry in stored] == plans
    assert "plans.json" in json.loads((path / "manifest.json").read_text())["files"]


def test_a_resume_replays_the_plans_to_the_same_bits(
    slowed: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plans = slowed
    cut, last = tmp_path / "cut", plans[-1]
    with pytest.raises(KeyboardInterrupt):  # without a checkpoint: all is done again
        Session.start(timed(), cut, listener=Clock(monkeypatch, slow=2.0, end=last + 1)).run()
    again = Clock(monkeypatch, slow=2.0)
    Session.resume(cut, listener=again).run()
    assert again.plans == []
    assert result(cut)["bank_sha256"] == result(path)["bank_sha256"]
    assert records(cut) == records(path)
    assert predictions(cut) == predictions(path)


def test_plans_that_were_changed_are_refused(
    slowed: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Session.start(timed(), tmp_path / "run", listener=Clock(monkeypatch, slow=2.0, end=slowed[1][0] + 1)).run()
    file = tmp_path / "run" / "plans.json"
    file.write_text(file.read_text().replace('"num_generations": ', '"num_generations": 1'))
    with pytest.raises(RunError, match=r"plans\.json"):
        Session.resume(tmp_path / "run").run()
    file.unlink()
    with pytest.raises(RunError, match=r"plans\.json"):
        Session.resume(tmp_path / "run").run()


def test_a_look_in_the_first_round_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watch(SilentListener):
        def on_look(self, stage: str, step: int, accuracy: float) -> None:
            assert 0 <= accuracy <= 1
            seen.append(step)

    config = tiny(**ALONE, budget="8steps")
    Session.start(config, tmp_path / "plain").run()
    monkeypatch.setattr(_looks, "_FIRST", 1e-9)
    Session.start(config, tmp_path / "looked", listener=Watch()).run()
    assert seen
    assert result(tmp_path / "looked")["bank_sha256"] == result(tmp_path / "plain")["bank_sha256"]
    assert records(tmp_path / "looked") == records(tmp_path / "plain")
    assert not (tmp_path / "plain" / "plans.json").exists()
