"""Growth against the strict envelope: trunks that branch, grow and go on from disk to the same bits; what they cost."""

import json
from dataclasses import asdict, replace
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.growing import ENVELOPE, run_grid
from experiments.growing import _envelope_plan as plan
from experiments.growing import _envelope_runs as runs
from experiments.growing import _envelope_trunks as trunks
from experiments.growing import _envelope_uses as uses
from experiments.growing._envelope_plan import Run, Size
from experiments.growing._envelope_report import best_rates, strict_envelope, summarise
from experiments.growing._envelope_uses import use_tables
from experiments.growing._grid import Cell, Setting
from experiments.growing._text import Corpus, package_sources
from graftwork.errors import ConfigError, DataError

SMALL, DEEP, WIDE = Size(16, 1), Size(16, 2), Size(24, 1)
SCALE = 4e-5
EQUAL = ("loss", "updates", "flops", "parameters")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short windows and a short text."""
    for name, value in (("CONTEXT", 8), ("BATCH_SIZE", 2), ("WINDOWS", 8), ("WARMUP", 3), ("HEAD", 4)):
        monkeypatch.setattr(trunks, name, value)
    for name, value in (("CONTEXT", 8), ("BATCH_SIZE", 2)):
        monkeypatch.setattr(runs, name, value)
    text = torch.arange(3000, dtype=torch.uint8) % 97
    monkeypatch.setattr(trunks.families, "corpus", lambda: Corpus(text, text[:500], "fingerprint", ()))
    for cached in (trunks.text_of, runs._cost):
        cached.cache_clear()


def setting(folder: Path) -> Setting:
    return Setting("digits", (0,), SCALE, folder=str(folder))


def cell(run: Run, budget: float) -> Cell:
    options = {**asdict(run), "budget": budget, "seed": 0}
    return Cell(f"{run}-{budget:g}T-s0", budget * plan.TERA * SCALE, options)


def test_branch_off_a_trunk_is_the_same_training_run_alone(tmp_path: Path) -> None:
    shared = setting(tmp_path / "shared")
    runs.run_cell(shared, cell(Run((SMALL,)), 0.8))
    row = runs.run_cell(shared, cell(Run((SMALL,)), 1.6))
    budget = 1.6 * plan.TERA * SCALE
    alone = trunks.begin(trunks.Lineage(0, 1.0, False, (SMALL,)), shared)  # no disk, no branch
    while alone.flops + alone.step_flops <= 0.75 * budget:
        alone.step(min(1.0, (alone.steps + 1) / 3))
    while alone.flops + alone.step_flops <= budget:
        alone.step(min(1.0, (budget - alone.flops) / (0.25 * budget)))
    assert (row["loss"], row["updates"], row["flops"]) == (alone.point()["loss"], alone.steps, alone.flops)
    assert row["updates"] > 20
    assert row["spent_flops"] == pytest.approx(alone.flops - 0.6 * plan.TERA * SCALE, abs=2 * alone.step_flops)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(Run((SMALL, DEEP)), marks=pytest.mark.slow),
        pytest.param(Run((SMALL, DEEP), init="copy", rewarmed=False), marks=pytest.mark.slow),
        Run((SMALL, DEEP, Size(24, 2)), init="r2r", rewarmed=False),
    ],
    ids=str,
)
def test_resumed_cell_equals_an_unbroken_one(run: Run, tmp_path: Path) -> None:
    """Both grow at the same moment; the trunk of the smaller budget is kept, and the larger goes on from it."""
    broken, alone = setting(tmp_path / "broken"), setting(tmp_path / "alone")
    last = cell(replace(run, share=0.15), 1.6)
    runs.run_cell(broken, cell(replace(run, share=0.3), 0.8))
    assert runs.cost(broken, [last]) < 0.7 * runs.cost(alone, [last])
    one, other = runs.run_cell(broken, last), runs.run_cell(alone, last)
    assert {key: one[key] for key in EQUAL} == {key: other[key] for key in EQUAL}
    assert one["spent_flops"] < 0.75 * other["spent_flops"]
    sizes = trunks.begin(trunks.Lineage(0, 1.0, False, run.sizes[-1:]), alone)
    assert one["parameters"] == sum(p.numel() for p in sizes.model.parameters())
    assert one["update_flops"] == sizes.step_flops, "a grown network costs what one of its size does"


def test_flops_are_those_of_products_and_of_updates_before_and_after_the_growth(tmp_path: Path) -> None:
    assert trunks.orthogonal_flops(4, 4) == 3 * 3 * 2 * 4**3, "three iterations of three products"
    learner = trunks.begin(trunks.Lineage(0, 1.0, False, (SMALL,)), setting(tmp_path))
    width, length = 16, 8
    products = 2 * length * (12 * width**2 + 256 * width) + 4 * length**2 * width
    muon = 4 * trunks.orthogonal_flops(width, width) + 2 * trunks.orthogonal_flops(width, 4 * width)
    assert learner.step_flops == 2 * 3 * products + muon, "two windows, three passes"
    row = runs.run_cell(setting(tmp_path), cell(Run((SMALL, DEEP), share=0.3), 0.8))
    budget, first, second = 0.8 * plan.TERA * SCALE, row["first_update_flops"], row["update_flops"]
    before = int(0.3 * budget // first)
    stable = int((0.75 * budget - before * first) // second)
    falling = int((budget - before * first - stable * second) // second)
    assert row["flops"] == before * first + (stable + falling) * second
    assert row["updates"] == before + stable + falling
    assert row["tokens"] == 2 * 8 * row["updates"]


def test_what_is_new_moves_by_the_share_of_the_rate_that_it_has_reached(tmp_path: Path) -> None:
    for old, new in ((SMALL, DEEP), (SMALL, WIDE)):
        trunk = trunks.begin(trunks.Lineage(0, 1.0, False, (old,)), setting(tmp_path))
        for _ in range(5):
            trunk.step(1.0)
        plain = trunk.fork()
        for learner in (trunk, plain):
            trunks.grow_last(learner, trunks.Lineage(0, 1.0, False, (old, new), (1.0,), init="r2r"))
        plain.warm_up({})
        start = {name: p.detach().clone() for name, p in trunk.model.named_parameters()}
        trunk.step(1.0)
        plain.step(1.0)
        seen = 0
        for name, mask in trunk._new.items():
            slow, fast = (m.get_parameter(name).detach() - start[name] for m in (trunk.model, plain.model))
            assert torch.allclose(slow[mask], fast[mask] / 3, atol=1e-6)
            assert torch.equal(slow[~mask], fast[~mask])
            seen += int(mask.sum())
        assert seen == sum(p.numel() for p in trunk.model.parameters()) - sum(
            p.numel() for p in old.build(0).parameters()
        )


def row_of(sizes: tuple[Size, ...], loss: float, *, rate: float = 1.0, budget: float = 1.6, seed: int = 1) -> Any:
    options = {**asdict(Run(sizes, rate, share=0.3)), "budget": budget, "seed": seed}
    costs = {"flops": 1.0, "tokens": 8, "parameters": 2, "update_flops": 2.0, "first_update_flops": 1.0}
    return {"options": json.loads(json.dumps(options)), "loss": loss, "data": {"fingerprint": ""}, **costs}


def test_envelope_takes_the_best_rate_of_every_size_and_growth_is_tuned_alike() -> None:
    scratch = [row_of((SMALL,), 2.0, rate=0.5), row_of((SMALL,), 1.8), row_of((DEEP,), 1.7, rate=2.0)]
    scratch += [row_of((DEEP,), 1.9), row_of((SMALL,), 1.2, budget=3.2), row_of((DEEP,), 1.3, budget=3.2)]
    scratch += [row_of((SMALL,), 1.0, seed=2), row_of((SMALL,), 1.1, budget=2.4)]
    best = best_rates(scratch)
    assert best["w16d1", 1, 1.6]["options"]["rate"] == 1.0
    assert best["w16d2", 1, 1.6]["options"]["rate"] == 2.0
    assert strict_envelope(scratch)[1, 1.6] is scratch[2]
    assert set(strict_envelope(scratch)) == {(1, 1.6), (1, 3.2)}, "one size alone is no envelope"
    grown = [row_of((SMALL, DEEP), 1.6), row_of((SMALL, DEEP), 1.45, rate=2.0)]
    screen = [row_of((SMALL,), 0.5, seed=0)]
    found = summarise({str(number): row for number, row in enumerate([*scratch, *grown, *screen])})
    (growth,) = found["claims"]["growth"]
    assert growth["difference"]["mean"] == pytest.approx(1.45 - 1.7), "seed 0 and other budgets are no controls"
    assert growth["rates"] == {"1": 2.0}
    assert growth["share_of_flops"] == [pytest.approx(2**-0.5, abs=1e-3)], "half way from 1.7 at 1.6 to 1.2 at 3.2"
    assert (growth["cost_ratio"], growth["tokens_per_parameter"]) == (2.0, 4.0)
    assert found["screen"]["growth"] == []


def test_screen_has_24_cells_of_one_seed_and_claims_have_other_seeds_and_other_text(tmp_path: Path) -> None:
    screen = runs.cells(setting(tmp_path))
    assert len({cell.name for cell in screen}) == 24
    claims = runs.cells(replace(setting(tmp_path), seeds=(1,)))
    assert {cell.options["seed"] for cell in claims} <= {1}
    one, other = (trunks.text_of(seed, large=False) for seed in (0, 1))
    assert torch.equal(one.train, other.train)
    assert len(one.validation) + len(other.validation) == 500
    assert not torch.equal(one.validation, other.validation)


def test_grid_tells_cost_minutes_and_what_was_not_run(tmp_path: Path) -> None:
    heard: list[str] = []
    only = ("w64d1-x1-1.6T-*", "w64d1-w64d2-x1-f0.5-*")
    options: dict[str, Any] = {"data": "digits", "scale": 5e-4, "threads": 1, "precision": "float32"}
    summary = run_grid(replace(ENVELOPE, only=only), tmp_path, seeds=[0], note=heard.append, **options)
    assert "2 of 24 cells to run, 0.0000 PFLOP of training, about 0 minutes" in heard[1]
    assert "22 were not run: w64d1-x0.5-1.6T-s0" in heard[-1]
    assert summary["claimed_flops"] > summary["training_flops"] > 0.5 * summary["claimed_flops"]
    tables = (tmp_path / "tables.md").read_text()
    assert "Cells that were run: 2" in tables
    assert "Cells that were not run: 22" in tables
    assert (tmp_path / "screen.svg").is_file()
    with pytest.raises(ConfigError, match="less than one update"):
        run_grid(
            replace(ENVELOPE, only=only), tmp_path / "b", seeds=[0], note=heard.append, **{**options, "scale": 1e-9}
        )


def test_larger_corpus_is_what_packages_ship_or_a_reason() -> None:
    corpus = package_sources(("filelock",), least=1000)
    assert len(corpus.train) > len(corpus.validation) > 0
    assert "filelock" in corpus.text
    with pytest.raises(DataError, match=r"expected at least 1,000,000,000 bytes .* found \d"):
        package_sources(("filelock",), least=10**9)
    with pytest.raises(DataError, match="the package no_such_package to be installed"):
        package_sources(("no_such_package",))


def test_one_trunk_serves_several_budgets_and_grows_where_it_is_told(tmp_path: Path) -> None:
    """Before its moment a run is one from scratch, to the bit; after it, the trunks of two budgets are one."""
    run = Run((SMALL, DEEP), at=(0.7,))
    assert str(run) == "w16d1-w16d2-x1-at0.7-zero-out-rewarmed"
    plain, shared = setting(tmp_path / "plain"), setting(tmp_path / "shared")
    early, scratch = runs.run_cell(shared, cell(run, 0.8)), runs.run_cell(plain, cell(Run((SMALL,)), 0.8))
    assert {key: early[key] for key in EQUAL} == {key: scratch[key] for key in EQUAL}, "the rate falls from 0.6 on"
    for budget in (1.0, 1.6):
        late = runs.run_cell(shared, cell(run, budget))
        alone = runs.run_cell(setting(tmp_path / f"{budget}"), cell(replace(run, at=(), share=0.7 / budget), budget))
        assert {key: late[key] for key in EQUAL} == {key: alone[key] for key in EQUAL}
    assert late["spent_flops"] < alone["spent_flops"]


def test_a_family_pays_for_each_stretch_of_its_trunk_once() -> None:
    run = Run((SMALL, DEEP), at=(1.0,))
    assert uses.price([(run, 2.0)]) == pytest.approx(2.0)
    assert uses.price([(run, 2.0), (run, 0.8)]) == pytest.approx(2.2), "0.6 of the trunk are there already"
    three = Run((SMALL, DEEP, WIDE), share=0.3)
    members = [(Run((SMALL,)), 1.28), (Run((SMALL, DEEP), share=0.3), 3.2), (three, 6.4)]
    assert uses.price(members) == pytest.approx(1.28 + (3.2 - 0.96) + (6.4 - 1.92)), "both grow at 0.96, then at 1.92"
    assert uses.price(members[::-1]) == pytest.approx(8.0)


def loss_of(run: Run, budget: float, seed: int) -> float:
    """A curve for each size; what grows is 0.1 lower than its last size from scratch."""
    last = run.lineage(seed, budget * plan.TERA, large=False).sizes[-1]
    grown = len(run.sizes) > 1 and last != run.sizes[0]
    return 2 - 0.2 * log2(budget) + (last.width * last.depth / 48 - 2) ** 2 * 0.1 / budget + 0.01 * seed - 0.1 * grown


def test_uses_compare_with_scratch_at_the_budgets_that_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "HEAD", 16)
    rows = []
    for run, budget in plan.claims():
        for seed in (1, 2) if run.rate == 1 else ():
            row = row_of(run.sizes, loss_of(run, budget, seed), budget=budget, seed=seed)
            row["options"] |= json.loads(json.dumps(asdict(run)))
            rows.append(row)
    found = summarise({str(number): row for number, row in enumerate(rows)})["claims"]
    family = found["families"][0]
    assert family["alone"] == pytest.approx(1.28 + 3.2 + 6.4)
    assert family["largest"][0]["price"] == pytest.approx(8.0)
    first, second, third = family["largest"][0]["differences"]
    assert (first["mean"], second["mean"], third["mean"]) == (0, pytest.approx(-0.1), pytest.approx(-0.1))
    assert family["reached"] == [None, None], "the cheapest is better than all from scratch"
    assert uses._reached({8.0: [0, 0.1, -0.1], 9.0: [0, -0.1, -0.2]}, 10.0) == pytest.approx(72**0.5 / 10)
    regret = found["anytime"]["regret"]
    assert found["anytime"]["moments"] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    assert regret["w48d2"]["by_moment"][-1]["mean"] == pytest.approx(0), "it is the best size of this world"
    assert regret["start again with twice as much"]["by_moment"][-1]["mean"] == pytest.approx(0.2)
    assert regret["w48d1 → w48d2 → w48d3"]["by_moment"][3]["mean"] == pytest.approx(-0.1)
    sunk = {(entry["sizes"][-1], entry["ratio"]): entry["differences"] for entry in found["sunk"]}
    scratch = sunk["w48d2", 4]["the best size from scratch"]
    assert (scratch["mean"], scratch["num"]) == (pytest.approx(-0.1 - 0.2 * log2(5 / 4), abs=5e-3), 2)
    assert all(growth["share"] > 0 and growth["loss"]["num"] == 2 for growth in found["growth"])
    assert "a family from one trunk" in "".join(map(str, use_tables("Claims", found)))
