"""Ensembles of a search on images of patients: the blend split counts patients, not images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork.ensembles import fit_combiner
from graftwork.runs import RunFolder
from graftwork.session import SearchConfig, Session, combine
from graftwork.session._predictions import StoredPredictions
from tests.session.test_uneven_classes import Notes

TINY = {"recipe": "paper", "budget": "6steps", "num_generations": 1, "population_size": 3, "num_survivors": 2}
TINY |= {"precision": "float32", "passes": "torch", "threads": 1, "batch_size": 16, "blend": 0.3, "flip": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Notes]:
    """A search on 20 patients, 12 images each, of two classes."""
    folder, rng, notes = tmp_path_factory.mktemp("patients"), np.random.default_rng(0), Notes()
    rows = ["path,label,patient"]
    for number in range(240):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number // 12 % 2]},p{number // 12}")
    (folder / "all.csv").write_text("\n".join(rows))
    config = SearchConfig.from_dict({**TINY, "data": str(folder / "all.csv"), "group_column": "patient"})
    Session.start(config, folder / "run", listener=notes).run()
    return RunFolder.open(folder / "run"), notes


def test_few_patients_of_many_images_make_only_the_mean_and_that_is_said_before(run: tuple[RunFolder, Notes]) -> None:
    folder, notes = run
    ensembles: list[Mapping[str, object]] = folder.read_json("result.json")["ensemble"]
    assert [row["method"] for row in ensembles] == ["mean"]
    assert "2 classes do not suffice for greedy, stacked" in "\n".join(notes.said)


def test_a_run_keeps_which_images_of_the_blend_split_belong_together(run: tuple[RunFolder, Notes]) -> None:
    tensors = run[0].load_tensors("predictions/blend.safetensors")
    assert len(tensors["labels"]) >= 48  # ten would do if each were one of its own
    patients = tensors["index"] // 12
    for patient in patients.unique():
        assert len(tensors["groups"][patients == patient].unique()) == 1
    assert len(tensors["groups"].unique()) == len(patients.unique())


def test_a_method_that_is_asked_for_is_cross_fitted_by_patients(run: tuple[RunFolder, Notes]) -> None:
    folder, _ = run
    members = [row["id"] for row in folder.read_json("result.json")["survivors"]]
    [row] = combine(folder, members, methods=["mean-calibrated"])
    blend = StoredPredictions.load(folder, "blend", members)
    expected = [
        fit_combiner(
            "mean",
            blend.outputs,
            blend.labels,
            calibrated=True,
            generator=torch.Generator().manual_seed(0),
            groups=groups,
        )
        for groups in (blend.groups, None)
    ]
    seeing, blind = (fit.held_out_nll(blend.labels) for fit in expected)
    assert row["held_out_nll"] == pytest.approx(seeing)
    assert abs(seeing - blind) > 1e-6


def test_penultimate_features_are_cross_fitted_by_the_same_groups(run: tuple[RunFolder, Notes]) -> None:
    folder, _ = run
    members = [row["id"] for row in folder.read_json("result.json")["survivors"]]
    combine(folder, members, features="penultimate")
    blend = folder.load_tensors("predictions/blend-penultimate.safetensors")
    assert (blend["groups"] == folder.load_tensors("predictions/blend.safetensors")["groups"]).all()


def test_images_without_groups_count_one_by_one(tmp_path: Path) -> None:
    notes = Notes()
    config = SearchConfig.from_dict({**TINY, "data": "digits", "blend": 60})
    Session.start(config, tmp_path / "run", listener=notes).run()
    rows: list[Mapping[str, object]] = RunFolder.open(tmp_path / "run").read_json("result.json")["ensemble"]
    assert "stacked" in [row["method"] for row in rows]
