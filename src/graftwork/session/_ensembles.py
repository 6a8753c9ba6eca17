"""Fitting a run's ensembles, and reading them again."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graftwork._files import damaged
from graftwork.datasets import balanced_weights
from graftwork.ensembles import (
    CascadeCombiner,
    Combiner,
    Ensemble,
    combiner_from,
    describe_combiner,
    fit_combiner,
    labels_of_groups,
)
from graftwork.errors import ConfigError, RunError
from graftwork.metrics import class_scores, expected_calibration_error, negative_log_likelihood, wilson_interval
from graftwork.networks.execution import InputTransform, Output, shared_flops, staged_outputs
from graftwork.networks.genome import Genome, parameters_per_entry
from graftwork.runs import Accuracies, CascadeResult, EnsembleResult, NetworkResult, RunFolder, load_member
from graftwork.session._cascade import chain_of, costs_of, describe_cascade
from graftwork.session._predictions import StoredPredictions, run_together, store_penultimate

METHODS: Mapping[str, tuple[str, bool]] = {
    "mean": ("mean", False),
    "greedy": ("greedy", False),
    "stacked": ("stacked", False),
    "stacked-network": ("stacked-network", False),
    "cascade": ("cascade", False),
    "mean-calibrated": ("mean", True),
    "stacked-calibrated": ("stacked", True),
}
"""Method on the command line → method of `graftwork.ensembles`, and whether its temperature is fitted."""

PENULTIMATE_METHODS = ("stacked", "stacked-calibrated")
"""Methods that can stack penultimate features."""


_EXAMPLES_PER_CLASS = 5
_MOST_PRODUCTS = 10**8
"""Examples × features × classes up to which logistic regression takes seconds."""


def methods_for(labels: Tensor, num_classes: int, num_members: int, *, groups: Tensor | None = None) -> list[str]:
    """Methods that the blend split suffices for, in the order of `METHODS`.

    All but the mean need five examples for each class on average. Those that stack need two of every class, and few
    enough classes to be fitted in seconds. Examples of one group count once: they say hardly more than one of them.

    Args:
        labels: True class of each example of the blend split, int64 [example].
        num_classes: Number of classes.
        num_members: Number of members to be combined.
        groups: Group of each example, int64 [example]; ``None``: each is one of its own.
    """
    group_labels, _ = labels_of_groups(labels, groups)
    counts = torch.bincount(group_labels, minlength=num_classes)
    few = len(group_labels) < _EXAMPLES_PER_CLASS * num_classes
    large = len(labels) * num_members * num_classes**2 > _MOST_PRODUCTS
    unfit = {"stacked", "stacked-network"} if int(counts.min()) < 2 or large else set[str]()
    return [
        name
        for name, (method, calibrated) in METHODS.items()
        if (method == "mean" and not calibrated) or not (few or method in unfit)
    ]


def ensemble_costs(genomes: Sequence[Genome], combiner: Combiner) -> tuple[int, int]:
    """Count the parameters of an ensemble, shared blocks once, and its FLOPs for one image, shared prefixes once."""
    entries = {block_id: count for genome in genomes for block_id, count in parameters_per_entry(genome).items()}
    extra = sum(tensor.numel() for tensor in combiner.state_dict().values())
    return sum(entries.values()) + extra, shared_flops(genomes) + 2 * extra


def prediction_scores(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Score [example, class] against labels [example]: accuracy, calibration error, negative log-likelihood."""
    probabilities = log_probabilities.double().exp().numpy()
    return {
        "accuracy": int((log_probabilities.argmax(1) == labels).sum()) / len(labels),
        "ece": expected_calibration_error(probabilities, labels.numpy()),
        "nll": negative_log_likelihood(probabilities, labels.numpy()),
    }


