"""Sizes are chosen by rule: what the budget reaches for, what memory holds; and stored, so that a resume has them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.datasets import Survey
from graftwork.errors import ConfigError
from graftwork.networks.genome import Genome, seed_genome, training_flops
from graftwork.session import Problem, SearchConfig, Session
from graftwork.session._outline import outline_of, outline_unread
from graftwork.session._sizing import (
    ENOUGH_IMAGES,
    ENOUGH_LARGE,
    choose_size,
    memory_of,
    settle_batches,
    settle_size,
)
from graftwork.training import RECIPES, Recipe
from tests.datasets.test_sources import pixels, write_folder

RECIPE = RECIPES["default"]
PHOTOS = Survey(2000, 224, 224, grey=False)


def training(images: int, side: int, name: str = "default") -> int:
    return training_flops(seed_genome(name, (3, side, side), 2), images)


def size(found: Survey, flops: float | None, most_side: int = 1000, *, recipe: Recipe = RECIPE) -> tuple[int, int]:
    def fits(genome: Genome) -> bool:
        return max(genome.input_shape[1:]) <= most_side

    return choose_size(found, recipe, flops=flops, fits=fits)


def test_without_a_budget_photos_have_the_pixels_of_64() -> None:
    assert size(PHOTOS, None) == (64, 64)
    assert size(Survey(9, 480, 640, grey=True), None) == (55, 74)


@pytest.mark.parametrize(
    ("images", "at", "seed", "expected"),
    [
        (ENOUGH_LARGE, 128, "default", 128),
        (ENOUGH_LARGE - 1, 128, "default", 64),
        (ENOUGH_IMAGES, 64, "small", 64),
        (ENOUGH_IMAGES - 1, 64, "small", 24),
        (1, 24, "small", 24),
    ],
)
def test_a_budget_takes_the_largest_size_at_which_it_reaches_for_enough_images(
    images: int, at: int, seed: str, expected: int
) -> None:
    assert size(PHOTOS, training(images, at, seed)) == (expected, expected)


def test_a_recipe_without_a_smaller_seed_network_counts_its_own() -> None:
    recipe, enough = RECIPE.replace(seed_sizes={}), training(ENOUGH_IMAGES, 64)
    found = [choose_size(PHOTOS, recipe, flops=flops, fits=lambda _: True) for flops in (enough, enough - 1)]
    assert found == [(64, 64), (24, 24)]


def test_a_budget_that_makes_few_updates_gets_smaller_batches_unless_somebody_asked_for_theirs() -> None:
    genome = seed_genome("default", (3, 32, 32), 10)

    def batch(images: int, **asked: Any) -> int:
        config = SearchConfig.from_dict({"budget": "30s", **asked})
        return settle_batches(config, genome, None, flops=training_flops(genome, images))[0].recipe.batch_size

    least, sized = RECIPE.min_updates, {"recipe": RECIPE.replace(seed_sizes={})}
    assert [batch(least * size, **sized) for size in (250, 249, 125, 124, 64, 1)] == [250, 125, 125, 64, 64, 64]
    assert batch(1, batch_size=250) == 250
    assert batch(1, recipe={"name": "default", "batch_size": 200}) == 200
    assert batch(1, recipe="paper") == RECIPES["paper"].batch_size
    assert settle_batches(SearchConfig(), genome, None, flops=None)[0] == SearchConfig()


def test_small_images_are_never_reduced_and_none_is_enlarged() -> None:
    for side in (8, 28, 32):
        assert size(Survey(9, side, side, grey=False), 1.0) == (side, side)
    assert size(Survey(9, 50, 50, grey=False), 1e30) == (50, 50)


def test_a_size_that_memory_does_not_hold_is_passed_over() -> None:
    assert size(PHOTOS, 1e30) == (128, 128)
    assert size(PHOTOS, 1e30, most_side=64) == (64, 64)
    assert size(PHOTOS, 1e30, most_side=1) == (24, 24)


@pytest.mark.parametrize(
    ("given", "stored"), [(16, 16), ("16", 16), ("12x20", "12x20"), ("auto", 64)], ids=["side", "text", "two", "auto"]
)
def test_the_size_that_is_chosen_is_stored(given: Any, stored: Any, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "d", pixels(4, side=70), [0, 0, 1, 1])
    config, notes, _ = settle_size(SearchConfig.from_dict({"data": str(data), "image_size": given}))
    assert config.image_size == stored
    assert bool(notes) == (given == "auto")
    assert SearchConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("wrong", ["big", "0", 0, -3, True, "12x", 1.5])
def test_what_is_no_size_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="image_size: expected auto"):
        SearchConfig.from_dict({"image_size": wrong})


def test_batches_are_halved_until_the_seed_takes_half_of_what_it_may() -> None:
    config, genome = SearchConfig(), seed_genome("default", (3, 64, 64), 10)
    whole = memory_of(config, 1, genome).needed(genome)
    assert settle_batches(config, genome, 2 * whole) == (config, ())
    assert settle_batches(config, genome, None) == (config, ())
    small, notes = settle_batches(config, genome, whole)
    assert memory_of(small, 1, genome).needed(genome) <= whole // 2
    assert small.recipe.batch_size in (125, 62)
    assert len(notes) == 1
    assert settle_batches(small, genome, whole) == (small, ())
    tiny, _ = settle_batches(config, genome, 1)
    assert (tiny.recipe.batch_size, tiny.scoring_batch_size, tiny.recipe.num_calibration) == (16, 50, 50)


def test_a_run_with_little_memory_stores_the_batches_that_fit(tmp_path: Path) -> None:
    options = {"data": "digits", "recipe": "paper", "budget": "2steps", "num_generations": 0, "passes": "torch"}
    options |= {"precision": "float32", "threads": 1, "batch_size": 2048, "max_memory": "220MB"}
    session = Session.start(SearchConfig.from_dict(options), tmp_path / "run")
    stored = SearchConfig.load(tmp_path / "run" / "config.toml")
    assert stored == session.config
    assert stored.recipe.batch_size < 2048
    session.run()


def test_a_short_time_leaves_images_out_unless_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTWORK_CACHE", str(tmp_path / "other"))
    data = write_folder(tmp_path / "d", pixels(60, side=12), [0] * 35 + [1] * 25)
    config = SearchConfig.from_dict({"data": str(data), "budget": "100s"})
    monkeypatch.setattr("graftwork.datasets._load.decoding_seconds", lambda *_: 0.0)
    assert settle_size(config)[0].max_images is None
    monkeypatch.setenv("GRAFTWORK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graftwork.datasets._load.decoding_seconds", lambda *_: 10.0)
    hurried, (note,), _ = settle_size(config)
    assert hurried.max_images == 1
    assert "decoding all 60 would take about 600 s" in note
    counts = np.bincount(Problem.load(hurried).dataset.labels)
    assert counts.tolist() == [20, 20]
    Problem.load(replace(hurried, max_images=None))
    assert settle_size(config)[0].max_images is None


@pytest.mark.parametrize("budget", ["3steps", "1TFLOP", "9s"])
def test_what_is_told_before_decoding_is_what_is_found_after_it(budget: str, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "d", pixels(40, side=70), [0] * 20 + [1] * 20)
    config, _, found = settle_size(SearchConfig.from_dict({"data": str(data), "budget": budget}), flops=1e11)
    assert found is not None
    known: dict[str, Any] = {"speed": 1e11, "processes": 1}
    before = outline_unread(config, found, **known)
    after = outline_of(config, Problem.load(config), **known)
    assert (before.images, before.classes, before.input_shape) == (40, 2, (3, 24, 24))
    assert replace(before, memory=None, most_memory=None) == replace(after, memory=None, most_memory=None)
    assert (before.batch_size, before.updates) == {
        "3steps": (250, 3),
        "1TFLOP": (64, int(1e12 / training_flops(seed_genome("small", (3, 24, 24), 2), 64))),
        "9s": (64, int(0.7 * 9e11 / training_flops(seed_genome("small", (3, 24, 24), 2), 64))),
    }[budget]


def test_a_search_begins_with_the_largest_seed_network_that_its_budget_trains_enough_unless_one_is_named() -> None:
    genome = seed_genome("default", (3, 32, 32), 2)

    def seed(name: str, images: int, **asked: Any) -> str:
        config, flops = SearchConfig.from_dict({"budget": "30s", **asked}), training(images, 32, name)
        return settle_batches(config, genome, None, flops=flops)[0].recipe.seed_genome

    ladder = {"recipe": RECIPE.replace(seed_sizes={"poster": 10, "small": 500, "default": 900})}
    assert [seed("small", images, **ladder) for images in (1, 499, 500)] == ["poster", "poster", "small"]
    assert [seed("default", images, **ladder) for images in (899, 900, 10**6)] == ["small", "default", "default"]
    assert settle_batches(SearchConfig(**ladder), genome, None)[0].recipe.seed_genome == "default"
    assert seed("default", 1, seed_genome="default") == seed("default", 10**6, seed_genome="default") == "default"
    assert seed("default", 1, recipe={"seed_genome": "default"}) == seed("default", 1, genome="seed.json") == "default"
    assert seed("default", 1, recipe="paper") == "poster"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"small": -1}, "small: expected"),
        ({"small": 0.5}, "small: expected"),
        (5, "expected numbers of images by name, got 5"),
    ],
)
def test_seed_sizes_are_whole_numbers_by_name(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"seed_sizes: {message}"):
        RECIPE.replace(seed_sizes=sizes)


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(RECIPE, seed_genome="small", seed_sizes={"small": 0, "default": 250_000})]
)
def test_more_flops_never_mean_smaller_images(recipe: Recipe) -> None:
    sides = [size(PHOTOS, 10 ** (power / 16), recipe=recipe)[0] for power in range(160, 288)]
    assert sides == sorted(sides)
    assert set(sides) == {24, 64, 128}
