"""Whether images are mirrored is decided by a race on validation, once, and followed from then on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graftwork.errors import SearchInterruptedError
from graftwork.evolution import SearchState
from graftwork.networks.genome import training_flops
from graftwork.session import SearchConfig, Session, make_plan, parse_budget, prepare
from graftwork.session import _planning as planning
from graftwork.session._race import Turned, decide, mirror_pairs
from graftwork.training import make_recipe
from tests.session.test_uneven_classes import Notes

TINY = {"recipe": "paper", "budget": "40steps", "num_generations": 1, "population_size": 2, "num_survivors": 2}
TINY |= {"flip": "auto", "precision": "float32", "passes": "torch", "threads": 1, "batch_size": 16, "blend": 0}


def arrows(path: Path) -> Path:
    """Colour images of three classes: bright to the left, to the right, and above."""
    rng = np.random.default_rng(0)
    for name in ("left", "right", "up"):
        (path / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
            pixels[(slice(0, 4), slice(None)) if name == "up" else (slice(None), slice(0, 4))] += 150
            Image.fromarray(pixels[:, ::-1] if name == "right" else pixels).save(path / name / f"{number}.png")
    return path


def provenance(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "provenance.json").read_text())
    return found


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


class Stopping(Notes):
    """Stops its session in the race, before the first update there, or after the first update of the search."""

    def __init__(self, *, in_race: bool) -> None:
        super().__init__()
        self.in_race = in_race

    def on_note(self, text: str) -> None:
        assert self.session is not None
        self.session.stop_requested = self.in_race and "race" in text

    def on_step(self, state: SearchState, *args: Any) -> None:
        assert self.session is not None
        self.session.stop_requested = True


@contextmanager
def short_races() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "RACE_SHARE", 0.75)
        patch.setattr(planning, "RACE_STEPS", (5, 15))
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SearchConfig:
    return SearchConfig.from_dict(
        {**TINY, "data": str(arrows(tmp_path_factory.mktemp("data") / "arrows")), "validation": 30}
    )


@pytest.fixture(scope="module")
def run(config: SearchConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    folder, notes = tmp_path_factory.mktemp("runs") / "run", Notes()
    with short_races():
        Session.start(config, folder, listener=notes).run()
    return folder, notes


def test_classes_that_flip_into_each_other_are_found_and_named_and_images_are_not_mirrored_then(
    run: tuple[Path, Notes],
) -> None:
    folder, notes = run
    found = provenance(folder)
    assert (found["race"]["flip"], found["race"]["pairs"]) == ("none", [["left", "right"]])
    assert found["training"]["augmentation"]["flip"] == "none"
    assert result(folder)["mirror_pairs"] == [["left", "right"]]
    said = "\n".join(notes.said)
    assert "two networks race, 15 updates each" in said
    assert "images are not mirrored: after 15 updates" in said
    assert "left and right flip into each other" in said


def test_a_search_that_was_stopped_in_its_race_races_again_and_ends_with_the_same_bits(
    run: tuple[Path, Notes], config: SearchConfig, tmp_path: Path
) -> None:
    stopping = Stopping(in_race=True)
    with short_races():
        stopping.session = Session.start(config, tmp_path / "cut", listener=stopping)
    with pytest.raises(SearchInterruptedError, match="stopped in the race"):
        stopping.session.run()
    assert "race" not in provenance(tmp_path / "cut")
    Session.resume(tmp_path / "cut").run()
    assert result(tmp_path / "cut")["bank_sha256"] == result(run[0])["bank_sha256"]
    races = [{**provenance(folder)["race"], "seconds": 0} for folder in (run[0], tmp_path / "cut")]
    assert races[0] == races[1]


def test_a_resume_follows_the_race_that_was_run_without_running_it_again(
    run: tuple[Path, Notes], config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = Stopping(in_race=False)
    with short_races():
        stopping.session = Session.start(config, tmp_path / "cut", listener=stopping)
    with pytest.raises(SearchInterruptedError, match="after step 1"):
        stopping.session.run()
    before = provenance(tmp_path / "cut")
    monkeypatch.setattr("graftwork.session._session.race", None)
    Session.resume(tmp_path / "cut").run()
    assert provenance(tmp_path / "cut") == before
    assert result(tmp_path / "cut")["bank_sha256"] == result(run[0])["bank_sha256"]


def test_the_race_is_a_share_of_the_budget_and_left_out_where_that_is_too_small() -> None:
    setup = prepare(data="digits", recipe="paper", precision="float32", passes="torch", threads=1)
    genome, scoring = setup.population.genomes[0], setup.scorer.flops(setup.population.genomes)
    recipe = make_recipe("paper", num_generations=1)
    update = training_flops(genome, 64)

    def plan(budget: str) -> Any:
        return make_plan(parse_budget(budget), recipe, genome, batch_size=64, scoring_flops=scoring, race=True)

    assert plan("400steps").race_steps == 20
    assert plan("400steps").total_steps == 360
    assert plan("150steps").race_steps == 0
    assert plan("1000000steps").race_steps == 50
    flops = 2000 * update
    found = plan(f"{flops / 1e9}GFLOP")
    spent = planning.race_flops(genome, found, 64, scoring)
    assert 0 < spent <= 0.1 * flops
    assert abs(found.flops + spent - flops) < 1e6
    assert plan(f"{300 * update / 1e9}GFLOP").race_steps == 0
    assert setup.plan.race_steps == 0  # the paper's recipe does not mirror


def test_pairs_are_classes_that_are_mostly_told_right_and_mostly_taken_for_each_other_in_the_mirror() -> None:
    labels = np.repeat(np.arange(5), 4)
    predicted = np.repeat([0, 1, 2, 3, 3], 4)  # the last class is not known
    mirrored = np.repeat([1, 0, 2, 4, 3], 4)
    mirrored[0] = 0  # a few may stay what they are
    assert mirror_pairs(Turned(predicted, mirrored, labels), 5) == [(0, 1)]
    mirrored[:2] = 0  # no longer most of them
    assert mirror_pairs(Turned(predicted, mirrored, labels), 5) == []
    few = slice(2, 6)  # two images a class say too little
    assert mirror_pairs(Turned(labels[few], 1 - labels[few], labels[few]), 5) == []


def turned(*, right: int, in_mirror: int) -> Turned:
    """400 images of ten classes, the first of which are told right, as they are and in the mirror."""
    images = np.arange(400)
    labels = images % 10
    return Turned(np.where(images < right, labels, -1), np.where(images < in_mirror, labels, -1), labels)


def test_validation_decides_beyond_its_noise_and_the_kind_of_image_within_it() -> None:
    base = np.arange(400) < 200
    better = np.arange(400) < 240
    alike = turned(right=200, in_mirror=200)
    assert decide(better, base, (), turned=alike, default="random")[0] == "none"
    assert decide(base, better, (), turned=alike, default="none")[0] == "random"
    close = np.arange(400) < 202
    found = [decide(close, base, (), turned=alike, default=one)[0] for one in ("none", "random")]
    assert found == ["none", "random"]
    pairs = (("b", "d"),)
    assert decide(base, better, pairs, turned=alike, default="random") == ("none", "b and d flip into each other")


@pytest.mark.parametrize(
    ("in_mirror", "flip"), [(204, "random"), (200, "random"), (180, "random"), (170, "none"), (80, "none")]
)
def test_only_images_that_are_told_as_well_in_the_mirror_are_mirrored(in_mirror: int, flip: str) -> None:
    same, better = np.arange(400) < 200, np.arange(400) < 240
    found = turned(right=200, in_mirror=in_mirror)
    assert decide(same, same, (), turned=found, default="random")[0] == flip
    assert decide(same, better, (), turned=found, default="none")[0] == flip
    assert decide(better, same, (), turned=found, default="random")[0] == "none"


def test_a_network_that_has_learned_too_little_to_tell_a_mirror_image_by_mirrors_nothing() -> None:
    same = np.arange(400) < 200
    images, labels = np.arange(400), np.arange(400) % 10
    told = {"predicted": images < 60, "mirrored": (images >= 6) & (images < 64)}
    unsure = Turned(*(np.where(right, labels, -1) for right in told.values()), labels)
    guessing, lucky = turned(right=20, in_mirror=20), turned(right=80, in_mirror=110)
    one_class = Turned(np.zeros(400, np.int64), np.zeros(400, np.int64), (images > 360).astype(np.int64))
    found = [decide(same, same, (), turned=one, default="random")[0] for one in (unsure, guessing, lucky, one_class)]
    assert found == ["none"] * 4


def test_flip_and_augment_change_the_recipe_of_a_config_and_wrong_ones_are_refused() -> None:
    config = SearchConfig.from_dict({"flip": "none", "augment": "strong"})
    assert (config.recipe.augmentation.flip, config.recipe.augmentation.erase) == ("none", 0.5)
    assert SearchConfig.from_dict(config.to_dict()) == config
    assert SearchConfig().recipe.augmentation.flip == "auto"
