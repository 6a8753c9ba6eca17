"""The end of a run: the best is chosen on validation, the test split is opened once, ensembles see only blend."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.networks.genome import seed_genome
from graftwork.runs import RunFolder
from graftwork.session import FinalScoring, combine, members_of
from tests.runs.test_records import network, result

SCORES = {"m1": (0.8, 0.9), "m2": (0.9, 0.1), "m3": (0.7, 0.95)}


class Played(FinalScoring):
    """Scores are given; nothing is run or written but the openings."""

    def _logits(self, test_images: Any) -> Any:
        return tuple({name: torch.zeros(2, 3) for name in SCORES} for _ in range(3))

    def _predictions(self, *args: Any) -> None:
        """Write nothing."""

    def _latency(self, *args: Any) -> Any:
        return {}

    def _majority(self, *args: Any) -> Any:
        return {}

    def _mirror_pairs(self, *args: Any) -> Any:
        return []

    def _per_class(self, *args: Any) -> Any:
        return []

    def _row(self, name: str, *args: Any) -> dict[str, Any]:
        return {"id": name, "validation_score": SCORES[name][0], "test_accuracy": SCORES[name][1]}


def played(run: RunFolder, opened: list[int]) -> FinalScoring:
    def test() -> tuple[torch.Tensor, ...]:
        opened.append(1)
        return torch.zeros(2), torch.zeros(2), torch.zeros(2)

    splits = SimpleNamespace(validation=np.arange(2), blend=np.arange(0))
    problem = SimpleNamespace(test=test, splits=splits, labels=lambda rows: torch.zeros(len(rows)))
    state = SimpleNamespace(survivors=tuple(SCORES))
    setup: Any = SimpleNamespace(problem=problem, state=state, population=None)
    return Played(run, setup, None)


def test_the_best_member_is_chosen_on_validation_never_on_test(tmp_path: Path) -> None:
    found = played(RunFolder.create(tmp_path / "run"), []).write()
    assert found["best"]["id"] == "m2"
    assert [row["id"] for row in found["survivors"]] == list(SCORES)


def test_the_test_split_is_opened_once_a_writing_and_every_opening_is_told(tmp_path: Path) -> None:
    run, opened = RunFolder.create(tmp_path / "run"), list[int]()
    assert len(played(run, opened).write()["test_openings"]) == len(opened) == 1
    assert len(played(run, opened).write()["test_openings"]) == len(opened) == 2


def test_ensembles_are_fitted_on_blend_predictions_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run")
    for number, split in enumerate(("blend", "validation", "test")):
        tensors = {"m1": torch.full((4, 3), float(number)), "labels": torch.full((4,), number)}
        run.save_tensors(f"predictions/{split}.safetensors", tensors)
    run.write_json("provenance.json", {"training": {"class_weights": "none", "metric": "accuracy"}})
    run.write_json("members/m1.json", {"genome": seed_genome("poster", (1, 8, 8), 3).to_dict()})
    seen: list[tuple[float, int]] = []

    def fit(method: str, outputs: torch.Tensor, labels: torch.Tensor, **options: Any) -> None:
        seen.append((float(outputs.max()), int(labels.max())))
        raise RuntimeError

    monkeypatch.setattr("graftwork.session._ensembles.fit_combiner", fit)
    with pytest.raises(RuntimeError):
        combine(run, ["m1"], methods=["mean"])
    assert seen == [(0.0, 0)]


def test_best_k_ranks_by_validation_and_pareto_drops_the_dominated(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    rows = [{**network(n), "validation_score": v, "test_accuracy": t, "flops": 10} for n, (v, t) in SCORES.items()]
    run.write_json("result.json", result(survivors=[*rows, {**rows[2], "id": "m4", "flops": 5}]))
    assert members_of(run, "best:2") == ["m2", "m1"]
    assert members_of(run, "pareto") == ["m2", "m4"]
