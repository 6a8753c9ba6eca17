"""The ensembles of a run: fitted on stored blend predictions, scored on stored validation and test predictions.

Nothing is run and no split is opened here: a run stores the logits of its final survivors once, and ensembles use them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graftwork.ensembles import Combiner, Ensemble, combiner_from, describe_combiner, fit_combiner
from graftwork.errors import RunError
from graftwork.execution import InputTransform, shared_flops, walk
from graftwork.genome import Genome, parameters_per_entry
from graftwork.member import Member
from graftwork.metrics import expected_calibration_error, negative_log_likelihood
from graftwork.runs import RunFolder, load_member
from graftwork.training import Precision, in_precision

__all__ = [
    "METHODS",
    "StoredPredictions",
    "combine",
    "ensemble_costs",
    "load_ensemble",
    "members_of",
    "prediction_scores",
    "run_members",
]

METHODS: Mapping[str, tuple[str, bool]] = {
    "mean": ("mean", False),
    "greedy": ("greedy", False),
    "stacked": ("stacked", False),
    "grafted": ("grafted", False),
    "mean-calibrated": ("mean", True),
    "stacked-calibrated": ("stacked", True),
}
"""Method on the command line → method of `graftwork.ensembles`, and whether its temperature is fitted."""


@dataclass(frozen=True)
class StoredPredictions:
    """Logits of members on one split.

    Args:
        outputs: float32 [example, member, class].
        labels: int64 [example].
    """

    outputs: Tensor
    labels: Tensor

    @classmethod
    def load(cls, run: RunFolder, split: str, members: Sequence[str]) -> "StoredPredictions":
        """Read what a run stored of some members.

        Raises:
            RunError: If a member has no stored predictions.
        """
        tensors = run.load_tensors(f"predictions/{split}.safetensors")
        missing = [name for name in members if name not in tensors]
        if missing:
            raise RunError(f"{run.path}: no {split} predictions of {', '.join(missing)} are stored")
        return cls(torch.stack([tensors[name] for name in members], dim=1), tensors["labels"])


def ensemble_costs(genomes: Sequence[Genome], combiner: Combiner) -> tuple[int, int]:
    """Parameters that an ensemble has to keep, shared blocks once; FLOPs for one image, shared prefixes once."""
    entries = {block_id: count for genome in genomes for block_id, count in parameters_per_entry(genome).items()}
    extra = sum(tensor.numel() for tensor in combiner.state_dict().values())
    return sum(entries.values()) + extra, shared_flops(genomes) + 2 * extra


def prediction_scores(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, expected calibration error and negative log-likelihood of [example, class] with labels [example]."""
    probabilities = log_probabilities.double().exp().numpy()
    return {
        "accuracy": int((log_probabilities.argmax(1) == labels).sum()) / len(labels),
        "ece": expected_calibration_error(probabilities, labels.numpy()),
        "nll": negative_log_likelihood(probabilities, labels.numpy()),
    }


def combine(
    run: RunFolder, members: Sequence[str], *, methods: Sequence[str] = tuple(METHODS), seed: int = 0
) -> list[dict[str, Any]]:
    """Fit ensembles of stored members on the blend split, store them, and tell how good they are.

    Args:
        run: A folder whose predictions are stored.
        members: Ids, at least one.
        methods: Names in `METHODS`.
        seed: Of the stacker's weights and folds.

    Returns:
        One row a method, as in ``result.json``: accuracies, ``ece`` and ``nll`` on the test split, ``parameters`` with
        shared blocks counted once, ``flops`` with shared prefixes run once, ``num_members``.

    Raises:
        RunError: If predictions are missing.
        ConfigError: If a method is unknown.
    """
    blend = StoredPredictions.load(run, "blend", members)
    validation, test = (StoredPredictions.load(run, split, members) for split in ("validation", "test"))
    genomes = [Genome.from_dict(run.read_json(f"members/{name}.json")["genome"]) for name in members]
    rows, stored = [], dict[str, dict[str, Tensor]](validation={}, test={})
    for name in methods:
        method, calibrated = METHODS.get(name, (name, False))
        generator = torch.Generator().manual_seed(seed)
        combiner = fit_combiner(method, blend.outputs, blend.labels, generator=generator, calibrated=calibrated)
        _save(run, name, members, combiner)
        with torch.no_grad():
            said = {"validation": combiner(validation.outputs), "test": combiner(test.outputs)}
        for split, log_probabilities in said.items():
            stored[split][f"ensemble/{name}"] = log_probabilities
        scores = prediction_scores(said["test"], test.labels)
        parameters, flops = ensemble_costs(genomes, combiner)
        rows.append(
            {
                "method": name,
                "test_accuracy": scores["accuracy"],
                "validation_accuracy": prediction_scores(said["validation"], validation.labels)["accuracy"],
                "ece": scores["ece"],
                "nll": scores["nll"],
                "parameters": parameters,
                "flops": flops,
                "num_members": len(members),
                "members": list(members),
            }
        )
    for split, predictions in stored.items():
        name = f"predictions/{split}.safetensors"
        run.save_tensors(name, {**run.load_tensors(name), **predictions})
    return rows


