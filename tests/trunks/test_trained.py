"""A trunk with a learning rate: trained by all members, stored with the run, and a part of what comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError, RunError, SearchInterruptedError
from graftwork.exporting import open_export
from graftwork.networks.genome import Genome, training_flops
from graftwork.runs import RunFolder
from graftwork.session import Problem, SearchConfig, Session, open_classifier, parse_budget, prepare
from graftwork.trunks import Trunk, open_trunk
from tests.cli.test_cli import call
from tests.exporting.cases import as_user
from tests.session.test_session import StopAt, predictions, records, result
from tests.trunks.test_runs import config, digits


def slow(code: Path, **changes: Any) -> SearchConfig:
    return config(**{"trunk": f"{code}:build", "trunk_rate": 1e-3, **changes})


def opened(code: Path) -> Trunk:
    return open_trunk(f"{code}:build", run_code=True)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trunks.conftest import CODE

    path = tmp_path_factory.mktemp("code") / "mine.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def run(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    Session.start(slow(code), path, trunk=opened(code)).run()
    return path


def test_every_weight_of_the_trunk_moves_and_is_stored(run: Path, code: Path) -> None:
    stored = RunFolder(run).load_tensors("trunk.safetensors")
    before = opened(code).weights()
    assert stored.keys() == before.keys()
    assert all(not torch.equal(stored[name], before[name]) for name in stored)


def test_a_weight_that_the_module_holds_fixed_stays(code: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 2, 1))
    module[0].requires_grad_(False)
    trunk = Trunk("x", module, origin=b"")
    trunk.unfreeze()
    assert {name for name, weight in trunk.module.named_parameters() if weight.requires_grad} == {"1.weight", "1.bias"}
    with pytest.raises(ConfigError, match="got none that needs a gradient"):
        Trunk("x", module.requires_grad_(False), origin=b"").unfreeze()


def test_a_stopped_and_resumed_search_ends_with_the_same_bits(run: Path, code: Path, tmp_path: Path) -> None:
    box: list[Session] = []
    path, named = tmp_path / "cut", f"{code}:build"
    box.append(Session.start(slow(code), path, listener=StopAt(box, "search", 9), trunk=opened(code)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    Session.resume(path, trunk=named).run()
    assert result(path)["bank_sha256"] == result(run)["bank_sha256"]
    assert records(path) == records(run)
    assert predictions(path) == predictions(run)
    before, after = (RunFolder(one).load_tensors("trunk.safetensors") for one in (run, path))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_predictions_of_new_images_are_those_that_the_run_stored(run: Path, code: Path) -> None:
    stored = RunFolder(run).load_tensors("predictions/validation.safetensors")
    images = digits(len(Problem.load(config(f"{code}:build"), trunk=opened(code)).dataset.images))
    best = result(run)["best"]["id"]
    said = open_classifier(run, trunk=f"{code}:build").probabilities(images[stored["index"]])
    torch.testing.assert_close(said, stored[best].softmax(1), atol=1e-4, rtol=1e-3)


@pytest.mark.slow  # tracing takes long; a frozen trunk is exported in the default run
@pytest.mark.parametrize("words", [[], ["--ensemble", "mean"]])
def test_a_program_takes_the_trained_trunk_in(run: Path, code: Path, tmp_path: Path, words: list[str]) -> None:
    named = f"{code}:build"
    assert call("export", str(run), "--to", "pt2", "--trunk", named, *words, "--out", str(tmp_path / "model")) == 0
    said = open_export(tmp_path / "model")(as_user(digits())).softmax(1)
    expected = open_classifier(run, ensemble=words[1] if words else None, trunk=named).probabilities(digits())
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-3)


def test_commands_that_train_on_or_stack_features_read_the_trained_trunk(
    run: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--trunk", f"{code}:build"]
    for command in (["ensemble", str(run), "--features", "penultimate"], ["distil", str(run), "--budget", "0.2GFLOP"]):
        assert call(*command) == 2
        assert "on the command itself" in capsys.readouterr().err
        assert call(*command, *named) == 0, capsys.readouterr().err
    rows = json.loads(next(run.glob("distil/*/result.json")).read_text())["rows"]
    assert all(row["validation_accuracy"] > 0 for row in rows)


def test_flops_of_the_trunk_are_counted_in_every_update_and_in_scoring(run: Path, code: Path) -> None:
    trunk, found = opened(code), RunFolder(run)
    each = trunk.flops((1, 8, 8))
    assert each == 2 * (6 * 9 * 16 + 6 * 10 * 16)
    seed = Genome.from_dict(found.read_json("seed_genome.json"))
    first = found.rounds()[0]
    batch = SearchConfig.load(found.config_path).recipe.batch_size
    assert first.training_flops == first.step * (training_flops(seed, batch) + 3 * batch * each)
    setup = prepare(slow(code, num_generations=0), problem=Problem.load(slow(code), trunk=trunk))
    assert setup.scorer.flops([seed]) > each * setup.scorer.num_images
    assert setup.trainer.extra_flops == 3 * batch * each


def test_images_are_changed_at_random_as_without_a_trunk(code: Path) -> None:
    problem = Problem.load(slow(code, recipe="default", flip="random"), trunk=opened(code))
    fitted = problem.fit(slow(code, recipe="default", flip="random").recipe).augmentation
    assert (fitted.flip, fitted.shift) == ("random", 1)
    assert problem.fit(slow(code, recipe="default").recipe).augmentation.flip == "none", "no race over it"
    assert np.array_equal(problem.images(np.arange(3)).numpy(), problem.shown(np.arange(3)).numpy())


def test_memory_that_the_trunk_takes_is_not_left_for_members(code: Path) -> None:
    problem = Problem.load(slow(code), trunk=opened(code))
    left = problem.memory_left(10**9, 100)
    assert left is not None
    assert 4 * 100 * (6 * 16 + 10 * 16) / 2 < 10**9 - left < 10**6
    with pytest.raises(ConfigError, match="trunk that trains"):
        problem.memory_left(10**4, 100)


def test_stored_weights_of_another_trunk_are_refused(code: Path) -> None:
    with pytest.raises(RunError, match="expected finite weights"):
        opened(code).load({"0.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": parse_budget("10s")}, "expected a budget in steps or FLOPs"),
        ({"workers": 2}, "expected 1 worker"),
        ({"control": True}, "expected no control"),
        ({"trunk": None}, "name one with --trunk"),
        ({"trunk_rate": -1.0}, "expected a learning rate >= 0"),
    ],
)
def test_what_a_trained_trunk_can_not_do_is_refused(code: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        slow(code, **changes)
