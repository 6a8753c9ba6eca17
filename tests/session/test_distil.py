"""Distillation: two networks from the same weights for the same FLOPs, one with soft labels; the opening is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graftwork.errors import ConfigError, RunError
from graftwork.evolution.transforms import R2RWiden
from graftwork.networks.genome import Genome, training_flops
from graftwork.runs import RunFolder, load_member
from graftwork.session import SearchConfig, Session, distil, ensemble_costs, load_ensemble
from graftwork.session import _distil as module

OPTIONS = {"data": "digits", "recipe": "paper", "budget": "60steps", "num_generations": 1, "population_size": 4}
OPTIONS |= {"precision": "float32", "threads": 1, "num_calibration": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("runs") / "run"
    Session.start(SearchConfig.from_dict(OPTIONS), path).run()
    return RunFolder.open(path)


@pytest.fixture(scope="module")
def found(run: RunFolder) -> dict[str, Any]:
    return distil(run.path, budget="0.5GFLOP", note=lambda _: None)


def test_both_arms_are_members_with_the_students_genome_and_the_same_flops(
    run: RunFolder, found: dict[str, Any]
) -> None:
    best = run.read_json("result.json")["best"]
    assert found["student"] == best["id"]
    assert found["before"] == best
    stored = run.read_json(f"members/{best['id']}.json")
    teacher, _, _ = load_ensemble(run, found["ensemble"])
    _, forward = ensemble_costs([m.genome for m in teacher.members], teacher.combiner)  # type: ignore[misc, arg-type]
    update = training_flops(Genome.from_dict(stored["genome"]), 64)
    for row, cost in zip(found["rows"], (update + 64 * forward, update), strict=True):
        member = run.read_json(f"members/{row['id']}.json")
        assert member["genome"] == stored["genome"]
        assert row["flops_spent"] == row["steps"] * cost <= 5e8 < (row["steps"] + 1) * cost
        network, transform, _ = load_member(run, row["id"])
        assert network(transform(torch.zeros(2, 8, 8, 1, dtype=torch.uint8))).shape == (2, 10)
    assert [row["id"] for row in found["rows"]] == [f"{best['id']}-distilled", f"{best['id']}-longer"]
    assert found["rows"][0]["steps"] < found["rows"][1]["steps"]
    assert run.read_json(f"distil/{best['id']}/result.json") == found


def test_the_one_opening_is_recorded_and_what_was_seen_is_stored(run: RunFolder, found: dict[str, Any]) -> None:
    openings = run.read_json("result.json")["test_openings"]
    assert openings == run.read_json("predictions/openings.json")["openings"]
    mine = [opening for opening in openings if opening["by"] == "distil"]
    assert mine[0]["members"] == [row["id"] for row in found["rows"]]
    tensors = run.load_tensors(f"distil/{found['student']}/test.safetensors")
    right = [tensors[row["id"]].argmax(1) == tensors["labels"] for row in found["rows"]]
    assert [float(r.double().mean()) for r in right] == [pytest.approx(row["test_accuracy"]) for row in found["rows"]]
    gap = float((right[0].double() - right[1].double()).mean())
    assert found["difference"]["value"] == pytest.approx(gap)


def test_both_arms_start_from_the_shared_weights_and_only_one_reads_the_teacher(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, dict[str, torch.Tensor], int, bool]] = []

    def train(arm: Any, *, first: int, rate: float, teacher: Any) -> None:
        state = {key: tensor.clone() for key, tensor in arm.setup.population.bank.state().items()}
        seen.append((arm.name, state, first, teacher is not None))

    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "_finish", lambda *args: {})
    distil(run.path, budget="0.5GFLOP", note=lambda _: None)
    best = run.read_json("result.json")["best"]["id"]
    weights = load_member(run, best)[0].parameters_by_key()
    assert [(name, teaches) for name, _, _, teaches in seen] == [(f"{best}-distilled", True), (f"{best}-longer", False)]
    for _, state, first, _ in seen:
        assert first == run.read_json("result.json")["steps"]
        assert set(state) == set(weights)
        assert all(torch.equal(state[key], weights[key]) for key in weights)


def test_a_genome_of_ones_own_starts_from_the_shared_weights_where_it_has_them(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = run.read_json("result.json")["best"]["id"]
    member, _, data = load_member(run, best)
    growth = R2RWiden(0, 3, 4)(Genome.from_dict(data["genome"]), rng=np.random.default_rng(0))
    file = tmp_path / "my network.json"
    file.write_text(growth.child.to_json())
    states: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(module, "_train", lambda arm, **_: states.append(arm.setup.population.bank.state()))
    found = distil(run.path, genome=str(file), budget="3GFLOP", note=lambda _: None)
    assert found["student"] == "my-network"
    assert found["before"] is None
    weights = member.parameters_by_key()
    for state in states:
        assert all(torch.equal(state[key], weights[key]) for key in weights)
        assert {key.split("/")[0] for key in set(state) - set(weights)} == set(growth.new_blocks)


def test_the_soft_loss_is_the_cross_entropy_to_the_teachers_probabilities(run: RunFolder) -> None:
    teacher, _, _ = load_ensemble(run, "stacked")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = module._soft_loss(teacher, "float32")(x, logits, torch.zeros(5, dtype=torch.int64))
    expected = -(teacher(x).exp() * F.log_softmax(logits, 1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - teacher(x).exp()).detach() / 5)


def test_what_can_not_be_distilled_is_named(run: RunFolder) -> None:
    for options, error, words in (
        ({"budget": "10steps"}, ConfigError, "expected FLOPs"),
        ({"budget": "0.001GFLOP"}, ConfigError, "at least one update"),
        ({"rate": 0.0}, ConfigError, "rate"),
        ({"genome": "m99"}, RunError, "m99"),
        ({"ensemble": "voodoo"}, RunError, "voodoo"),
    ):
        given: dict[str, Any] = dict(options)
        with pytest.raises(error, match=words):
            distil(run.path, note=lambda _: None, **given)
    assert not [o for o in run.read_json("predictions/openings.json")["openings"] if "m99" in str(o)]


def test_same_run_same_bits(run: RunFolder, found: dict[str, Any]) -> None:
    again = json.loads(json.dumps(distil(run.path, budget="0.5GFLOP", note=lambda _: None)))
    assert {k: v for k, v in again.items() if k != "test_opened_at"} == {
        k: v for k, v in found.items() if k != "test_opened_at"
    }
