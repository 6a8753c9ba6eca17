"""Recipes are plain values: round trips, errors, what the paper says."""

import json
from typing import Any

import pytest

from graftwork.errors import ConfigError
from graftwork.networks.genome import SEEDS
from graftwork.training import RECIPES, ROLES, Augmentation, Recipe, Rule, make_recipe, same_rule

each_recipe = pytest.mark.parametrize("name", RECIPES)


@each_recipe
def test_every_recipe_is_complete_names_itself_and_survives_json(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert recipe.seed_genome in SEEDS
    assert set(recipe.rules) == set(ROLES)
    assert recipe.make_schedule()(0.5) <= 1
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@each_recipe
def test_values_that_are_none_may_be_left_out_as_in_toml(name: str) -> None:
    data = {key: value for key, value in RECIPES[name].to_dict().items() if value is not None}
    assert Recipe.from_dict(data) == RECIPES[name]


def test_the_paper_recipe_is_the_papers() -> None:
    paper = RECIPES["paper"]
    assert all(
        (rule.optimizer, rule.lr, rule.weight_decay, rule.decoupled) == ("adam", 0.003, 1e-6, False)
        for rule in paper.rules.values()
    )
    assert (paper.batch_size, paper.augmentation, paper.label_smoothing) == (64, Augmentation("none", 0), 0.0)
    assert (paper.schedule, paper.seed_genome) == ("constant", "poster")
    assert (paper.num_survivors, paper.population_size, paper.num_generations) == (3, 10, 15)
    assert (paper.initial_steps, paper.steps_per_generation) == (5000, 5000)
    assert (paper.deepen_probability, paper.kernel_probabilities) == (0.5, (0.30, 0.35, 0.35))


def test_replace_changes_some_values_and_leaves_the_recipe_alone() -> None:
    changed = RECIPES["paper"].replace(batch_size=32, rules={role: Rule("sgd", 0.1) for role in ROLES})
    assert (changed.batch_size, changed.rules["head"].optimizer) == (32, "sgd")
    assert RECIPES["paper"].batch_size == 64
    assert make_recipe("paper", initial_fraction=0.5).initial_steps is None
    assert make_recipe("default", initial_steps=10).initial_fraction is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bach_size": 3}, "did you mean 'batch_size'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"schedule_options": {"final": 0.1}}, "got 'final'"),
        ({"num_survivors": 11}, "at most population_size, got 11 of 10"),
        ({"kernel_probabilities": (0.5, 0.5, 0.5)}, "kernel_probabilities"),
        ({"initial_steps": None}, "exactly one of initial_steps and initial_fraction"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"min_shared_fraction": 2.0}, "min_shared_fraction"),
        ({"lr_scale": "parameter ratio"}, "did you mean 'parameter-ratio'"),
        ({"initialisation": "twins"}, "did you mean 'twin'"),
        ({"rules": {"filter": Rule("adam", 0.1)}}, "a rule for every role"),
        ({"steps_per_generation": 0}, "steps_per_generation"),
    ],
)
def test_wrong_values_are_refused_with_the_key_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RECIPES["paper"].replace(**changes)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("colour",), "got 'colour'"),
        (("augmentation", "flipp"), "did you mean 'flip'"),
        (("rules", "filters"), "did you mean 'filter'"),
        (("rules", "head", "learning_rate"), "got 'learning_rate'"),
    ],
)
def test_unknown_keys_are_refused_at_every_depth(path: tuple[str, ...], message: str) -> None:
    data = RECIPES["paper"].to_dict()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(data)


def test_an_unknown_recipe_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        make_recipe("papper")


def test_few_images_are_shifted_twice_as_far_and_weights_decay() -> None:
    recipe = RECIPES["default"]
    few, many = (recipe.fit((3, 32, 32), num_images=count, uneven=False) for count in (999, 1000))
    assert (few.augmentation.shift, many.augmentation.shift) == (4, 2)
    assert many.rules == recipe.rules
    decays = {role: few.rules[role].weight_decay for role in few.rules}
    assert decays == {**dict.fromkeys(decays, 0.0), "mixing": 0.1, "head": 0.1}
    assert few.rules["head"].decoupled
    assert recipe.replace(few_images=0).fit((3, 32, 32), num_images=9, uneven=False).rules == recipe.rules
    small = recipe.fit((1, 8, 8), num_images=100, uneven=False)
    assert small.augmentation.shift == 1
    paper = RECIPES["paper"]
    assert paper.fit((3, 32, 32), num_images=9, uneven=False) == paper.replace(class_weights="none")


def test_a_decay_that_a_rule_has_stays() -> None:
    own = same_rule(Rule("adam", 1e-3, weight_decay=0.02))
    recipe = RECIPES["default"].replace(rules=own)
    assert recipe.fit((3, 32, 32), num_images=9, uneven=False).rules == own
