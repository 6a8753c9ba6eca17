"""Ensembles of a finished run: fitted on the blend split, shared work counted and run once."""

import json

import pytest
import torch

from graftwork.errors import ConfigError, RunError
from graftwork.networks.genome import Genome, forward_flops, num_parameters
from graftwork.runs import RunFolder, load_member
from graftwork.session import (
    METHODS,
    Problem,
    SearchConfig,
    Session,
    StoredPredictions,
    combine,
    load_ensemble,
    members_of,
    run_members,
)

OPTIONS = {"data": "digits", "recipe": "paper", "budget": "80steps", "num_generations": 2, "population_size": 5}
OPTIONS |= {"precision": "float32", "threads": 1, "num_calibration": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("runs") / "run"
    Session.start(SearchConfig.from_dict(OPTIONS), path).run()
    return RunFolder.open(path)


def test_every_method_has_a_row_and_a_stored_ensemble(run: RunFolder) -> None:
    rows = run.read_json("result.json")["ensemble"]
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["num_members"] == 3 or row["method"] == "cascade"
        assert 0 <= row["ece"] <= 1
        assert (run.path / "ensembles" / f"{row['method']}.safetensors").is_file()


def test_ensemble_of_one_is_that_member(run: RunFolder) -> None:
    name = members_of(run, "best:1")[0]
    member = json.loads((run.path / "members" / f"{name}.json").read_text())
    for row in combine(run, [name], methods=["mean", "greedy"]):
        assert row["test_accuracy"] == member["test_accuracy"]
        assert row["validation_accuracy"] == member["validation_accuracy"]


def test_shared_blocks_and_prefixes_are_counted_once(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    row = combine(run, names, methods=["mean"])[0]
    genomes = [Genome.from_dict(run.read_json(f"members/{name}.json")["genome"]) for name in names]
    assert max(map(num_parameters, genomes)) <= row["parameters"] < sum(map(num_parameters, genomes))
    assert max(map(forward_flops, genomes)) <= row["flops"] < sum(map(forward_flops, genomes))


def test_a_loaded_ensemble_gives_the_bits_of_its_members_run_alone(run: RunFolder) -> None:
    combine(run, members_of(run, "survivors"), methods=["stacked"])
    ensemble, transform, _ = load_ensemble(run, "stacked")
    images = torch.randint(0, 256, (7, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    alone = torch.stack([load_member(run, n)[0](transform(images)) for n in members_of(run, "survivors")], dim=1)
    assert torch.equal(ensemble.outputs(transform(images)), alone)
    assert torch.allclose(ensemble(transform(images)).exp().sum(1), torch.ones(7))
    rows = [ensemble(transform(images[i : i + 1])) for i in range(7)]
    torch.testing.assert_close(torch.cat(rows), ensemble(transform(images)), rtol=1e-4, atol=1e-5)


def test_a_cascade_is_told_with_its_stages_and_its_curve(run: RunFolder) -> None:
    result = run.result()
    found, (row,) = result["cascade"], [row for row in result["ensemble"] or () if row["method"] == "cascade"]
    assert found is not None
    assert [stage["id"] for stage in found["stages"]] == row["members"]
    assert sum(stage["share"] for stage in found["stages"]) == pytest.approx(1)
    assert found["flops"] == pytest.approx(sum(stage["flops"] * stage["share"] for stage in found["stages"]))
    assert row["flops"] == round(found["flops"])
    (chosen,) = [point for point in found["curve"] if point["threshold"] == found["threshold"]]
    assert chosen["test_accuracy"] == pytest.approx(row["test_accuracy"])
    assert chosen["validation_accuracy"] == pytest.approx(row["validation_accuracy"])
    last = run.read_json(f"members/{row['members'][-1]}.json")
    assert found["curve"][-1]["test_accuracy"] == pytest.approx(last["test_accuracy"])
    costs = [forward_flops(Genome.from_dict(run.read_json(f"members/{n}.json")["genome"])) for n in row["members"]]
    assert costs == sorted(costs)


def test_a_loaded_cascade_gives_the_predictions_that_the_run_stored(run: RunFolder) -> None:
    names, problem = members_of(run, "survivors"), Problem.load(SearchConfig.load(run.path / "config.toml"))
    combine(run, names, methods=["cascade"])
    ensemble, transform, _ = load_ensemble(run, "cascade")
    stored = run.load_tensors("predictions/validation.safetensors")["ensemble/cascade"]
    said = ensemble(transform(problem.images(problem.splits.validation)))
    torch.testing.assert_close(said, stored, rtol=1e-4, atol=1e-4)


def test_no_label_but_those_of_blend_has_a_say_in_a_cascade(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    combine(run, names, methods=["cascade"])
    before = (run.path / "ensembles" / "cascade.safetensors").read_bytes()
    for split in ("validation", "test"):
        name = f"predictions/{split}.safetensors"
        stored = run.load_tensors(name)
        try:
            run.save_tensors(name, {**stored, "labels": (stored["labels"] + 1) % 10})
            combine(run, names, methods=["cascade"])
        finally:
            run.save_tensors(name, stored)
        assert (run.path / "ensembles" / "cascade.safetensors").read_bytes() == before


def test_running_stored_members_gives_the_bits_that_the_run_stored(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    stored = StoredPredictions.load(run, "blend", names)
    problem = Problem.load(SearchConfig.load(run.path / "config.toml"))
    assert torch.equal(run_members(run, names, problem.images(problem.splits.blend)), stored.outputs)


def test_wrong_members_and_methods_are_named(run: RunFolder) -> None:
    with pytest.raises(RunError, match="m99"):
        members_of(run, "m99")
    with pytest.raises(ConfigError, match="voodoo"):
        combine(run, members_of(run, "survivors"), methods=["voodoo"])
    with pytest.raises(RunError, match="nothing"):
        load_ensemble(run, "nothing")


def test_stacked_penultimate_features_open_the_test_split_once_more_and_tell_so(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    before = run.read_json("predictions/openings.json")["openings"]
    rows = [combine(run, names, methods=["stacked", "stacked-calibrated"], features="penultimate") for _ in range(2)]
    assert rows[0] == rows[1]
    openings = run.read_json("result.json")["test_openings"]
    assert openings[: len(before)] == before
    assert [opening["by"] for opening in openings[len(before) :]] == ["ensemble --features penultimate"]
    assert [row["method"] for row in rows[0]] == ["stacked-penultimate", "stacked-calibrated-penultimate"]
    with pytest.raises(ConfigError, match="expected stacked or stacked-calibrated for penultimate"):
        combine(run, names, methods=["mean"], features="penultimate")


def test_a_loaded_ensemble_of_penultimate_features_predicts_as_it_was_scored(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    row = combine(run, names, methods=["stacked"], features="penultimate")[0]
    ensemble, transform, _ = load_ensemble(run, "stacked-penultimate")
    images, labels, _ = Problem.load(SearchConfig.load(run.path / "config.toml")).test()
    predicted = ensemble(transform(images)).argmax(1)
    assert float((predicted == labels).double().mean()) == pytest.approx(row["test_accuracy"])


def test_penultimate_features_are_what_the_last_linear_layer_receives(run: RunFolder) -> None:
    names = members_of(run, "survivors")
    images = torch.randint(0, 256, (7, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = run_members(run, names, images, output="penultimate")
    logits = run_members(run, names, images)
    for number, name in enumerate(names):
        member = load_member(run, name)[0]
        entry = member.weights[member.genome.head.id]
        assert features.shape[2] == member.genome.penultimate_features
        again = (
            torch.nn.functional.linear(features[:, number], entry["weight"], entry["bias"]) * member.genome.head.scale
        )
        torch.testing.assert_close(again, logits[:, number])
