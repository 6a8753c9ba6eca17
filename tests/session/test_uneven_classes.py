"""Uneven classes: weighed in training and combination, and selected by what counts every class the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.errors import SearchInterruptedError
from graftwork.evolution import SearchState
from graftwork.networks.execution import InputTransform
from graftwork.session import Problem, SearchConfig, Session, SilentListener, prepare
from graftwork.training import RECIPES, Augmentation, Evaluation
from tests.cases.images import picture
from tests.datasets.test_splits import make_dataset

TINY = {"recipe": "paper", "budget": "24steps", "num_generations": 1, "population_size": 3, "num_survivors": 2}
TINY |= {"precision": "float32", "passes": "torch", "threads": 1}


class Notes(SilentListener):
    """Keeps what is said, and stops its session after some step."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.session: Session | None = None

    def on_note(self, text: str) -> None:
        self.said.append(text)

    def on_step(self, state: SearchState, *args: Any) -> None:
        if self.session is not None and state.step == 20:
            self.session.stop_requested = True


def uneven_folder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for colour, (name, count) in enumerate({"many": 60, "few": 8}.items()):
        (path / name).mkdir(parents=True)
        for number in range(count):
            picture(colour, rng).save(path / name / f"{number}.png")
    return path


@pytest.mark.parametrize("metric", [pytest.param("balanced-accuracy", marks=pytest.mark.slow), "log-loss"])
def test_a_search_by_another_metric_ends_with_its_scores_and_resumes_to_them(metric: str, tmp_path: Path) -> None:
    options = {**TINY, "data": str(uneven_folder(tmp_path / "data")), "metric": metric}
    options |= {"few_images": 100, "augmentation": Augmentation("none", "auto")}
    notes, stopping = Notes(), Notes()
    Session.start(SearchConfig.from_dict(options), tmp_path / "run", listener=notes).run()
    stopping.session = Session.start(SearchConfig.from_dict(options), tmp_path / "cut", listener=stopping)
    with pytest.raises(SearchInterruptedError):
        stopping.session.run()
    Session.resume(tmp_path / "cut").run()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "cut")]
    told = ("bank_sha256", "best", "survivors", "ensemble", "recommended", "majority", "per_class", "metric")
    assert [results[0][key] for key in told] == [results[1][key] for key in told]
    said = "\n".join(notes.said)
    assert "classes are uneven" in said
    assert "in inverse proportion" in said
    assert "images are few" in said
    result = results[0]
    assert result["metric"] == metric
    assert result["best"]["validation_score"] == max(row["validation_score"] for row in result["survivors"])
    assert result["majority"]["name"] == "many"
    assert result["majority"]["balanced_accuracy"] == 0.5
    assert result["majority"]["test_accuracy"] > 0.8
    assert [row["name"] for row in result["per_class"]] == ["few", "many"]
    decided = json.loads((tmp_path / "run" / "provenance.json").read_text())["training"]
    assert (decided["class_weights"], decided["metric"]) == ("balanced", metric)
    assert decided["augmentation"]["shift"] == 2  # of 12 pixels


def weights(counts: list[int], **changes: Any) -> list[float] | None:
    config = SearchConfig(recipe=RECIPES["paper"].replace(**changes))
    dataset = make_dataset(counts)
    problem = replace(Problem.load(config), dataset=dataset, transform=InputTransform((0.5,), (0.5,)))
    rows = np.arange(len(dataset.images))
    problem = replace(problem, splits=replace(problem.splits, train=rows, validation=rows[:2], order=rows))
    setup = prepare(replace(config, precision="float32", passes="torch", threads=1), problem=problem)
    found = setup.trainer.loss.keywords["weights"]  # type: ignore[attr-defined]
    return None if found is None else [round(value, 6) for value in found.tolist()]


def test_classes_are_weighed_where_their_sizes_differ_more_than_threefold_or_as_asked() -> None:
    assert weights([30, 10]) is None
    assert weights([90, 10]) == [round(100 / 180, 6), 5.0]
    assert weights([90, 10], class_weights="none") is None
    assert weights([30, 10], class_weights="balanced") == [round(40 / 60, 6), 2.0]


def test_the_best_is_chosen_by_the_metric() -> None:
    """One member always says the large class; the other tells them apart, with more mistakes in all."""
    labels = np.repeat([0, 1], [18, 2])
    lazy, fair = np.zeros(20, dtype=np.int64), labels.copy()
    fair[:4] = 1
    for metric, best in (("accuracy", 0), ("balanced-accuracy", 1)):
        evaluation = Evaluation(np.stack([lazy, fair]), labels, 0, metric)  # type: ignore[arg-type]
        assert int(evaluation.scores.argmax()) == best