def accuracies(outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Accuracies:
    """Accuracies of one network or ensemble, as in ``result.json``.

    Args:
        outputs: Logits [example, class] on ``"validation"`` and ``"test"``.
        labels: True class of each example [example], likewise.
    """
    predicted = {split: values.argmax(1) for split, values in outputs.items()}
    right = {split: int((predicted[split] == labels[split]).sum()) for split in predicted}
    count = {split: len(labels[split]) for split in predicted}
    by_class = class_scores(predicted["test"].numpy(), labels["test"].numpy(), outputs["test"].shape[1])
    return {
        "validation_accuracy": right["validation"] / count["validation"],
        "validation_interval": list(wilson_interval(right["validation"], count["validation"])),
        "test_accuracy": right["test"] / count["test"],
        "test_interval": list(wilson_interval(right["test"], count["test"])),
        "balanced_accuracy": by_class.balanced_accuracy,
        "macro_f1": by_class.macro_f1,
    }


def combine(
    run: RunFolder,
    members: Sequence[str],
    *,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    features: Output = "logits",
    trunk: str | None = None,
) -> list[EnsembleResult]:
    """Fit ensembles of stored members on the blend split, store them, and tell how good they are.

    Every class counts the same where it did in training, or does by the metric.

    Args:
        run: Folder of a run whose predictions are stored.
        members: Ids of members, at least one.
        methods: Names in `METHODS`; ``None``: all that the blend split suffices for (see `methods_for`).
        seed: Seed of folds and of a network's weights.
        features: Outputs that are stacked. ``"penultimate"`` takes methods that stack, names them ``…-penultimate``,
            has to run the members once on all three splits; that opening of the test split is recorded.
        trunk: The run's trunk, named by the user again, without which no code of one is run.

    Returns:
        One row a method, as in ``result.json``: accuracies, ``ece`` and ``nll`` on the test split, ``held_out_nll`` on
        the blend split by cross-fitting, ``parameters`` with shared blocks counted once, ``flops`` with shared prefixes
        run once (of a cascade the mean of the test images), ``num_members``. Members count whole, also where only their
        penultimate features are used.

    Raises:
        RunError: If predictions are missing.
        ConfigError: If a method is unknown, can't take these features, or needs a larger blend split.
    """
    load, suffix, options = StoredPredictions.load, "", dict[str, Any]()
    classes = load(run, "blend", members).outputs.shape[2]
    if features == "penultimate":
        methods = PENULTIMATE_METHODS if methods is None else methods
        wrong = [name for name in methods if name not in PENULTIMATE_METHODS]
        if wrong:
            known = " or ".join(PENULTIMATE_METHODS)
            raise ConfigError(f"method: expected {known} for penultimate features, got {wrong[0]!r}; or stack logits")
        store_penultimate(run, members, trunk=trunk)
        options["num_classes"] = classes
        load, suffix = StoredPredictions.load_penultimate, "-penultimate"
    blend, validation, test = (load(run, split, members) for split in ("blend", "validation", "test"))
    labels = {"validation": validation.labels, "test": test.labels}
    if methods is None:
        methods = methods_for(blend.labels, classes, len(members), groups=blend.groups)
    weights = None
    if _weighs_classes(run):
        counts = torch.bincount(blend.labels, minlength=classes).numpy()
        weights = torch.from_numpy(balanced_weights(counts)).float()
    genomes = [Genome.from_dict(run.read_json(f"members/{name}.json")["genome"]) for name in members]
    rows, stored = list[EnsembleResult](), dict[str, dict[str, Tensor]](validation={}, test={})
    outputs = {"blend": blend.outputs, "validation": validation.outputs, "test": test.outputs}
    for wanted in methods:
        method, calibrated = METHODS.get(wanted, (wanted, False))
        name, generator, own_options = wanted + suffix, torch.Generator().manual_seed(seed), options
        chosen = list(range(len(members)))
        if method == "cascade":
            chosen = chain_of(genomes, blend.outputs, blend.labels, weights)
            own_options = {"costs": costs_of([genomes[index] for index in chosen])}
        asked, own = [members[index] for index in chosen], {key: x[:, chosen] for key, x in outputs.items()}
        fit = fit_combiner(
            method,
            own["blend"],
            blend.labels,
            generator=generator,
            calibrated=calibrated,
            class_weights=weights,
            groups=blend.groups,
            **own_options,
        )
        costs, cascade = ensemble_costs([genomes[index] for index in chosen], fit.combiner), None
        if isinstance(fit.combiner, CascadeCombiner):
            cascade = describe_cascade(asked, own_options["costs"], fit.combiner, own, labels)
            costs = costs[0], round(cascade["flops"])
        _save(run, name, asked, fit.combiner, features, cascade)
        with torch.no_grad():
            said = {split: fit.combiner(own[split]) for split in ("validation", "test")}
        for split, log_probabilities in said.items():
            stored[split][f"ensemble/{name}"] = log_probabilities
        rows.append(_row(name, asked, said, labels, costs, fit.held_out_nll(blend.labels, weights)))
    for split, predictions in stored.items():
        name = f"predictions/{split}.safetensors"
        run.save_tensors(name, {**run.load_tensors(name), **predictions})
    return rows


def _row(
    name: str,
    members: Sequence[str],
    said: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    costs: tuple[int, int],
    held_out_nll: float,
) -> EnsembleResult:
    """What ``result.json`` says of an ensemble; ``costs`` are parameters and FLOPs."""
    scores = prediction_scores(said["test"], labels["test"])
    return {
        "method": name,
        **accuracies(said, labels),
        "ece": scores["ece"],
        "nll": scores["nll"],
        "held_out_nll": held_out_nll,
        "parameters": costs[0],
        "flops": costs[1],
        "num_members": len(members),
        "members": list(members),
    }


def _weighs_classes(run: RunFolder) -> bool:
    """Whether every class counted the same in a run's training, or in its metric."""
    with damaged(f"{run.path / 'provenance.json'}"):
        training = run.read_json("provenance.json")["training"]
        return bool(training["class_weights"] == "balanced" or training["metric"] == "balanced-accuracy")


def recommend(rows: Sequence[EnsembleResult]) -> str:
    """Name of the ensemble whose held-out predictions on the blend split are the most likely; of equals, the first."""
    return min(rows, key=lambda row: row["held_out_nll"])["method"]


def _save(
    run: RunFolder,
    name: str,
    members: Sequence[str],
    combiner: Combiner,
    features: Output,
    cascade: CascadeResult | None,
) -> None:
    run.save_tensors(f"ensembles/{name}.safetensors", combiner.state_dict())
    stored = {"members": list(members), "features": features, "combiner": describe_combiner(combiner)}
    run.write_json(f"ensembles/{name}.json", stored if cascade is None else {**stored, "cascade": cascade})


def load_ensemble(run: RunFolder, name: str) -> tuple[Ensemble, InputTransform, dict[str, Any]]:
    """Read an ensemble that `combine` stored: its members run with every shared prefix computed once.

    Raises:
        RunError: If the run has no such ensemble.
    """
    if name not in (there := run.names("ensembles", ".json")):
        known = ", ".join(there) or "none; graftwork ensemble makes them"
        raise RunError(f"{run.path}: expected a stored ensemble, got {name!r}; take one of: {known}")
    data = run.read_json(f"ensembles/{name}.json")
    output = data.get("features")
    if output not in ("logits", "penultimate"):
        raise RunError(
            f"{run.path}: ensemble {name}: expected features logits or penultimate, got {ascii(output)[:80]}"
        )
    with damaged(f"{run.path}: ensemble {name}"):
        combiner = combiner_from(data["combiner"], run.load_tensors(f"ensembles/{name}.safetensors"))
        loaded = [load_member(run, member) for member in data["members"]]
        members, transform, first = [entry[0] for entry in loaded], *loaded[0][1:]
        run_all = partial(run_together, members, output=output)
        if isinstance(combiner, CascadeCombiner):
            run_all = partial(staged_outputs, members, settles=combiner.settles)
        return Ensemble(members, combiner, run_all=run_all), transform, first


def members_of(run: RunFolder, wanted: str) -> list[str]:
    """Return the members that ``--members`` means: ``survivors``, ``best:K``, ``pareto``, or ids with commas.

    Raises:
        RunError: If there is no such member.
    """
    rows = run.result()["survivors"]
    if wanted == "survivors":
        return [row["id"] for row in rows]
    if wanted.startswith("best:") and wanted[5:].isdigit() and int(wanted[5:]) > 0:
        ranked = sorted(rows, key=lambda row: -row["validation_score"])
        return [row["id"] for row in ranked[: int(wanted[5:])]]
    if wanted == "pareto":
        return [row["id"] for row in rows if not any(_dominates(other, row) for other in rows)]
    names = wanted.split(",")
    known = {row["id"] for row in rows}
    if not set(names) <= known:
        raise RunError(
            f"members: expected survivors, best:K, pareto or ids, got {wanted!r}; ids are {', '.join(sorted(known))}"
        )
    return names


def _dominates(one: NetworkResult, other: NetworkResult) -> bool:
    better = one["validation_score"] >= other["validation_score"] and one["flops"] <= other["flops"]
    return better and (one["validation_score"], one["flops"]) != (other["validation_score"], other["flops"])
