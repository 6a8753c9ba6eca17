"""Threads: measured once, followed ever after, overridden by who asks; nothing else depends on it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import SearchInterruptedError
from graftwork.evolution import Population
from graftwork.machine import Machine
from graftwork.machine import _threads as timing
from graftwork.networks.genome import Genome, training_flops
from graftwork.session import (
    SearchConfig,
    Session,
    Setup,
    follow,
    prepare,
    shared_fraction,
)
from graftwork.session._timing import Timing
from tests.session.test_session import StopAt, result, tiny
from tests.workers.ranks import ThreadGroup, together

SHORT = {"budget": "12steps", "num_generations": 1, "control": False, "blend": 0.0}


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
    assert setup.machine.threads == torch.get_num_threads() == fastest
    assert set(setup.machine.seconds) == {"1 thread", "2 threads"}
    assert setup.trainer.optimizer.state()[0] == {}
    assert traces(setup) == expected


def test_who_asks_for_threads_gets_them_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, None)
    setup = prepare(tiny(threads=2))
    assert (setup.machine.threads, torch.get_num_threads()) == (2, 2)
    assert setup.machine.reasons["threads"] == "as asked for"


def test_a_machine_that_is_given_is_followed_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, None)
    machine = Machine("bfloat16", "torch", 1, reasons={"threads": "as before"})
    setup = prepare(unasked(precision="float32", passes="auto"), machine=machine)
    assert (setup.machine, torch.get_num_threads()) == (machine, 1)
    assert setup.trainer.precision == setup.scorer.precision == "bfloat16"


def test_a_machine_without_compiled_passes_is_followed_without_building_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.machine._choose.build", lambda folder: pytest.fail("kernels were built"))
    machine = Machine("float32", "torch", 1)
    assert prepare(unasked(passes="auto"), machine=machine).machine == machine


def test_options_may_be_given_by_name() -> None:
    options = unasked().to_dict() | {"threads": 2, "precision": "bfloat16", "passes": "torch"}
    setup = prepare(**options)
    machine = setup.machine
    assert (machine.threads, machine.precision, machine.reasons["precision"]) == (2, "bfloat16", "as asked for")


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
    assert stored["machine"]["threads"] == 1
    assert set(stored["machine"]["seconds"]) == {"1 thread", "2 threads"}
    torch.set_num_threads(2)
    clock(monkeypatch, None)
    Session.resume(tmp_path / "cut").run()
    assert torch.get_num_threads() == 1
    assert result(tmp_path / "cut")["bank_sha256"] == result(tmp_path / "whole")["bank_sha256"]


@pytest.mark.parametrize("sync_every", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_ranks_follow_rank_0s_threads_and_are_timed_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync_every: int
) -> None:
    chosen: list[int] = []

    def measure_threads(step: object, *, machine: Machine, limit_seconds: float) -> Machine:
        chosen.append(len(chosen) + 1)
        return replace(machine, threads=chosen[-1])

    set_up: list[int] = []
    monkeypatch.setattr("graftwork.machine._choose.measure_threads", measure_threads)
    timed: list[int] = []
    monkeypatch.setattr(
        "graftwork.session._planning.calibrate_speed", lambda *a, batch_size, **k: timed.append(batch_size) or 1e8
    )
    for module in ("_session", "_setup"):  # no time passes
        monkeypatch.setattr(f"graftwork.session.{module}.monotonic", lambda: 0.0)
    monkeypatch.setattr("graftwork.session._following.time_exchange", lambda *a: 0.01)
    monkeypatch.setattr(torch, "set_num_threads", set_up.append)
    config = unasked(**{**SHORT, "workers": 2, "sync_every": sync_every, "budget": "100s", "batch_size": 64})

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
    sharing = 1 / 2e8 + 0.01 / training_flops(genome, size)
    part = shared_fraction(config.recipe, sync_every=sync_every, batch_size=size, num_workers=2)
    assert part == 1 if sync_every == 0 else 0 < part < 1
    speed = 1 / (part * sharing + (1 - part) / 2e8)
    assert set(timed) == ({size // 2} if sync_every == 0 else {size // 2, size})
    timing = found["timing"]
    assert timing["speed"]["whole"] == timing["speed"]["small"] == pytest.approx(0.92 * speed)
    ending = Timing.from_dict(timing).ending(found["plan"]["num_generations"])
    assert found["plan"]["flops"] == int(timing["speed"]["whole"] * (100 - ending))
    assert found["workers"]["threads_each"] == 1
