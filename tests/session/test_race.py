"""Whether images are mirrored is decided by a race on validation, once, and followed from then on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graftwork.errors import SearchInterruptedError
from graftwork.networks.genome import training_flops
from graftwork.session import SearchConfig, Session, SilentListener, make_plan, parse_budget, prepare
from graftwork.session import _planning as planning
from graftwork.session._race import decide, mirror_pairs
from graftwork.training import make_recipe
from tests.session.test_uneven_classes import Notes

TINY = {"recipe": "paper", "budget": "40steps", "num_generations": 1, "population_size": 2, "num_survivors": 2}
TINY |= {"flip": "auto", "precision": "float32", "passes": "torch", "threads": 1, "batch_size": 16}


def arrows(path: Path, *, mirrored: bool) -> Path:
    """Colour images of three classes: bright to the left, to the right, and above; or all in both directions."""
    rng = np.random.default_rng(0)
    for name in ("left", "right", "up"):
        (path / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
            pixels[(slice(0, 4), slice(None)) if name == "up" else (slice(None), slice(0, 4))] += 150
            turned = pixels[:, ::-1] if (number % 2 if mirrored else name == "right") else pixels
            shade = {"left": 0, "right": 90, "up": 0}[name] if mirrored else 0
            Image.fromarray(turned.clip(shade)).save(path / name / f"{number}.png")
    return path


@pytest.fixture
def short_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "RACE_SHARE", 0.75)
    monkeypatch.setattr(planning, "RACE_STEPS", (5, 15))


def stored(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "provenance.json").read_text())
    return found


@pytest.mark.usefixtures("short_race")
def test_classes_that_flip_into_each_other_are_found_named_and_not_mirrored_also_after_a_resume(tmp_path: Path) -> None:
    config = SearchConfig.from_dict({**TINY, "data": str(arrows(tmp_path / "data", mirrored=False)), "validation": 30})
    notes = Notes()
    Session.start(config, tmp_path / "run", listener=notes).run()
    found = stored(tmp_path / "run")
    assert (found["race"]["flip"], found["race"]["pairs"]) == ("none", [["left", "right"]])
    assert found["training"]["augmentation"]["flip"] == "none"
    assert any(
        "images are not mirrored: after 15 updates" in said and "left and right flip" in said for said in notes.said
    )

    class Stopping(SilentListener):
        def on_note(self, text: str) -> None:
            sessions[-1].stop_requested = "race" in text  # before its first update

    sessions = [Session.start(config, tmp_path / "cut", listener=Stopping())]
    with pytest.raises(SearchInterruptedError, match="stopped in the race"):
        sessions[0].run()
    assert "race" not in stored(tmp_path / "cut")
    stopping = Notes()
    sessions.append(Session.resume(tmp_path / "cut", listener=stopping))
    sessions[-1].run()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "cut")]
    assert results[0]["mirror_pairs"] == [["left", "right"]]
    assert results[0]["bank_sha256"] == results[1]["bank_sha256"]
    assert {**stored(tmp_path / "cut")["race"], "seconds": 0} == {**found["race"], "seconds": 0}


@pytest.mark.usefixtures("short_race")
def test_a_resume_follows_the_race_that_was_run_without_running_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig.from_dict({**TINY, "data": str(arrows(tmp_path / "data", mirrored=True)), "control": True})
    notes = Notes()
    notes.session = Session.start(config, tmp_path / "run", listener=notes)
    monkeypatch.setattr(Notes, "on_step", lambda self, state, *_: setattr(self.session, "stop_requested", True))
    with pytest.raises(SearchInterruptedError, match="after step 1"):
        notes.session.run()
    before = stored(tmp_path / "run")
    monkeypatch.setattr("graftwork.session._session.race", None)
    session = Session.resume(tmp_path / "run")
    session.run()
    assert stored(tmp_path / "run") == before
    assert before["race"]["pairs"] == []


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
    assert mirror_pairs(predicted, mirrored, labels, 5) == [(0, 1)]
    mirrored[:2] = 0  # no longer most of them
    assert mirror_pairs(predicted, mirrored, labels, 5) == []
    few = slice(2, 6)  # two images a class say too little
    assert mirror_pairs(labels[few], 1 - labels[few], labels[few], 5) == []


def test_validation_decides_beyond_its_noise_and_the_kind_of_image_within_it() -> None:
    base = np.arange(400) < 200
    better = np.arange(400) < 240
    assert decide(better, base, (), default="random")[0] == "none"
    assert decide(base, better, (), default="none")[0] == "random"
    close = np.arange(400) < 202
    assert [decide(close, base, (), default=one)[0] for one in ("none", "random")] == ["none", "random"]
    assert decide(base, better, (("b", "d"),), default="random") == ("none", "b and d flip into each other")


def test_flip_and_augment_change_the_recipe_of_a_config_and_wrong_ones_are_refused() -> None:
    config = SearchConfig.from_dict({"flip": "none", "augment": "strong"})
    assert (config.recipe.augmentation.flip, config.recipe.augmentation.erase) == ("none", 0.5)
    assert SearchConfig.from_dict(config.to_dict()) == config
    assert SearchConfig().recipe.augmentation.flip == "auto"
