"""Growth experiments run in miniature, store every cell, go on where they broke off, and compare at equal FLOPs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.growing import GRIDS, run_grid
from experiments.growing import _carry as carry
from experiments.growing import _deep_growth as deep
from experiments.growing import _families as families
from experiments.growing import _growth as growth
from experiments.growing import _poster_growth as poster
from experiments.growing._envelope import flops_to_reach, lower_envelope
from experiments.growing._grid import Setting
from experiments.growing._learner import Learner, training_flops
from experiments.growing._models import ByteGPT
from experiments.growing._text import FILES, Corpus, standard_library
from graftwork.errors import ConfigError
from graftwork.training import generator_for

OPTIONS = {"data": "digits", "threads": 1, "precision": "float32"}
SETTING = Setting("digits", (0,), 1.0)


def tiny_corpus() -> Corpus:
    text = torch.arange(3000) % 97
    return Corpus(text, text[:500], "fingerprint", ())


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models and short runs; fresh processes know nothing of them."""
    gpt = families.GPTFamily(
        depths=(1, 2, 3), width=8, num_heads=2, context=8, batch_size=2, lr=1e-3, base_budget=1.2e6
    )
    resnet = families.ResNetFamily(depths=(1, 2, 3), channels=(2, 4), batch_size=4, base_budget=6e5)
    for name, family in (("gpt", gpt), ("resnet", resnet)):
        monkeypatch.setitem(families.FAMILIES, name, family)
    monkeypatch.setattr(families, "corpus", tiny_corpus)
    for name, value in (("FULL_STEPS", 8), ("POINTS", 2), ("EXAMPLES", 20)):
        monkeypatch.setattr(growth, name, value)
    for name, value in (("FULL_STEPS", 4), ("POINTS", 2)):
        monkeypatch.setattr(poster, name, value)
    moments = {"constant": (0.0, 0.5), "warmup-stable-decay": (0.5,)}
    monkeypatch.setattr(growth, "MOMENTS", moments)
    monkeypatch.setattr(carry, "BEFORE", 1)
    monkeypatch.setattr(carry, "AFTER", 1)
    monkeypatch.setattr(carry, "WINDOW", 3)
    monkeypatch.setattr(carry, "EARLY", 2)
    monkeypatch.setattr(carry, "SUBJECTS", {k: replace(v, examples=4) for k, v in carry.SUBJECTS.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carry", "growth", "poster-growth", "deep-growth"])
def test_grid_tells_its_cost_first_and_leaves_cells_summary_tables_and_figures(name: str, tmp_path: Path) -> None:
    heard: list[str] = []
    summary = run_grid(GRIDS[name], tmp_path, seeds=[0], scale=1.0, note=heard.append, **OPTIONS)
    assert "PFLOP of training" in heard[1]
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert len(list((tmp_path / "cells").glob("*.json"))) == len(GRIDS[name].cells(SETTING)) > 0
    assert (tmp_path / "tables.md").read_text().count("## ") >= 2
    assert list(tmp_path.glob("*.svg"))
    assert summary["training_flops"] > 0


@pytest.mark.slow
def test_broken_off_grid_runs_only_what_is_missing(tmp_path: Path) -> None:
    run_grid(GRIDS["carry"], tmp_path, seeds=[0], scale=1.0, note=lambda _: None, **OPTIONS)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    lost = min(stamps)
    before = json.loads(lost.read_text())["variants"]
    lost.unlink()
    heard: list[str] = []
    run_grid(GRIDS["carry"], tmp_path, seeds=[0], scale=1.0, note=heard.append, **OPTIONS)
    assert "1 of 2 cells" in heard[0]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != lost)
    assert json.loads(lost.read_text())["variants"] == before, "the same seed gives the same numbers"


@pytest.mark.slow
def test_cells_of_another_scale_do_not_mix(tmp_path: Path) -> None:
    run_grid(GRIDS["carry"], tmp_path, seeds=[0], scale=1.0, note=lambda _: None, **OPTIONS)
    with pytest.raises(ConfigError, match="cell of"):
        run_grid(GRIDS["carry"], tmp_path, seeds=[0], scale=2.0, note=lambda _: None, **OPTIONS)
    with pytest.raises(ConfigError, match="begun in float32"):
        run_grid(
            GRIDS["carry"], tmp_path, seeds=[0], scale=1.0, note=lambda _: None, **{**OPTIONS, "precision": "bfloat16"}
        )


@pytest.mark.slow
def test_no_run_spends_more_than_its_budget_and_grown_ones_spend_it_too() -> None:
    cells = [cell for cell in deep.cells(SETTING) if cell.options["family"] == "gpt"]
    assert {cell.options["variant"] for cell in cells} == {None, *deep.VARIANTS}
    family, task = families.FAMILIES["gpt"], families.FAMILIES["gpt"].task(SETTING, 0)
    full = {
        depth: task.batch_size * training_flops(family.build(SETTING, depth, 0), task.batch(0)[0][:1])
        for depth in family.depths
    }
    for cell in cells:
        row = deep.run_cell(SETTING, cell)
        assert len(row["ends"]) == len(deep.BUDGETS)
        for end in row["ends"]:
            assert 0.6 * end["budget"] < end["flops"] <= end["budget"]
            start = end.get("grown_at", {"flops": 0.0, "step": 0})
            cost = (end["flops"] - start["flops"]) / (end["step"] - start["step"])
            assert cost == pytest.approx(full[cell.options["depth"]]), "counted anew after a growth"
        assert 0.6 * cell.flops < row["spent_flops"] < 1.1 * cell.flops


@pytest.mark.slow
def test_r2r_keeps_the_loss_at_the_growth_and_random_layers_do_not() -> None:
    seen = 0
    for cell in deep.cells(SETTING):
        if cell.options["variant"] is None:
            continue
        for end in deep.run_cell(SETTING, cell)["ends"]:
            jump = abs(end["loss_after_growth"] - end["grown_at"]["loss"])
            assert (jump < 1e-5) == (cell.options["variant"] != "random layers")
            seen += 1
    assert seen == 2 * 4 * len(deep.BUDGETS)


def _ends(variant: str | None, depth: int, losses: dict[float, float]) -> Any:
    ends = [{"budget": budget, "loss": loss} for budget, loss in losses.items()]
    return {"options": {"family": "f", "seed": 0, "variant": variant, "depth": depth}, "ends": ends, "data": {}}


def test_growth_is_held_against_the_best_depth_and_against_its_own() -> None:
    """Shallow reaches 1.0 with 2 FLOPs, deep with 4; what grows to deep reaches it with 2."""
    rows = [_ends(None, 1, {1.0: 1.5, 2.0: 1.0, 4.0: 0.75}), _ends(None, 8, {1.0: 3.0, 2.0: 2.0, 4.0: 1.0})]
    found = deep._family([*rows, _ends("r2r", 8, {1.0: 2.0, 2.0: 1.0, 4.0: 0.8})])
    assert {budget: e["loss"] for budget, e in found["envelope"].items()} == {"1": 1.5, "2": 1.0, "4": 0.75}
    envelope, own = (found[key]["r2r to depth 8"] for key in deep.AGAINST)
    assert [envelope[b]["share_of_flops"][0] for b in ("1", "2")] == [None, 1.0]
    assert [own[b]["share_of_flops"][0] for b in ("1", "2", "4")] == [0.5, 0.5, 0.0]
    assert [round(own[b]["loss_difference"]["mean"], 3) for b in ("1", "2", "4")] == [-1.0, -1.0, -0.2]


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=[pytest.mark.slow] if name == "widen" else []) for name in growth.CHANGES]
)
def test_grown_network_costs_what_the_full_one_costs(change: str) -> None:
    task = growth.task_of(SETTING, 0)
    full = growth.build(SETTING, "full", 0)
    example = task.batch(0)[0][:1]
    for method in growth.CHANGES[change].methods:
        learner = Learner(growth.build(SETTING, growth.CHANGES[change].start, 0), task, precision="float32")
        learner.step(1.0)
        before = learner.task.evaluate(learner.model, examples=20)["loss"]
        growth._grow(learner, change, method=method, carry=True, seed=0)
        after = learner.task.evaluate(learner.model, examples=20)["loss"]
        assert training_flops(learner.model, example) == training_flops(full, example)
        assert (abs(after - before) < 1e-5) == (method != "random-padding")
        learner.step(1.0)


