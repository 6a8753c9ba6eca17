"""Options: read, checked, written, and turned into a plan."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.errors import ConfigError
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import training_flops
from graftwork.session import Problem, SearchConfig, Setup, parse_budget, prepare
from graftwork.training import RECIPES

SMALL = {"recipe": "paper", "num_generations": 4, "precision": "float32"}


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("10m", "seconds", 600),
        ("10min", "seconds", 600),
        ("90s", "seconds", 90),
        (" 1.5H ", "seconds", 5400),
        ("0.05PFLOP", "flops", 5e13),
        ("200 TFLOPs", "flops", 2e14),
        (".5gflop", "flops", 5e8),
        ("1e3TFLOP", "flops", 1e15),
        ("20000steps", "steps", 20000),
        ("1step", "steps", 1),
    ],
)
def test_budgets_are_read_in_every_unit(text: str, kind: str, amount: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.amount) == (kind, pytest.approx(amount))


@pytest.mark.parametrize(
    "text", ["", "10", "m", "soon", "-5m", "0steps", "0.0PFLOP", "5 d", "10m 5s", "1e5", "nans", "10ms"]
)
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="budget: expected a time"):
        parse_budget(text)
    with pytest.raises(ConfigError, match="budget"):
        SearchConfig.from_dict({"budget": text})
    with pytest.raises(ConfigError, match="parse_budget reads one"):
        SearchConfig(budget=text)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_toml(name: str, tmp_path: Path) -> None:
    config = SearchConfig.from_dict({"recipe": name, "budget": "10m", "threads": 2, "selection": "pareto", "seed": 3})
    path = tmp_path / "c.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert SearchConfig.load(path) == config
    assert SearchConfig.load(path).to_toml() == config.to_toml()


def test_effective_config_holds_every_option_that_is_set() -> None:
    written = tomllib.loads(SearchConfig().to_toml())
    unset = {key for key, value in SearchConfig().to_dict().items() if value is None}
    assert set(written) | unset == {entry.name for entry in fields(SearchConfig)}
    assert unset == {"genome", "budget", "split_seed", "threads", "image_size", "image_column", "label_column"} | {
        "group_column",
        "image_root",
        "max_latency",
        "max_parameters",
        "max_memory",
        "trunk",
        "max_flops",
    }
    recipe = RECIPES["default"]
    none = {entry.name for entry in fields(recipe) if getattr(recipe, entry.name) is None}
    assert set(written["recipe"]) | none == {entry.name for entry in fields(recipe)}


def test_flags_win_over_the_file_and_flags_that_are_none_do_not(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('seed = 3\nbudget = "5m"\nbatch_size = 16\n[recipe]\nname = "paper"\nnum_survivors = 2\n')
    config = SearchConfig.load(path, seed=5, budget=None, population_size=7)
    assert (config.seed, str(config.budget)) == (5, "5m")
    recipe = config.recipe
    assert (recipe.name, recipe.num_survivors, recipe.population_size, recipe.batch_size) == ("paper", 2, 7, 16)
    assert recipe.rules == RECIPES["paper"].rules


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"popluation_size": 3}, "'popluation_size'; did you mean 'population_size'"),
        ({"sed": 3}, "did you mean 'seed'"),
        ({"recipe": {"name": "paper", "num_survivers": 3}}, "num_survivors"),
        ({"recipe": 3}, "recipe: expected a name or a table"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"threads": 0}, "threads"),
        ({"workers": 0}, "workers: expected an integer >= 1"),
        ({"workers": "two"}, "workers: expected an integer >= 1, got 'two'"),
        ({"precision": "float16"}, "float16"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"selection": "gredy"}, "greedy"),
        ({"scoring_batch_size": 0}, "scoring_batch_size"),
    ],
)
def test_wrong_options_are_refused_by_name_with_the_nearest_one(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchConfig.from_dict(data)


def test_files_that_are_missing_or_no_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        SearchConfig.load(tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("seed = = 3")
    with pytest.raises(ConfigError, match=r"expected TOML in .*c\.toml"):
        SearchConfig.load(tmp_path / "c.toml")


@pytest.mark.parametrize("text", ["wtrategy = 'x'\n", "[recipe.rules.filter]\ndecouplel = true\n", "seed = -1\n"])
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.toml: .*expected"):
        SearchConfig.load(tmp_path / "c.toml")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.load(SearchConfig())


def made(problem: Problem, **options: Any) -> Setup:
    return prepare(SearchConfig.from_dict({**SMALL, **options}), problem=problem)


def test_a_budget_in_steps_is_split_as_the_recipes_own_steps_are(problem: Problem) -> None:
    plan = made(problem, budget="100steps").plan
    assert (plan.initial_steps, plan.steps_per_generation, plan.flops) == (20, 20, None)
    plan = made(problem, budget="100steps", initial_fraction=0.6).plan
    assert (plan.initial_steps, plan.steps_per_generation) == (60, 10)
    plan = made(problem, budget="100steps", num_generations=0).plan
    assert plan.total_steps == 100
    plan = made(problem).plan
    assert (plan.initial_steps, plan.steps_per_generation) == (5000, 5000)


def test_a_budget_in_flops_is_the_plans(problem: Problem) -> None:
    plan = made(problem, budget="2TFLOP", initial_fraction=0.5).plan
    assert (plan.flops, plan.total_steps, plan.first_fraction) == (2 * 10**12, None, 0.5)
    assert plan.flops_until(4) == plan.flops


def test_a_time_budget_becomes_flops_at_the_speed_measured(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.session._planning.calibrate_speed", lambda *a, **k: 1e10)
    setup = made(problem, budget="10m")
    assert setup.speed == 1e10
    assert setup.plan.flops is not None
    assert 0.85 * 6e12 <= setup.plan.flops <= 6e12


def test_a_budget_too_small_for_every_round_makes_fewer_and_one_without_a_step_is_refused(problem: Problem) -> None:
    for budget, generations in (("1steps", 0), ("4steps", 3), ("100steps", 4)):
        assert made(problem, budget=budget).plan.num_generations == generations
    with pytest.raises(ConfigError, match="budget"):
        made(problem, budget="0.001GFLOP")


def test_without_a_budget_a_recipe_in_flops_gets_those_of_two_thousand_steps(problem: Problem) -> None:
    setup = made(problem, initial_fraction=0.5, steps_per_generation=None)
    assert setup.plan.flops == 2000 * training_flops(setup.population.genomes[0], setup.trainer.batch_size)


def test_images_are_shrunk_where_the_head_pools_and_enough_is_left(problem: Problem) -> None:
    """Digits are 8 pixels wide: never. At 32 pixels: by the recipe's scale; the control trains likewise."""
    assert made(problem, recipe="default", budget="100steps").plan.small_size is None
    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 24, 3), dtype=np.uint8)
    dataset = replace(problem.dataset, images=np.resize(pixels, (len(problem.dataset.images), 32, 24, 3)))
    transform = InputTransform((0.5,) * 3, (0.25,) * 3)
    wide = Problem(dataset, problem.splits, transform)
    options: dict[str, Any] = {"recipe": "default", "budget": "100steps"}
    plan = made(wide, **options).plan
    assert (plan.small_size, plan.small_share) == ((24, 18), RECIPES["default"].small_share)
    assert made(wide, **options, small_scale=0.5).plan.small_size is None  # 12 pixels
    assert made(wide, **options, small_share=0.0).plan.small_size is None
    assert made(wide, **options, seed_genome="poster").plan.small_size is None  # a weight for every position
    assert made(wide, recipe="paper").plan.small_size is None


