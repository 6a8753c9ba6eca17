"""The poster's growth at its own size: what is compared, how runs fork, and that the two forms are one network."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.growing import POSTER_GROWTH, run_grid
from experiments.growing import _poster_growth as poster
from experiments.growing._branch import Branch
from experiments.growing._channel_form import as_learner
from experiments.growing._grid import Setting
from experiments.growing._poster_report import _correct, summarise
from graftwork.errors import ConfigError
from graftwork.networks.genome import training_flops
from graftwork.training import constant

SETTING = Setting("digits", (0,), 8 / poster.FULL_STEPS)
BASE = poster._base(poster._bench(SETTING, 0))


@pytest.fixture(autouse=True)
def one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "POINTS", 1)


def begin(change: str, updates: int) -> Branch:
    branch = poster._bench(SETTING, 0).begin(poster.CHANGES[change].small(BASE))
    return branch.train(updates, constant(), total=8)


def logits(branch: Branch) -> torch.Tensor:
    images, _ = branch.batches.batch(99)
    branch.member.train()
    return branch.member(images).detach()


@pytest.mark.parametrize("change", poster.CHANGES)
def test_every_layer_grows_to_the_size_of_the_base_network_without_a_change_of_the_function(change: str) -> None:
    branch = begin(change, 2)
    before = logits(branch)
    branch.grow(poster.CHANGES[change].transform)
    assert training_flops(branch.genome, 1) == training_flops(BASE, 1)
    assert torch.allclose(logits(branch), before, atol=1e-4)
    branch.train(3, constant(), total=8)
    assert not torch.allclose(logits(branch), before, atol=1e-4)


def test_channel_form_begins_as_the_same_network_with_the_same_moments() -> None:
    branch = begin("widen", 3)
    learner = as_learner(branch, width=0.5)
    images, _ = branch.batches.batch(99)
    before = learner.model.train()(images).detach()
    assert torch.allclose(before, logits(branch), atol=1e-4)
    learner.step(1.0)
    branch.train(4, constant(), total=8)
    after = learner.model(images).detach()
    # Adam divides small gradients by themselves, and with them the rounding of this processor's convolutions
    assert (after - logits(branch)).abs().max() < 0.02 * (after - before).abs().max(), "one more update is the same"
    assert (learner.steps, learner.flops) == (branch.steps, branch.flops)


def test_fork_goes_on_to_the_same_bits_and_leaves_the_trunk_alone() -> None:
    trunk = begin("widen", 2)
    before, fork = logits(trunk), trunk.fork().train(4, constant(), total=8)
    assert torch.equal(logits(trunk), before)
    assert torch.equal(logits(trunk.train(4, constant(), total=8)), logits(fork))


def test_new_blocks_warm_up_and_the_rate_rule_slows_all() -> None:
    transform, moved = poster.CHANGES["widen"].transform, {}
    for name, options in (("plain", {}), ("warm-up", {"warmup": 4}), ("rule", {"rate_rule": True})):
        branch = begin("widen", 2).grow(transform, **options)  # type: ignore[arg-type]
        bank = branch.optimizer.bank
        before = {key: tensor.detach().clone() for key, tensor, _ in bank.parameters()}
        branch.train(3, constant(), total=8)
        new = [key for key in before if "-" in key and not key.startswith(("seed", "head")) and key.endswith("/mixing")]
        tensors = {key: tensor.detach() for key, tensor, _ in bank.parameters()}
        moved[name] = max(float((tensors[key] - before[key]).abs().max()) for key in new)
    assert moved["warm-up"] == pytest.approx(moved["plain"] / 4, rel=0.01)
    assert 0.5 * moved["plain"] < moved["rule"] < 0.99 * moved["plain"]


@pytest.mark.parametrize("moment", poster.LATE)
def test_controls_spend_what_the_growth_spends_to_within_an_update(moment: float) -> None:
    full, small = training_flops(BASE, 1), training_flops(poster.half_as_wide(BASE), 1)
    spent = round(moment * 6000) * small + (6000 - round(moment * 6000)) * full
    equal = poster.equal_steps(BASE, "widen", moment, 6000)
    assert 0 <= spent - equal["base"] * full < full
    assert 0 <= spent - equal["small"] * small < small


def test_cells_that_were_left_are_told_and_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    heard: list[str] = []
    chosen = replace(POSTER_GROWTH, only=("widen-at-50-*", "widen-scratch-*"))
    options = {"data": "digits", "scale": SETTING.scale, "threads": 1, "precision": "float32"}
    summary = run_grid(chosen, tmp_path, seeds=[0], note=heard.append, **options)  # type: ignore[arg-type]
    assert "PFLOP of training" in heard[1]
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (tmp_path / "tables.md").read_text().count("## ") >= 2
    assert list(tmp_path.glob("*.svg"))
    assert summary["cells"] == ["widen-scratch-s0", "widen-at-50-s0"]
    assert "widen-cosine-s0" in summary["cells_not_run"]
    rows = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()}
    grown = next(run for run in rows["widen-at-50-s0"]["runs"] if run["schedule"] == "constant")
    base = rows["widen-scratch-s0"]["runs"][-1]
    assert _correct(grown)[:270].mean() == pytest.approx(grown["test_accuracy"], abs=1e-6)
    found = next(
        e for e in summarise(rows)["differences"] if e["control"] == "base network" and e["schedule"] == "constant"
    )
    assert found["by_seed"][0] == pytest.approx(100 * (grown["test_accuracy"] - base["test_accuracy"]), abs=0.2)
    with pytest.raises(ConfigError, match="expected --only to fit some cells"):
        run_grid(replace(POSTER_GROWTH, only=("wide",)), tmp_path, seeds=[0], note=lambda _: None, **options)  # type: ignore[arg-type]
