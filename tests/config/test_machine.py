"""Threads and workers: measured once, followed ever after, overridden by who asks; nothing else depends on it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.briefing import follow
from graftwork.cli import _workers as commands
from graftwork.config import SearchConfig, Setup, _machine, prepare, shared_part
from graftwork.errors import ConfigError, RunError
from graftwork.genome import Genome, seed_genome, training_flops
from graftwork.population import Population
from graftwork.session import SearchInterruptedError, Session
from graftwork.training import PrecisionChoice, ThreadsChoice, Throwaway
from graftwork.training import _threads as timing
from graftwork.ways import Way, WorkersChoice, choose_workers, measure_way, measure_workers
from tests.test_session import StopAt, result, tiny
from tests.workers.ranks import ThreadGroup, together

SMALL = seed_genome("poster", (1, 8, 8), 4)
SHORT = {"budget": "12steps", "num_generations": 1, "control": False}
SINGLE = PrecisionChoice("float32", 0.0, None, "as asked for")


@pytest.fixture(autouse=True)
def _pretended_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process only says how many threads it has: real ones, on cores that other tests use, would be slow."""
    said = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: said[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: said.__setitem__(0, count))


def clock(monkeypatch: pytest.MonkeyPatch, fastest: int | None) -> None:
    """Steps are fastest by so many threads; ``None``: timing them is a mistake."""

    def step_seconds(step: Callable[[], object], threads: int) -> float:
        assert fastest is not None, "a step was timed"
        step()
        return 0.5 if threads == fastest else 1.0

    monkeypatch.setattr(timing, "_step_seconds", step_seconds)


def unasked(**changes: Any) -> SearchConfig:
    return replace(tiny(**{"control": False, **changes}), threads=None)


def provenance(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "provenance.json").read_text())
    return found


@pytest.mark.parametrize("fastest", [1, 2])
def test_threads_are_measured_where_nobody_asks_and_nothing_else_depends_on_it(
    monkeypatch: pytest.MonkeyPatch, fastest: int
) -> None:
    def traces(setup: Setup) -> tuple[Any, ...]:
        batch = setup.trainer.batches.batch(0)[0]
        return setup.population.bank.digest(), setup.state.rng.bit_generator.state, batch.sum(), torch.rand(2).tolist()

    torch.manual_seed(1)
    clock(monkeypatch, None)
    expected = traces(prepare(tiny(threads=1)))
    torch.set_num_threads(2)
    torch.manual_seed(1)
    clock(monkeypatch, fastest)
    setup = prepare(unasked())
    assert setup.threads.threads == torch.get_num_threads() == fastest
    assert setup.threads.counts == (1, 2)
    assert setup.trainer.optimizer.state()[0] == {}
    assert traces(setup) == expected


def test_who_asks_for_threads_gets_them_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, None)
    setup = prepare(tiny(threads=2))
    assert (setup.threads, torch.get_num_threads()) == (ThreadsChoice(2, "as asked for"), 2)
    setup = prepare(unasked(), threads_choice=ThreadsChoice(1, "as before"))
    assert (setup.threads.reason, torch.get_num_threads()) == ("as before", 1)


def test_options_may_be_given_by_name() -> None:
    options = unasked().to_dict() | {"threads": 2, "precision": "bfloat16", "passes": "torch"}
    setup = prepare(**options)
    assert (setup.threads.threads, setup.precision.precision, setup.precision.reason) == (2, "bfloat16", "as asked for")


def test_the_seed_network_is_the_same_on_any_number_of_threads() -> None:
    """It is made before they are chosen, and a resumed run makes it again after."""
    seen = []
    add_seed = Population.add_seed

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return add_seed(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Population, "add_seed", watched)
        prepare(tiny(threads=2))
    assert seen == [1]


