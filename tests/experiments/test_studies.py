"""Studies: whole runs as arms, controls at equal FLOPs, and what is done is not done again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import COEVOLUTION, NEUROEVOLUTION, run_study
from experiments._arms import make_beginning, make_branch, make_run
from experiments._entries import BEST, ORACLE, POSTER, search_entries
from graftwork.errors import ConfigError, SearchInterruptedError
from graftwork.metrics import Entry, difference
from graftwork.networks.genome import Genome, num_parameters, training_flops
from graftwork.runs import RunFolder
from graftwork.session import Problem, SearchConfig, Session, run_members

SMALL: dict[str, Any] = {"recipe": "paper", "num_generations": 1, "population_size": 3, "num_survivors": 2}
SMALL |= {"num_calibration": 50, "precision": "float32", "threads": 1}
SIZES: dict[str, Any] = {"coevolution": "10GFLOP", "neuroevolution": 0.002}


def study(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    options = {"data": "digits", "seeds": [0], "size": SIZES[name], "note": lambda _: None, **SMALL, **changes}
    known = {"coevolution": COEVOLUTION, "neuroevolution": NEUROEVOLUTION}
    return run_study(known[name], folder / "results", runs=folder / "runs", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coevolution")
    study("coevolution", path)
    return path


def config_of(run: Path) -> SearchConfig:
    return SearchConfig.load(run / "config.toml")


@pytest.mark.slow
def test_a_study_leaves_summary_table_and_figures(folder: Path) -> None:
    summary = json.loads((folder / "results" / "summary.json").read_text())
    assert list(summary["arms"])[:3] == ["coevolution", "greedy", "random"]
    assert {file.name for file in (folder / "results").glob("*.svg")} == {"accuracy.svg", "profiles.svg"}
    table = (folder / "results" / "table.md").read_text()
    for words in (BEST, ORACLE, "stacked", "deep ensemble", "coevolution: ensemble −"):
        assert words in table


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_a_stored_seed_needs_no_run(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert len(before) == 6
    study("coevolution", folder)
    (tmp_path / "results").mkdir()
    stored = (folder / "results" / "seed-0.json").read_bytes()
    (tmp_path / "results" / "seed-0.json").write_bytes(stored)
    study("coevolution", tmp_path)
    assert not list((tmp_path / "runs").iterdir())
    (folder / "results" / "seed-0.json").unlink()
    study("coevolution", folder)
    assert (folder / "results" / "seed-0.json").read_bytes() == stored
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before


@pytest.mark.slow
def test_controls_train_the_largest_survivors_genome_for_the_flops_of_the_search(folder: Path) -> None:
    found = json.loads((folder / "runs" / "s0-coevolution" / "result.json").read_text())
    largest = max(found["survivors"], key=lambda row: row["parameters"])
    spent = found["training_flops"] + found["scoring_flops"]
    for name, share in (("alone", 1), ("deep-0", 2), ("deep-1", 2)):
        run = folder / "runs" / f"s0-{name}"
        result = json.loads((run / "result.json").read_text())
        genome = Genome.from_json((run / "seed_genome.json").read_text())
        assert num_parameters(genome) == result["best"]["parameters"] == largest["parameters"]
        left = spent / share - result["training_flops"] - result["scoring_flops"]
        assert 0 <= left <= training_flops(genome, 64) + 1


@pytest.mark.slow
def test_controls_share_the_split_train_on_the_blend_split_too_and_differ_in_weights(folder: Path) -> None:
    names = ("coevolution", "alone", "deep-0", "deep-1")
    splits = {name: Problem.load(config_of(folder / "runs" / f"s0-{name}")).splits for name in names}
    search = splits["coevolution"]
    for name in names[1:]:
        assert np.array_equal(splits[name].train, np.sort(np.concatenate([search.train, search.blend])))
        assert np.array_equal(splits[name].validation, search.validation)
        assert np.array_equal(splits[name].test, search.test)
    digests = {json.loads((folder / "runs" / f"s0-{n}" / "result.json").read_text())["bank_sha256"] for n in names[1:]}
    assert len(digests) == 3


@pytest.mark.slow
def test_the_test_split_is_opened_once_a_run(folder: Path) -> None:
    for path in folder.rglob("result.json"):
        assert len(json.loads(path.read_text())["test_openings"]) == 1


@pytest.mark.slow
def test_entries_repeat_what_the_run_says(folder: Path) -> None:
    run = folder / "runs" / "s0-greedy"
    result = json.loads((run / "result.json").read_text())
    entries, _ = search_entries(run)
    assert entries[BEST].to_dict()["test_accuracy"] == result["best"]["test_accuracy"]
    for row in result["ensemble"]:
        assert entries[row["method"]].to_dict()["test_accuracy"] == row["test_accuracy"]
    assert entries[ORACLE].correct.sum() >= entries[BEST].correct.sum()


@pytest.mark.slow
def test_the_deep_ensemble_is_the_mean_of_its_networks_probabilities(folder: Path) -> None:
    total, labels = 0, None
    for number in range(2):
        run = RunFolder.open(folder / "runs" / f"s0-deep-{number}")
        tensors = run.load_tensors("predictions/test.safetensors")
        name, labels = run.read_json("result.json")["best"]["id"], tensors["labels"]
        total = total + torch.softmax(tensors[name].double(), 1)
    assert isinstance(total, torch.Tensor)
    expected = float((total.argmax(1) == labels).double().mean())
    row = json.loads((folder / "results" / "seed-0.json").read_text())
    assert row["arms"]["deep ensemble"]["mean"]["test_accuracy"] == pytest.approx(expected)


@pytest.mark.slow
def test_stackers_fitted_on_training_data_stand_beside_those_fitted_on_blend(folder: Path) -> None:
    run = folder / "runs" / "s0-coevolution"
    found, result = json.loads((run / "leak.json").read_text()), json.loads((run / "result.json").read_text())
    problem = Problem.load(config_of(run))
    assert found["num_examples"] == len(problem.splits.blend)
    assert set(problem.splits.order[-found["num_examples"] :]) <= set(problem.splits.train)
    rows = problem.splits.order[-found["num_examples"] :]
    outputs = run_members(RunFolder.open(run), [row["id"] for row in result["survivors"]], problem.images(rows))
    right = outputs.argmax(2) == problem.labels(rows)[:, None]
    assert found["members"]["training"] == pytest.approx(float(right.double().mean()))
    by_blend = {row["method"]: row["test_accuracy"] for row in found["rows"] if row["fitted_on"] == "blend"}
    at_the_end = {row["method"]: row["test_accuracy"] for row in result["ensemble"]}
    assert by_blend == {name: at_the_end[name] for name in ("stacked", "stacked-network")}
    row = json.loads((folder / "results" / "seed-0.json").read_text())
    leaked = row["arms"]["coevolution, stackers fitted on training data (leak)"]
    assert set(leaked) == {"stacked", "stacked-network"}
    assert "stacked: fitted on blend − fitted on training data" in row["differences"]
    assert len(result["test_openings"]) == 1


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    one, other = Entry(rng.random(500) < 0.9), Entry(rng.random(500) < 0.5)
    assert difference(one, one) == {"value": 0.0, "interval": [0.0, 0.0]}
    found = difference(one, other)
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found["value"] == pytest.approx(one.correct.mean() - other.correct.mean())
    assert difference(other, one)["value"] == -found["value"]


@pytest.mark.slow
def test_other_settings_are_refused_and_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed-0\.json was made with"):
        study("coevolution", folder, size="11GFLOP")
    (tmp_path / "runs").symlink_to(folder / "runs")
    with pytest.raises(ConfigError, match="same options"):
        study("coevolution", tmp_path, size="11GFLOP")
    with pytest.raises(ConfigError, match="leave budget out"):
        study("coevolution", tmp_path, budget="11GFLOP")


@pytest.mark.parametrize("name", SIZES)
def test_a_study_of_ensembles_needs_two_survivors_and_a_blend_split(name: str, tmp_path: Path) -> None:
    for changes in ({"num_survivors": 1}, {"blend": 0}):
        with pytest.raises(ConfigError, match="ensembles need"):
            study(name, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_to_the_same_bits_and_a_stillborn_one_begins_anew(
    folder: Path, tmp_path: Path
) -> None:
    whole = folder / "runs" / "s0-greedy"
    options = config_of(whole).to_dict()
    session = Session.start(SearchConfig.from_dict(options), tmp_path / "cut")
    session.stop_requested = True
    with pytest.raises(SearchInterruptedError):
        session.run()
    (tmp_path / "still").mkdir()
    (tmp_path / "still" / "seed_genome.json").write_text("{}")
    for path in (tmp_path / "cut", tmp_path / "still"):
        make_run(path, options)
        found = [json.loads((p / "result.json").read_text())["bank_sha256"] for p in (path, whole)]
        assert found[0] == found[1]


@pytest.mark.slow
def test_the_posters_table_stands_beside_ours(tmp_path: Path) -> None:
    summary = study("neuroevolution", tmp_path)
    assert [entry["poster"] for entry in summary["poster"]] == [0.70, 0.74, 0.72, 0.75, None]
    ours = [entry["ours"]["mean"] for entry in summary["poster"]]
    arms = summary["arms"]
    base = json.loads((tmp_path / "runs" / "s0-base.json").read_text())
    assert ours[0] == base["best_test_accuracy"]
    assert ours[1] == arms["neuroevolution"][BEST]["test_accuracy"]["mean"]
    assert ours[3] == arms["co-evolution"][POSTER]["test_accuracy"]["mean"]
    config = config_of(tmp_path / "runs" / "s0-coevolution")
    assert (config.recipe.initial_steps, config.recipe.steps_per_generation) == (10, 10)
    assert (tmp_path / "results" / "poster.svg").is_file()
    assert list(arms)[2:] == ["largest survivor's genome alone", "deep ensemble"]
    trained = {
        name: json.loads((tmp_path / "runs" / f"s0-{name}" / "result.json").read_text())["training_flops"]
        for name in ("coevolution", "alone", "deep-0", "deep-1")
    }
    for name, share in (("alone", 1), ("deep-0", 2), ("deep-1", 2)):
        assert 0.5 * trained["coevolution"] / share < trained[name] <= trained["coevolution"] / share
    with pytest.raises(ConfigError, match="counts steps"):
        study("neuroevolution", tmp_path / "other", recipe="default")


@pytest.mark.slow
def test_a_seed_that_was_stored_before_recipes_had_a_value_counts_as_run_without_it(
    folder: Path, tmp_path: Path
) -> None:
    row = json.loads((folder / "results" / "seed-0.json").read_text())
    (tmp_path / "results").mkdir()
    recipe = row["settings"]["options"]["recipe"]
    del recipe["small_share"], recipe["small_scale"]
    (tmp_path / "results" / "seed-0.json").write_text(json.dumps(row))
    assert study("coevolution", tmp_path)["seeds"] == [0]
    recipe["small_share"] = 0.5
    (tmp_path / "results" / "seed-0.json").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match="was made with"):
        study("coevolution", tmp_path)
    recipe["smell_share"] = recipe.pop("small_share")
    (tmp_path / "results" / "seed-0.json").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=r"seed-0.json was made by another version .*smell_share.* choose another"):
        study("coevolution", tmp_path)


BRANCHED: dict[str, Any] = {"data": "digits", "budget": "10GFLOP", "seed": 3, "control": False, **SMALL}


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["greedy", "random"])
def test_a_search_on_a_shared_first_round_equals_one_that_ran_by_itself(tmp_path: Path, selection: str) -> None:
    beginning = tmp_path / "beginning"
    make_beginning(beginning, {**BRANCHED, "selection": "coevolution"})
    left = RunFolder.open(beginning).load_checkpoint("search")
    assert left is not None
    assert left[0]["search"]["generation"] == 0
    options = {**BRANCHED, "selection": selection}
    make_branch(tmp_path / "branch", options, beginning)
    make_run(tmp_path / "alone", options)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("branch", "alone")]
    for key in ("bank_sha256", "steps", "training_flops", "scoring_flops", "selection", "best"):
        assert results[0][key] == results[1][key], key
    records = [RunFolder.open(tmp_path / name).records() for name in ("branch", "alone")]
    for one, other in zip(*records, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    assert not (beginning / "result.json").exists()


@pytest.mark.slow
def test_a_first_round_too_short_to_be_stopped_in_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(path: Path, fill: Any) -> None:
        pytest.fail(f"{path} took over a beginning whose first round is over")

    monkeypatch.setattr("experiments._arms.write_folder", share)
    options = {**BRANCHED, "budget": None, "initial_steps": 0, "steps_per_generation": 4, "selection": "greedy"}
    make_beginning(tmp_path / "beginning", options)
    make_branch(tmp_path / "branch", options, tmp_path / "beginning")
    make_run(tmp_path / "alone", options)
    digests = [json.loads((tmp_path / n / "result.json").read_text())["bank_sha256"] for n in ("branch", "alone")]
    assert digests[0] == digests[1]


def test_a_beginning_with_other_options_is_refused(tmp_path: Path) -> None:
    make_beginning(tmp_path / "beginning", {**BRANCHED, "selection": "coevolution"})
    with pytest.raises(ConfigError, match=r"began with other options \(seed\)"):
        make_branch(tmp_path / "branch", {**BRANCHED, "seed": 4}, tmp_path / "beginning")
    assert not (tmp_path / "branch").exists()