def _save(run: RunFolder, name: str, members: Sequence[str], combiner: Combiner) -> None:
    (run.path / "ensembles").mkdir(exist_ok=True)
    run.save_tensors(f"ensembles/{name}.safetensors", combiner.state_dict())
    run.write_json(f"ensembles/{name}.json", {"members": list(members), "combiner": describe_combiner(combiner)})


def load_ensemble(run: RunFolder, name: str) -> tuple[Ensemble, InputTransform, dict[str, Any]]:
    """Read an ensemble that `combine` stored: its members run with every shared prefix computed once.

    Raises:
        RunError: If the run has no such ensemble.
    """
    path = run.path / "ensembles" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none; graftwork ensemble makes them"
        raise RunError(f"{run.path} has no ensemble {name!r}; there are: {there}")
    data = run.read_json(f"ensembles/{name}.json")
    combiner = combiner_from(data["combiner"], run.load_tensors(f"ensembles/{name}.safetensors"))
    loaded = [load_member(run, member) for member in data["members"]]
    members = [entry[0] for entry in loaded]
    return Ensemble(members, combiner, run_all=partial(_run_all, members)), loaded[0][1], loaded[0][2]


def _run_all(members: Sequence[Member], images: Tensor) -> Tensor:
    """Outputs [B, K, classes] of normalised images, shared prefixes run once."""
    outputs = dict(walk(members, images, "evaluate"))
    return torch.stack([outputs[index] for index in range(len(members))], dim=1)


@torch.no_grad()
def run_members(run: RunFolder, names: Sequence[str], images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Run stored members on images, in the precision of the run and in batches as scoring makes them.

    Args:
        run: A finished run.
        names: Ids of members.
        images: uint8 [N, H, W, C].
        batch_size: Images in one pass; part of the result's bits.

    Returns:
        Logits, float32 [N, K, classes]; on images that the run has scored, those that it stored.
    """
    loaded = [load_member(run, name) for name in names]
    members, transform = [entry[0] for entry in loaded], loaded[0][1]
    precision: Precision = run.read_json("provenance.json")["precision"]["precision"]
    with in_precision(precision, torch.device("cpu")):
        parts = [_run_all(members, transform(part)).float() for part in torch.split(images, batch_size)]
    return torch.cat(parts)


def members_of(run: RunFolder, wanted: str) -> list[str]:
    """Which members ``--members`` means: ``survivors``, ``best:K``, ``pareto``, or ids separated by commas.

    Raises:
        RunError: If there is no such member.
    """
    rows = run.read_json("result.json")["survivors"]
    if wanted == "survivors":
        return [str(row["id"]) for row in rows]
    if wanted.startswith("best:") and wanted[5:].isdigit() and int(wanted[5:]) > 0:
        ranked = sorted(rows, key=lambda row: -float(row["validation_accuracy"]))
        return [str(row["id"]) for row in ranked[: int(wanted[5:])]]
    if wanted == "pareto":
        return [str(row["id"]) for row in rows if not any(_dominates(other, row) for other in rows)]
    names = wanted.split(",")
    known = {row["id"] for row in rows}
    if not set(names) <= known:
        raise RunError(
            f"members: expected survivors, best:K, pareto or ids among {', '.join(sorted(known))}, got {wanted!r}"
        )
    return names


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    better = one["validation_accuracy"] >= other["validation_accuracy"] and one["flops"] <= other["flops"]
    return better and (one["validation_accuracy"], one["flops"]) != (other["validation_accuracy"], other["flops"])
