"""The end of a run: the one opening of the test split, and the members and predictions that are kept."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graftwork.datasets import groups_of
from graftwork.ensembles import CascadeCombiner, Ensemble
from graftwork.evolution import Population
from graftwork.machine import LATENCY_BATCH, noise_images, time_passes
from graftwork.metrics import class_scores
from graftwork.networks.genome import Genome, forward_flops, num_parameters
from graftwork.runs import (
    CascadeResult,
    ClassResult,
    EnsembleResult,
    FinalScores,
    LatencyResult,
    MajorityResult,
    NetworkLatency,
    NetworkResult,
    RunFolder,
    record_opening,
    save_member,
)
from graftwork.session._ensembles import accuracies, combine, load_ensemble, recommend
from graftwork.session._predictions import run_together
from graftwork.session._race import pairs_of
from graftwork.session._setup import Setup
from graftwork.training import Evaluation
from graftwork.typing import MemberId

_ONE_BY_ONE = 4
"""Images on which a cascade is timed one by one."""

CONTROL = MemberId("seed_network")
"""The control's name in a run folder: the seed genome trained alone."""


class FinalScoring:
    """Scores final survivors and control on validation and test, and writes what is kept of them.

    Args:
        run: Folder of the run.
        setup: The search, whose population is down to its survivors.
        control: The control; ``None`` without one.
    """

    def __init__(self, run: RunFolder, setup: Setup, control: Setup | None) -> None:
        self._run = run
        self._setup = setup
        self._candidates: dict[str, tuple[Population, MemberId]] = {
            member_id: (setup.population, member_id) for member_id in setup.state.survivors
        }
        if control is not None:
            self._candidates[CONTROL] = (control.population, control.state.survivors[0])

    def write(self) -> FinalScores:
        """Write ``members/`` and ``predictions/``.

        The test split is opened here and nowhere else; after a kill during this method it is opened again by the same
        networks, which ``test_openings`` counts.

        Returns:
            What ``result.json`` says of the networks and of the test split.
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
            groups = torch.from_numpy(groups_of(problem.dataset, blend))
            self._predictions("blend", logits[2], problem.labels(blend), torch.from_numpy(blend.copy()), groups=groups)
        labels = {"validation": problem.labels(validation), "test": test_labels}
        rows = {
            name: self._row(name, {"validation": logits[0][name], "test": logits[1][name]}, labels)
            for name in self._candidates
        }
        survivors = [rows[name] for name in self._setup.state.survivors]
        best = max(survivors, key=lambda row: row["validation_score"])
        ensembles = self._ensembles()
        return {
            "best": best,
            "majority": self._majority(labels),
            "per_class": self._per_class(logits[1][best["id"]], test_labels),
            "mirror_pairs": self._mirror_pairs(best["id"], logits[0][best["id"]]),
            "seed_network": rows.get(CONTROL),
            "survivors": survivors,
            "test_opened_at": openings[-1]["at"],
            "test_openings": openings,
            "latency": self._latency(ensembles or ()),
            "ensemble": ensembles,
            "recommended": recommend(ensembles) if ensembles else None,
            "cascade": self._cascade(ensembles or ()),
        }

    def _latency(self, ensembles: Sequence[EnsembleResult]) -> LatencyResult:
        """Time all candidates and ensembles on one image and on a batch, while nothing else of ours runs."""
        device, counts = torch.device(self._setup.config.device), (1, LATENCY_BATCH)
        found: dict[str, NetworkLatency] = {}
        for name, (population, member_id) in self._candidates.items():
            member = population[member_id].eval()
            found[name] = _both([self._milliseconds(member, member.genome, count, device) for count in counts])
        together: dict[str, NetworkLatency] = {}
        if ensembles:  # all of the same members, which run once for all, and each with what combines them
            members = [self._setup.population[name].eval() for name in self._setup.state.survivors]
            run = partial(run_together, members, output="logits")
            times = [self._milliseconds(run, members[0].genome, count, device) for count in counts]
            outputs = [run(noise_images(members[0].genome, count, device)) for count in counts]
        for row in ensembles:
            ensemble = load_ensemble(self._run, row["method"])[0].to(device)
            combiner = ensemble.combiner
            if isinstance(combiner, CascadeCombiner):  # what it runs depends on the images
                together[row["method"]] = self._cascade_latency(ensemble, device)
                continue
            own = [1000 * time_passes(combiner, x) for x in outputs]
            together[row["method"]] = _both([first + then for first, then in zip(times, own, strict=True)])
        return {
            "device": str(device),
            "threads": torch.get_num_threads(),
            "batch_size": LATENCY_BATCH,
            "networks": found,
            "ensembles": together,
        }

    def _cascade_latency(self, cascade: Ensemble, device: torch.device) -> NetworkLatency:
        """Time a cascade on validation images: the mean of a few one by one, and a batch; with a trunk's part."""
        problem = self._setup.problem
        rows = np.resize(problem.splits.validation, LATENCY_BATCH)
        images, run = problem.images(rows).to(device), lambda x: cascade(problem.transform(x))
        if problem.trunk is not None and problem.learned is None:
            trunk = problem.trunk.to(device)
            images, run = problem.shown(rows).to(device), lambda x: cascade(problem.transform(trunk.features(x)))
        few = [1000 * time_passes(run, images[row : row + 1]) for row in range(_ONE_BY_ONE)]
        return _both([sum(few) / len(few), 1000 * time_passes(run, images)])

    def _milliseconds(
        self, member: Callable[[Tensor], Tensor], genome: Genome, count: int, device: torch.device
    ) -> float:
        """Time one pass over so many images, the trunk's part included."""
        problem = self._setup.problem
        if problem.trunk is None:
            return 1000 * time_passes(member, noise_images(genome, count, device))
        trunk, transform = problem.trunk.to(device), problem.transform
        images = problem.shown(np.resize(problem.splits.validation, count)).to(device)
        if problem.learned is not None:
            return 1000 * time_passes(lambda x: member(transform(x)), images)
        return 1000 * time_passes(lambda x: member(transform(trunk.features(x))), images)

    def _ensembles(self) -> list[EnsembleResult] | None:
        """Fit ensembles of all survivors; ``None`` for one survivor, or without a blend split to fit on."""
        survivors = self._setup.state.survivors
        if len(survivors) < 2 or not len(self._setup.problem.splits.blend):
            return None
        return combine(self._run, survivors, seed=self._setup.config.seed)

    def _cascade(self, ensembles: Sequence[EnsembleResult]) -> CascadeResult | None:
        """What `combine` has stored of the cascade; ``None`` where it made none."""
        if "cascade" not in (row["method"] for row in ensembles):
            return None
        found: CascadeResult = self._run.read_json("ensembles/cascade.json")["cascade"]
        return found

    def _logits(self, test_images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Logits [N, classes] on validation, test and blend, by name; each population over its own bank."""
        found: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
        blend = self._setup.problem.images(self._setup.problem.splits.blend)
        for population in {id(p): p for p, _ in self._candidates.values()}.values():
            names = [name for name, (owner, _) in self._candidates.items() if owner is population]
            members = [population[self._candidates[name][1]].eval() for name in names]
            for kept, images in zip(found, (None, test_images, blend), strict=True):
                logits = self._setup.scorer.logits(members, images, calibrated=images is not None)
                kept.update(zip(names, logits, strict=True))
        return found

    def _predictions(
        self, name: str, logits: dict[str, Tensor], labels: Tensor, index: Tensor, **beside: Tensor
    ) -> None:
        tensors = {**logits, "labels": labels, "index": index, **beside}
        self._run.save_tensors(f"predictions/{name}.safetensors", tensors)

    def _row(self, name: str, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> NetworkResult:
        """Score a network on ``"validation"`` and ``"test"``, and store it."""
        population, member_id = self._candidates[name]
        found = accuracies(logits, labels)
        problem = self._setup.problem
        save_member(
            self._run,
            population,
            member_id,
            name=name,
            transform=problem.transform,
            class_names=problem.dataset.class_names,
            scores={key: found[key] for key in ("validation_accuracy", "test_accuracy")},
        )
        genome = population[member_id].genome
        return {
            "id": name,
            **found,
            "validation_score": self._score(logits["validation"], labels["validation"]),
            "parameters": num_parameters(genome),
            "flops": forward_flops(genome),
        }

    def _score(self, logits: Tensor, labels: Tensor) -> float:
        """Score of one network by the metric of the search."""
        likelihoods = -F.cross_entropy(logits, labels, reduction="none")[None].numpy()
        predicted = logits.argmax(1)[None].numpy()
        return float(Evaluation(predicted, labels.numpy(), 0, self._setup.config.metric, likelihoods).scores[0])

    def _majority(self, labels: Mapping[str, Tensor]) -> MajorityResult:
        """What the most frequent class of the training split would give."""
        problem = self._setup.problem
        names = problem.dataset.class_names
        frequent = int(torch.bincount(problem.labels(problem.splits.train)).argmax())
        always = F.one_hot(torch.tensor([frequent]), len(names))
        said = {split: always.expand(len(values), -1) for split, values in labels.items()}
        return {"name": names[frequent], **accuracies(said, labels)}

    def _mirror_pairs(self, name: str, logits: Tensor) -> list[list[str]]:
        """Classes that flip into each other, as a network tells that has seen no mirrored images in training."""
        if self._setup.recipe.augmentation.flip != "none" or self._setup.problem.trunk is not None:
            return []  # maps of features are no images: a mirror makes nothing of them that a trunk would
        population, member_id = self._candidates[name]
        return [list(pair) for pair in pairs_of(self._setup, population[member_id], logits.argmax(1).numpy())]

    def _per_class(self, logits: Tensor, labels: Tensor) -> list[ClassResult]:
        return per_class(logits.argmax(1).numpy(), labels.numpy(), self._setup.problem.dataset.class_names)


def _both(times: Sequence[float]) -> NetworkLatency:
    one, batch = times
    return {"one": round(one, 4), "batch": round(batch, 4)}


def per_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], class_names: Sequence[str]) -> list[ClassResult]:
    """Score every class by name: precision, recall, support; arguments as of `graftwork.metrics.class_scores`."""
    scores = class_scores(predicted, labels, len(class_names))
    columns = (class_names, scores.precision.tolist(), scores.recall.tolist(), scores.support.tolist())
    return [
        {"name": name, "precision": precision, "recall": recall, "support": support}
        for name, precision, recall, support in zip(*columns, strict=True)
    ]
