"""A whole search by several ranks: same bits again and again, through stops, and equal scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import RunError, SearchInterruptedError
from graftwork.evolution import SearchState, joint_train
from graftwork.networks.genome import forward_flops
from graftwork.session import SearchConfig, Session, SilentListener, follow, prepare
from graftwork.workers import LocalStepsTrainer, SharedScorer
from tests.session.test_session import records, result, tiny
from tests.strategies import scramble
from tests.workers.ranks import ThreadGroup, together

SHARED = {"workers": 2, "sync_every": 2, "control": False, "budget": "30steps"}
WAYS = [pytest.param(0, marks=pytest.mark.slow), 2]
"""Sharing every batch; and, where there are members to deal, local steps between averagings."""


def shared_run(path: Path, *, size: int = 2, resume: bool = False, stop_at: int | None = None, **changes: Any) -> None:
    class StopAt(SilentListener):
        def __init__(self, group: ThreadGroup) -> None:
            self.group = group

        def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
            if stop_at is not None and state.step >= stop_at:
                self.group.stop_wanted = True

    def work(group: ThreadGroup) -> None:
        if not group.leads:
            follow(group)
        elif resume:
            Session.resume(path, group=group).run()
        else:
            config = tiny(**{**SHARED, "workers": size, **changes})
            Session.start(config, path, group=group, listener=StopAt(group)).run()

    together(size, work)


@pytest.fixture(scope="module", params=WAYS)
def sync_every(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sync_every: int) -> Path:
    """A search by two ranks that nothing disturbs."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    shared_run(path, sync_every=sync_every)
    return path


def assert_equal_runs(one: Path, other: Path) -> None:
    assert result(one)["bank_sha256"] == result(other)["bank_sha256"]
    stages = [
        [row for row in records(path) if "control" not in (row["type"], row.get("stage"))] for path in (one, other)
    ]
    assert stages[0] == stages[1]
    assert len(stages[0]) > 8


def test_the_same_number_of_ranks_gives_the_same_bits(whole: Path, tmp_path: Path, sync_every: int) -> None:
    shared_run(tmp_path / "again", control=True, sync_every=sync_every)
    assert_equal_runs(tmp_path / "again", whole)
    found = json.loads((whole / "provenance.json").read_text())["workers"]
    assert found == {"size": 2, "backend": "threads", "threads_each": 1, "sync_every": sync_every}


def test_ranks_draw_what_one_worker_draws_and_spend_what_it_spends(whole: Path, tmp_path: Path) -> None:
    """Draws and costs are those of the first round; later populations differ, as weights do."""
    Session.start(tiny(control=False, budget="30steps"), tmp_path / "alone").run()
    found = [[row for row in records(path) if row["type"] == "generation"] for path in (tmp_path / "alone", whole)]
    assert [[row["step"] for row in rows] for rows in found] == [[10, 20, 30]] * 2
    assert found[0][0]["training_flops"] == found[1][0]["training_flops"]
    assert result(tmp_path / "alone")["bank_sha256"] != result(whole)["bank_sha256"]


@pytest.mark.parametrize("stop_at", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_shared_search_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, stop_at: int, sync_every: int
) -> None:
    with pytest.raises(SearchInterruptedError, match="--resume"):
        shared_run(tmp_path / "run", stop_at=stop_at, sync_every=sync_every)
    shared_run(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_three_ranks_give_other_bits_and_a_budget_in_flops_holds_over_all_of_them(
    whole: Path, tmp_path: Path, sync_every: int
) -> None:
    shared_run(tmp_path / "run", size=3, budget="0.00003PFLOP", sync_every=sync_every)
    found = result(tmp_path / "run")
    assert found["bank_sha256"] != result(whole)["bank_sha256"]
    spent = found["training_flops"] + found["scoring_flops"]
    assert 0.8 * 3e10 < spent <= 3e10


def test_a_rank_that_finds_other_data_says_so(tmp_path: Path) -> None:
    def work(group: ThreadGroup) -> None:
        if group.leads:
            Session.start(tiny(**SHARED), tmp_path / "run", group=group).run()
            return
        receive = group.receive

        def other() -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
            message, tensors = receive()
            return {**message, "fingerprint": "0" * 64}, tensors

        group.receive = other  # type: ignore[method-assign,assignment]
        follow(group)

    with pytest.raises(RunError, match="expected the data of rank 0"):
        together(2, work)


def setup_of(**changes: Any) -> Any:
    setup = prepare(SearchConfig.from_dict({**tiny(control=False).to_dict(), "validation": 0.3, **changes}))
    setup.strategy.mutate(setup.population, 4, rng=setup.state.rng, generation=1)
    scramble(setup.population.bank, setup.population, torch.Generator().manual_seed(3))
    setup.scorer.batch_size = 50
    return setup


@pytest.mark.parametrize(
    ("size", "members", "metric"),
    [
        (3, 4, "macro-f1"),
        (3, 1, "log-loss"),
        pytest.param(2, 4, "accuracy", marks=pytest.mark.slow),
        pytest.param(5, 2, "log-loss", marks=pytest.mark.slow),
    ],
)
def test_shared_scoring_equals_scoring_alone_to_the_bit(size: int, members: int, metric: str) -> None:
    alone = setup_of(metric=metric)
    expected = alone.scorer.evaluate(list(alone.population)[:members])

    def work(group: ThreadGroup) -> Any:
        setup = setup_of(metric=metric)
        return SharedScorer(setup.scorer, group).evaluate(list(setup.population)[:members])

    for found in together(size, work):
        assert np.array_equal(found.predicted, expected.predicted)
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.scores, expected.scores)
        assert found.flops >= expected.flops
    assert len(set(expected.predicted.ravel())) > 1


def test_scoring_by_ranks_counts_what_all_of_them_compute() -> None:
    def work(group: ThreadGroup) -> tuple[int, int]:
        setup = setup_of()
        genomes = setup.population.genomes[:1]
        expected = forward_flops(genomes[0]) * (setup.scorer.num_images + group.size * setup.scorer.num_calibration)
        return SharedScorer(setup.scorer, group).flops(genomes), expected

    for found, expected in together(3, work):
        assert found == expected


def test_new_blocks_are_rank_0s_on_all_ranks_and_every_batch_is_met_once() -> None:
    def work(group: ThreadGroup) -> tuple[list[str], list[int]]:
        setup = setup_of(initial_steps=5)
        with torch.no_grad():
            for key, parameter, _ in setup.population.bank.parameters():
                if group.rank and parameter.requires_grad and not any(key.startswith(b) for b in seed_ids(setup)):
                    parameter.add_(1e-3)  # as another machine might round
        met: list[int] = []
        batch = setup.trainer.batches.batch
        setup.trainer.batches.batch = lambda number, *rest: (met.append(number), batch(number, *rest))[1]
        trainer = LocalStepsTrainer(setup.trainer, group, sync_every=4)
        setup.state.generation = 1
        digests = [setup.population.bank.digest()]
        trainer.sync()
        digests.append(setup.population.bank.digest())
        joint_train(setup.state, strategy=setup.strategy, trainer=trainer, scorer=setup.scorer, plan=setup.plan)
        return [*digests, setup.population.bank.digest()], met

    def seed_ids(setup: Any) -> tuple[str, ...]:
        return tuple(next(iter(setup.population)).genome.ids)

    (digests, met), (other, others) = together(2, work)
    assert digests[0] == digests[1] != other[0]  # rank 0 keeps its own, and the other takes them
    assert digests[1:] == other[1:]
    assert met
    assert others
    assert sorted(met + others) == list(range(len(met) + len(others)))
