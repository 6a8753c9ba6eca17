"""Outcome: the end of a run: the one opening of the test split, members, predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.evolution import Population
from graftwork.networks.genome import forward_flops, num_parameters
from graftwork.runs import RunFolder, record_opening, save_member
from graftwork.session._ensembles import combine
from graftwork.session._setup import Setup
from graftwork.typing import MemberId

CONTROL = MemberId("seed_network")
"""The control's name in a run folder: the seed genome trained alone."""


class Outcome:
    """Scores the final survivors and the control on validation and test, and writes what is kept of them.

    Args:
        run: The folder.
        setup: Of the search, whose population is down to its survivors.
        control: Of the control; ``None`` without one.
    """

    def __init__(self, run: RunFolder, setup: Setup, control: Setup | None) -> None:
        self._run = run
        self._setup = setup
        self._candidates: dict[str, tuple[Population, MemberId]] = {
            member_id: (setup.population, member_id) for member_id in setup.state.survivors
        }
        if control is not None:
            self._candidates[CONTROL] = (control.population, control.state.survivors[0])

    def write(self) -> dict[str, Any]:
        """Write ``members/`` and ``predictions/``.

        The test split is opened here and nowhere else; after a kill during this method it is opened again by the same
        networks, which ``test_openings`` counts.

        Returns:
            ``best``, ``survivors``, ``seed_network``, ``ensemble`` and ``test_openings`` of ``result.json``.
        """
        openings = record_opening(self._run, by="search", members=list(self._candidates))
        problem = self._setup.problem
        test_images, test_labels, test_index = problem.test()
        validation = problem.splits.validation
        logits = self._logits(test_images)
        self._predictions("test", logits[1], test_labels, test_index)
        self._predictions("validation", logits[0], problem.labels(validation), torch.from_numpy(validation.copy()))
        blend = problem.splits.blend
        if len(blend):
            self._predictions("blend", logits[2], problem.labels(blend), torch.from_numpy(blend.copy()))
        rows = {
            name: self._row(name, logits[0][name], problem.labels(validation), logits[1][name], test_labels)
            for name in self._candidates
        }
        survivors = [rows[name] for name in self._setup.state.survivors]
        return {
            "best": max(survivors, key=lambda row: float(row["validation_accuracy"])),
            "seed_network": rows.get(CONTROL),
            "survivors": survivors,
            "test_opened_at": openings[-1]["at"],
            "test_openings": openings,
            "ensemble": self._ensembles(),
        }

    def _ensembles(self) -> list[dict[str, Any]] | None:
        """Of all survivors, by every method; ``None`` for one survivor, or without a blend split to fit them on."""
        survivors = self._setup.state.survivors
        if len(survivors) < 2 or not len(self._setup.problem.splits.blend):
            return None
        return combine(self._run, survivors, seed=self._setup.config.seed)

    def _logits(self, test_images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Logits [N, classes] on validation, test and blend, by name; each population over its own bank."""
        found: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
        blend = self._setup.problem.images(self._setup.problem.splits.blend)
        for population in {id(p): p for p, _ in self._candidates.values()}.values():
            names = [name for name, (owner, _) in self._candidates.items() if owner is population]
            members = [population[self._candidates[name][1]].eval() for name in names]
            for kept, images in zip(found, (None, test_images, blend), strict=True):
                kept.update(zip(names, self._setup.scorer.logits(members, images), strict=True))
        return found

    def _predictions(self, name: str, logits: dict[str, Tensor], labels: Tensor, index: Tensor) -> None:
        self._run.save_tensors(f"predictions/{name}.safetensors", {**logits, "labels": labels, "index": index})

    def _row(
        self, name: str, validation: Tensor, validation_labels: Tensor, test: Tensor, test_labels: Tensor
    ) -> dict[str, Any]:
        population, member_id = self._candidates[name]
        scores = {
            "validation_accuracy": _accuracy(validation, validation_labels),
            "test_accuracy": _accuracy(test, test_labels),
        }
        problem = self._setup.problem
        names: Sequence[str] = problem.dataset.class_names
        save_member(
            self._run, population, member_id, name=name, transform=problem.transform, class_names=names, scores=scores
        )
        genome = population[member_id].genome
        return {"id": name, **scores, "parameters": num_parameters(genome), "flops": forward_flops(genome)}


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return int(np.count_nonzero((logits.argmax(1) == labels).numpy())) / len(labels)
