from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import InputError, RunError
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, compose
from graftwork.metrics import make_profile
from graftwork.networks.genome import Genome, seed_genome
from graftwork.reports import (
    bars_figure,
    curves_figure,
    difference,
    figure_svg,
    graft_generations,
    pareto_figure,
    pareto_front,
    profile_figure,
    read_run,
    standings,
    worst_mistakes,
    write_figure,
)
from graftwork.reports._lineage import lay_out_lineage
from graftwork.reports._profile import ruler_of
from graftwork.reports._read import Birth
from graftwork.typing import MemberId
from tests.reports.synthetic import make_run_folder


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=25))
def test_no_edge_of_the_family_tree_crosses_a_life(choices: list[tuple[int, int]]) -> None:
    births = {MemberId("m0"): Birth(MemberId("m0"), None, "seed", 0)}
    for number, (parent, later) in enumerate(choices, start=1):
        chosen = list(births.values())[parent % len(births)]
        generation = max(list(births.values())[-1].generation, chosen.generation) + later
        births[MemberId(f"m{number}")] = Birth(MemberId(f"m{number}"), chosen.id, "widen", generation)
    branches = {branch.birth.id: branch for branch in lay_out_lineage(births, {}, set())}
    assert sorted(branch.row for branch in branches.values()) == list(range(len(births)))
    for branch in branches.values():
        if branch.birth.parent is None:
            continue
        above = branches[branch.birth.parent].row
        assert above < branch.row
        for other in branches.values():
            if above < other.row < branch.row:
                assert other.birth.generation >= branch.birth.generation


@settings(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(0, 8))
def test_ancestry_tells_when_each_block_was_grafted(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    genome: Genome = seed_genome("poster", (1, 8, 8), 10)
    line = [Birth(MemberId("m0"), None, "seed", 0)]
    expected: dict[str, int | None] = {block.id: 0 for block in genome.blocks()}
    for number in range(1, count + 1):
        layers = [place for place, item in enumerate(genome.body) if item in genome.layers]
        widen = R2RWiden(int(rng.choice(layers)), int(rng.choice([1, 3, 5])), channels=(0, 1) if number % 3 else None)
        deepen = R2RDeepen(int(rng.integers(len(genome.body) + 1)), (1, 5) if number % 2 else (3,))
        growth = [widen, deepen, compose(widen, deepen)][number % 3](genome, rng=rng)
        generation = number // 2 + 1  # several births in one generation
        expected |= {block.id: generation for block in growth.child.blocks() if block.id not in expected}
        line.append(Birth(MemberId(f"m{number}"), line[-1].id, growth.transform, generation))
        genome = growth.child
    assert graft_generations(genome, line) == expected


def test_ancestry_that_does_not_fit_the_genome_is_unknown_not_invented() -> None:
    genome = seed_genome("poster", (1, 8, 8), 10)
    line = [Birth(MemberId("m0"), None, "seed", 0), Birth(MemberId("m1"), MemberId("m0"), "widen layer 0 by 5×5·6", 1)]
    assert set(graft_generations(genome, line).values()) == {None}


def test_pareto_front_keeps_what_nothing_beats_at_less_cost() -> None:
    assert pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (3, 0.8)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_ruler_gives_disputed_examples_most_of_the_width() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    predicted = np.zeros((2, 1000), dtype=np.int64)
    predicted[:, :20] = 1
    predicted[0, 20:70] = 1
    ruler = ruler_of(make_profile(predicted, labels, names=["a", "b"]))
    assert ruler.positions == (0, 930, 980, 1000)
    places = ruler.place(np.arange(1001))
    assert np.all(np.diff(places) > 0)
    assert (places[0], places[-1]) == (0, 1)
    assert places[980] - places[930] == pytest.approx(0.7)


def test_profiles_of_two_runs_stand_on_one_ruler(bare_folder: Path, tmp_path: Path) -> None:
    run = read_run(bare_folder)
    text = figure_svg(profile_figure(run, run, by_class=True)) + figure_svg(profile_figure(run, run))
    assert text.count(f">{run.best}<") == 4
    other = read_run(make_run_folder(tmp_path, seed=5, num_generations=1))
    with pytest.raises(RunError, match="different validation examples"):
        profile_figure(run, other)
    unfinished = read_run(make_run_folder(tmp_path, name="young", num_generations=1, finished=False))
    with pytest.raises(RunError, match="no validation predictions"):
        profile_figure(unfinished)


def test_standing_and_difference_follow_from_the_predictions(bare_folder: Path) -> None:
    run = read_run(bare_folder)
    test = run.predictions["test"]
    for row in standings(run):
        name = f"ensemble/{row.id}" if row.kind == "ensemble" else row.id
        assert row.test_accuracy == pytest.approx(np.mean(test.predicted(name) == test.labels))
        assert row.interval[0] < row.test_accuracy < row.interval[1]
    gap = difference(run)
    assert gap is not None
    assert gap.interval is not None
    assert gap.interval[0] < gap.value < gap.interval[1]
    assert gap.verdict == "more than the noise of the test split"


def test_worst_mistakes_are_wrong_and_ordered_by_confidence(bare_folder: Path) -> None:
    run = read_run(bare_folder)
    assert run.best is not None
    test = run.predictions["test"]
    mistakes = worst_mistakes(test, run.best, count=5)
    shares = test.probabilities(run.best)
    wrong = test.predicted(run.best) != test.labels
    assert [m.confidence for m in mistakes] == sorted(shares.max(axis=1)[wrong], reverse=True)[:5]
    assert all(m.label != m.predicted and m.index == test.index[m.position] for m in mistakes)


def test_experiment_plots_are_written_whole_and_alike_each_time(tmp_path: Path) -> None:
    def curves() -> str:
        figure = curves_figure(
            [("ours", [1, 2, 3], [0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]), ("<control>", [1, 2], [0.4, 0.5])],
            xlabel="steps",
            ylabel="accuracy",
            reference=("published", 0.65),
        )
        return write_figure(figure, tmp_path / "deep" / "curves")

    assert curves() == curves()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["curves.png", "curves.svg"]
    assert "&lt;control&gt;" in curves()
    bars = figure_svg(bars_figure([("greedy", 91.234), ("random", 90.1, 89.0, 91.0)], xlabel="%", highlight=["greedy"]))
    assert "91.23" in bars


def test_experiment_plots_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(InputError, match="at least one"):
        curves_figure([], xlabel="x", ylabel="y")
    with pytest.raises(InputError, match="'a'"):
        curves_figure([("a", [1, 2], [1])], xlabel="x", ylabel="y")
    with pytest.raises(InputError, match="at least one"):
        bars_figure([], xlabel="x")


def test_drawing_leaves_matplotlib_as_it_was_and_ignores_its_settings() -> None:
    def draw() -> str:
        return figure_svg(bars_figure([("a", 1.0)], xlabel="x"))

    plain = draw()
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        assert draw() == plain
        assert dict(mpl.rcParams) == before


def test_a_cascade_is_drawn_among_the_costs_where_there_is_one(bare_folder: Path) -> None:
    run = read_run(bare_folder)
    legend = [text.get_text() for text in pareto_figure(run, cost="flops").legends[0].get_texts()]
    assert any("cascade" in text for text in legend)
    assert not any("cascade" in t.get_text() for t in pareto_figure(run, cost="parameters").legends[0].get_texts())
