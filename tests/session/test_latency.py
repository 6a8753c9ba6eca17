"""A search that decides by measured time keeps its limit, and measures nothing a second time on a resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import ConfigError, RunError, SearchInterruptedError
from graftwork.machine import Latencies, parse_latency, time_passes
from graftwork.networks.execution import get_kernels, using_kernels
from graftwork.networks.genome import Genome, forward_flops, seed_genome
from graftwork.runs import RunFolder
from graftwork.session import SearchConfig, Session, prepare
from tests.session.test_session import StopAt, tiny

BY_TIME = {
    "selection": "pareto",
    "cost": "latency",
    "budget": "24steps",
    "num_calibration": 20,
    "population_size": 3,
    "num_survivors": 1,  # no ensembles: they take long
    "control": False,
    "passes": "torch",
}


class Clock:
    """Stands in for the measurement: a time that no second measurement would give again."""

    def __init__(self) -> None:
        self.measured: list[str] = []

    def __call__(self, genome: Genome) -> float:
        self.measured.append(genome.id)
        return forward_flops(genome) * 1e-9 * (1 + 1e-3 * len(self.measured))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(Latencies, "_measure", lambda _, genome: found(genome))
    return found


def start(config: SearchConfig, path: Path, step: int | None = None) -> None:
    box: list[Session] = []
    box.append(Session.start(config, path, listener=None if step is None else StopAt(box, "search", step)))
    box[0].run()


@pytest.mark.slow
def test_no_member_takes_longer_than_allowed(tmp_path: Path, clock: Clock) -> None:
    seed = forward_flops(seed_genome("poster", (1, 8, 8), 10)) * 1e-9
    limit = round(1.5e3 * seed, 3)
    start(tiny(**BY_TIME, max_latency=f"{limit}ms"), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    known = run.latencies()
    stored = [run.read_json(f"members/{name}.json") for name in run.names("members", ".json")]
    assert all(1000 * known[Genome.from_dict(data["genome"]).id] <= limit for data in stored)
    assert max(known.values()) * 1000 > limit, "some children were measured and rejected"
    assert any(row.rejected.get("max_latency") for row in run.rounds())


@pytest.mark.parametrize("step", [pytest.param(7, marks=pytest.mark.slow), 20])
def test_a_resume_takes_the_times_that_were_measured_before(tmp_path: Path, clock: Clock, step: int) -> None:
    with pytest.raises(SearchInterruptedError):
        start(tiny(**BY_TIME), tmp_path / "run", step)
    before = dict(RunFolder(tmp_path / "run").latencies())
    assert before
    assert set(clock.measured) == set(before)
    clock.measured.clear()
    Session.resume(tmp_path / "run").run()
    assert clock.measured
    assert not set(clock.measured) & set(before)
    after = RunFolder(tmp_path / "run").latencies()
    assert {name: after[name] for name in before} == before


def test_times_that_were_changed_are_not_followed(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(SearchInterruptedError):
        start(tiny(**BY_TIME), tmp_path / "run", 7)
    path = tmp_path / "run" / "latency.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({"seconds": dict.fromkeys(stored["seconds"], 1e-9)}))
    with pytest.raises(RunError, match=r"latency\.json"):
        Session.resume(tmp_path / "run").run()


def test_a_seed_that_is_too_slow_is_refused_before_the_first_step(clock: Clock) -> None:
    with pytest.raises(ConfigError, match="max_latency: expected a seed network that takes at most 1us"):
        prepare(tiny(max_latency="1us", passes="torch"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_latency": "soon"}, "max_latency: expected a time such as 5ms"),
        ({"max_latency": "0ms"}, "max_latency: expected a time"),
        ({"cost": "flop"}, "cost: expected one of flops, parameters, latency, got 'flop'"),
        ({"max_latency": "5ms", "workers": 2}, "workers: expected 1 with max_latency"),
    ],
)
def test_what_is_no_limit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_times_are_read_in_their_units() -> None:
    assert [parse_latency(text) for text in ("5ms", " 0.1 S", "800us")] == pytest.approx([5e-3, 0.1, 8e-4])


def test_a_genome_is_measured_once_and_stored_before_it_is_used() -> None:
    genome, stored = seed_genome("poster", (1, 8, 8), 10), list[dict[str, float]]()
    latencies = Latencies(torch.device("cpu"))
    latencies.store = lambda known: stored.append(dict(known))
    first = latencies(genome)
    assert 0 < first < 10
    assert latencies(genome) == first
    assert stored == [{genome.id: first}]
    assert Latencies(torch.device("cpu"), {genome.id: 7.0})(genome) == 7.0


def test_passes_are_timed_as_exported_networks_run() -> None:
    seen = []

    def run(images: torch.Tensor) -> torch.Tensor:
        seen.append((get_kernels(), torch.is_inference_mode_enabled(), len(images)))
        return images

    kernels: Any = "compiled passes, which exports don't have"
    with using_kernels(kernels):
        assert time_passes(run, torch.zeros(3, 1, 8, 8)) >= 0
    assert set(seen) == {(None, True, 3)}