def test_optimizer_moments_survive_a_carried_growth_and_are_gone_without() -> None:
    learner = carry.SUBJECTS["gpt"].learner(SETTING, 0)
    learner.step(1.0)
    for carried in (True, False):
        branch = learner.fork()
        weight = branch.model.get_parameter("blocks.0.queries.weight")
        moment = branch.optimizer.state[weight]["exp_avg"].clone()
        optimizer = branch.optimizer if carried else None
        carry.SUBJECTS["gpt"].grow(branch, "r2r", optimizer, generator_for("growth", 0))
        if carried:
            assert torch.equal(branch.optimizer.state[weight]["exp_avg"], moment)
        else:
            branch.renew_optimizer()
            assert weight not in branch.optimizer.state
        held = {id(p) for group in branch.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in branch.model.parameters()}
        assert all(group["initial_lr"] == 1e-3 for group in branch.optimizer.param_groups)


def test_fork_trains_apart_and_alike() -> None:
    learner = carry.SUBJECTS["gpt"].learner(SETTING, 0)
    learner.step(1.0)
    one, other = learner.fork(), learner.fork()
    start = learner.model.get_parameter("head.weight").clone()
    assert one.step(1.0) == other.step(1.0)
    assert torch.equal(learner.model.get_parameter("head.weight"), start)
    assert torch.equal(one.model.get_parameter("head.weight"), other.model.get_parameter("head.weight"))


def test_flops_of_a_transformer_are_those_of_its_matrix_products() -> None:
    depth, width, length = 2, 8, 16
    model = ByteGPT(depth, width=width, num_heads=2, context=length)
    products = 2 * length * (12 * width**2 * depth + 256 * width) + depth * 4 * length**2 * width
    assert training_flops(model, torch.zeros(1, length, dtype=torch.int64)) == 3 * products


def test_envelope_takes_the_best_size_of_every_budget() -> None:
    curves = {"small": {1.0: 2.0, 4.0: 1.9}, "large": {1.0: 2.5, 4.0: 1.5}}
    assert lower_envelope(curves) == {1.0: (2.0, "small"), 4.0: (1.5, "large")}


def test_flops_to_reach_interpolates_and_says_where_it_cannot() -> None:
    line = [(1.0, 2.0), (2.0, 2.2), (4.0, 1.0)]
    assert flops_to_reach(1.0, line) == pytest.approx(4.0)
    assert flops_to_reach(1.5, line) == pytest.approx(2.0)
    assert flops_to_reach(0.9, line) == math.inf
    assert flops_to_reach(2.0, line) == 1.0
    assert flops_to_reach(2.1, line) == 0.0


def test_text_is_the_fixed_list_with_every_tenth_file_held_out() -> None:
    corpus = standard_library()
    assert len(set(FILES)) == len(FILES) > 150
    assert len(corpus.missing) < len(FILES) / 10
    assert len(corpus.train) > 5 * len(corpus.validation) > 1_000_000
    assert corpus.fingerprint == standard_library().fingerprint