def test_a_resumed_run_follows_the_threads_it_began_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Session.start(tiny(**SHORT), tmp_path / "whole").run()
    torch.set_num_threads(2)
    clock(monkeypatch, 1)
    box: list[Session] = []
    box.append(Session.start(unasked(**SHORT), tmp_path / "cut", listener=StopAt(box, "search", 7)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    stored = provenance(tmp_path / "cut")
    assert stored["calibration"]["threads"]["threads"] == stored["machine"]["threads"] == 1
    assert stored["calibration"]["threads"]["counts"] == [1, 2]
    assert stored["calibration"]["workers"] is None
    torch.set_num_threads(2)
    clock(monkeypatch, None)
    Session.resume(tmp_path / "cut").run()
    assert torch.get_num_threads() == 1
    assert result(tmp_path / "cut")["bank_sha256"] == result(tmp_path / "whole")["bank_sha256"]


def test_a_run_of_before_threads_were_timed_can_be_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box: list[Session] = []
    box.append(Session.start(unasked(**SHORT), tmp_path / "run", listener=StopAt(box, "search", 5)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    old = {key: value for key, value in provenance(tmp_path / "run").items() if key != "calibration"}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(old))
    torch.set_num_threads(2)
    clock(monkeypatch, None)
    Session.resume(tmp_path / "run").run()
    assert torch.get_num_threads() == old["machine"]["threads"] == 1


@pytest.mark.parametrize("sync_every", [0, 2])
def test_ranks_follow_rank_0s_threads_and_are_timed_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync_every: int
) -> None:
    chosen: list[int] = []

    def measure_threads(step: object) -> ThreadsChoice:
        chosen.append(len(chosen) + 1)
        return ThreadsChoice(chosen[-1], "timed")

    set_up: list[int] = []
    monkeypatch.setattr(_machine, "measure_threads", measure_threads)
    timed: list[int] = []
    monkeypatch.setattr(
        "graftwork.config._plan.calibrate_speed", lambda *a, batch_size, **k: timed.append(batch_size) or 2e10
    )
    monkeypatch.setattr("graftwork.briefing.time_exchange", lambda *a: 0.01)
    monkeypatch.setattr(torch, "set_num_threads", set_up.append)
    config = unasked(**{**SHORT, "workers": 2, "sync_every": sync_every, "budget": "1s"})

    def work(group: ThreadGroup) -> None:
        if not group.leads:
            follow(group)
        else:
            Session.start(config, tmp_path / "run", group=group).run()

    together(2, work)
    assert chosen == [1]
    assert set(set_up) == {1}
    found = provenance(tmp_path / "run")
    genome = Genome.from_dict(json.loads((tmp_path / "run" / "seed_genome.json").read_text()))
    size = config.recipe.batch_size
    # shared batches: each is timed on its half of one, and what they exchange is paid for
    sharing = 1 / 4e10 + 0.01 / training_flops(genome, size)
    part = shared_part(config, batch_size=size, num_workers=2)
    assert part == 1 if sync_every == 0 else 0 < part < 1
    speed = 1 / (part * sharing + (1 - part) / 4e10)
    assert set(timed) == ({size // 2} if sync_every == 0 else {size // 2, size})
    assert found["training_flops_per_second"] == pytest.approx(speed)
    assert found["plan"]["flops"] == int(found["training_flops_per_second"] * 0.92)
    assert found["workers"]["threads_each"] == 1


# Workers -------------------------------------------------------------------------------------------------------------


def measured(monkeypatch: pytest.MonkeyPatch, alone: float, shared: float, cores: int = 2) -> list[int]:
    sizes: list[int] = []

    def measure(config: SearchConfig, genome: object, *, batch_size: int, size: int, seconds: float) -> dict[str, Any]:
        sizes.append(size)
        ways = [Way(1, 1, alone), Way(size, 1, shared, 0.01)]
        return WorkersChoice(0, "", tuple(ways), SINGLE, ThreadsChoice(1, "")).to_dict()

    monkeypatch.setattr("graftwork.ways.measure_workers", measure)
    monkeypatch.setattr("graftwork.ways.num_cores", lambda: cores)
    return sizes


@pytest.mark.parametrize(("shared", "expected"), [(2.0, 2), (1.1, 2), (1.09, 1), (0.5, 1)])
def test_workers_are_chosen_where_they_win_clearly(
    monkeypatch: pytest.MonkeyPatch, shared: float, expected: int
) -> None:
    measured(monkeypatch, 1.0, shared)
    choice = choose_workers(unasked(), SMALL, 8)
    assert choice.workers == expected
    assert [way.steps_per_second for way in choice.ways] == [1.0, shared]
    assert WorkersChoice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice


def test_there_are_at_most_as_many_workers_as_have_work_and_as_threads_leave_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = measured(monkeypatch, 1.0, 9.0, cores=8)
    assert choose_workers(unasked(population_size=3), SMALL, 7).workers == 3
    assert choose_workers(unasked(population_size=3), SMALL, 99).workers == 8
    assert choose_workers(tiny(threads=4, population_size=8), SMALL, 8).workers == 2
    assert choose_workers(tiny(threads=5), SMALL, 8).workers == 1
    assert choose_workers(unasked(), SMALL, 3).ways == ()
    assert sizes == [3, 8, 2]


def test_the_steps_of_all_ranks_count_and_averaging_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Throwaway, "rate", lambda self, seconds: 10.0)

    def network() -> Throwaway:
        return Throwaway(SMALL, rules=tiny().recipe.rules, batch_size=4)

    def work(group: ThreadGroup) -> tuple[Way, str]:
        mine = network()
        before = mine.trainer.optimizer.bank.digest()
        way = measure_way(mine, seconds=0.0, group=group, sync_every=3)
        assert mine.trainer.optimizer.bank.digest() == before
        return way, before

    def share(group: ThreadGroup) -> Way:
        return measure_way(network(), seconds=0.0, group=group)

    for way in together(2, share):  # steps on parts, in lockstep
        assert way.steps_per_second == pytest.approx(1 / (1 / 10 + way.average_seconds))

    for way, _ in together(2, work):
        assert (way.workers, way.threads) == (2, 1)
        assert way.average_seconds > 0
        assert way.steps_per_second == pytest.approx(6 / (6 / 20 + way.average_seconds))
    assert measure_way(network(), seconds=0.0) == Way(1, 1, 10.0)


def test_real_workers_are_started_and_measured_beside_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = unasked(precision="float32", passes="torch")
    found = measure_workers(config, SMALL, batch_size=4, size=2, seconds=0.01)
    alone, shared = (Way(**way) for way in found["ways"])
    assert (alone.workers, shared.workers) == (1, 2)
    assert alone.threads == found["threads"]["threads"]
    assert alone.steps_per_second > 0
    assert shared.steps_per_second > 0
    assert shared.average_seconds > 0
    assert found["precision"]["reason"] == "as asked for"


def test_auto_becomes_a_number_before_a_run_begins_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ways = (Way(1, 1, 2.0), Way(2, 1, 1.0, 0.1))
    choice = WorkersChoice(1, "slower", ways, SINGLE, ThreadsChoice(1, "timed", (1, 2), (0.1, 0.2)))
    monkeypatch.setattr(commands, "choose_workers", lambda *arguments: choice)
    config, chosen = commands.settle_workers(tmp_path / "run", unasked(**SHORT, workers="auto"), told=False)
    assert (config.workers, chosen) == (1, choice)
    clock(monkeypatch, None)
    torch.set_num_threads(2)
    Session.start(config, tmp_path / "run", chosen=chosen).run()
    assert provenance(tmp_path / "run")["calibration"] == json.loads(
        json.dumps({"threads": choice.threads.to_dict() if choice.threads else None, "workers": choice.to_dict()})
    )
    assert SearchConfig.load(tmp_path / "run" / "config.toml").workers == 1
    with pytest.raises(RunError):
        commands.settle_workers(tmp_path / "run", unasked(workers="auto"), told=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    config, chosen = commands.settle_workers(tmp_path / "other", unasked(workers="auto"), told=False)
    assert (config.workers, chosen) == (3, None)


def test_a_session_by_itself_is_one_worker_whatever_is_asked(tmp_path: Path) -> None:
    Session.start(unasked(workers="auto"), tmp_path / "run")
    assert SearchConfig.load(tmp_path / "run" / "config.toml").workers == 1


def test_workers_are_a_number_or_auto(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(SearchConfig(workers="auto").to_toml())
    assert SearchConfig.load(path).workers == "auto"
    for wrong in ("two", "0", 0, 1.5):
        with pytest.raises(ConfigError, match="workers: expected an integer >= 1"):
            SearchConfig.from_dict({"workers": wrong})