def test_statistics_and_the_input_transform_come_from_training_images_only(problem: Problem) -> None:
    rows = problem.calibration_rows(10**6)
    assert len(rows) == len(problem.splits.train)
    assert set(problem.calibration_rows(100)) < set(problem.splits.train)
    pixels = problem.images(problem.splits.train).double() / 255
    assert np.allclose(problem.transform.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    assert np.allclose(problem.transform.std, pixels.std((0, 1, 2)), atol=1e-4)


def test_options_of_growth_and_selection_reach_the_search(problem: Problem) -> None:
    options = {"random_padding": True, "max_parameters": 123, "max_flops": 456, "min_shared_fraction": 0.3}
    options |= {"concat_probability": 0.25, "hidden_multiple": 0.5, "deepen_probability": 0.75}
    parts = made(problem, selection="pareto", num_survivors=2, population_size=5, **options).parts
    assert {name: getattr(parts["strategy"].mutate, name) for name in options} == options
    assert type(parts["strategy"].selector).__name__ == "ParetoSelector"
    assert (parts["num_survivors"], parts["population_size"]) == (2, 5)
    assert parts["scorer"].batch_size == 500
    assert made(problem, scoring_batch_size=30).parts["scorer"].batch_size == 30


@pytest.mark.parametrize("metric", ["macro-f1", "log-loss"])
def test_scores_of_whole_members_are_refused_with_coevolution_by_name(metric: str) -> None:
    with pytest.raises(ConfigError, match=rf"coevolution selection, which looks at each example, got {metric}"):
        SearchConfig.from_dict({"metric": metric, "selection": "coevolution"})
    for selection in ("greedy", "pareto"):
        assert SearchConfig.from_dict({"metric": metric, "selection": selection}).metric == metric
    assert SearchConfig.from_dict({"metric": "balanced-accuracy", "selection": "coevolution"})
    with pytest.raises(ConfigError, match="did you mean 'macro-f1'"):
        SearchConfig.from_dict({"metric": "macro_f1"})
