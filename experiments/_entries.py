"""What finished runs say about the test split: accuracies with intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork.ensembles import MeanCombiner, NetworkSettings, fit_network
from graftwork.errors import RunError
from graftwork.metrics import Entry, diversity
from graftwork.runs import RunFolder
from graftwork.session import StoredPredictions, prediction_scores

BEST, CHOSEN, POSTER, ORACLE = "best member", "recommended ensemble", "the poster's network", "oracle"
"""Lines of a table. The poster's ensemble is a small network over the members' outputs, and nothing else. The oracle
picks, for each example, a member that is right: a bound, no method."""

PLAIN = NetworkSettings(residual=False)
"""The poster's form of the small network: it does not start from the mean of the members."""

_KEPT = ("validation_accuracy", "parameters", "flops", "ece", "nll", "num_members", "id", "method")


def _entry(outputs: Tensor, labels: Tensor, row: Mapping[str, Any]) -> Entry:
    return Entry((outputs.argmax(1) == labels).numpy(), {key: row[key] for key in _KEPT if key in row})


def search_entries(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Best member, every ensemble, the recommended one, the poster's, and the oracle of a finished search.

    Returns:
        Entries by line of the table, and the diversity of the survivors on the test split.
    """
    run = RunFolder.open(path)
    result = run.result()
    tensors = run.load_tensors("predictions/test.safetensors")
    labels = tensors["labels"]
    entries = {BEST: _entry(tensors[result["best"]["id"]], labels, result["best"])}
    for row in result["ensemble"] or ():
        entries[row["method"]] = _entry(tensors[f"ensemble/{row['method']}"], labels, row)
    names = [row["id"] for row in result["survivors"]]
    if result["recommended"] is not None:
        entries[CHOSEN] = entries[result["recommended"]]
        if "stacked-network" in entries:  # the blend split suffices
            entries[POSTER] = _poster_entry(run, names, result["seed"])
    outputs = torch.stack([tensors[name] for name in names])
    return entries | {ORACLE: _oracle(outputs, labels)}, _diversity(outputs, labels)


def _poster_entry(run: RunFolder, names: Sequence[str], seed: int) -> Entry:
    """The plain small network, fitted on the blend split; from stored predictions, so no split is opened."""
    blend, validation, test = (StoredPredictions.load(run, split, names) for split in ("blend", "validation", "test"))
    fit = fit_network(
        blend.outputs,
        blend.labels,
        num_classes=blend.outputs.shape[2],
        generator=torch.Generator().manual_seed(seed),
        settings=PLAIN,
    )
    with torch.no_grad():
        right = fit.combiner(validation.outputs).argmax(1) == validation.labels
        outputs = fit.combiner(test.outputs)
    scores = {key: value for key, value in prediction_scores(outputs, test.labels).items() if key != "accuracy"}
    details = {"validation_accuracy": int(right.sum()) / len(right), "num_members": len(names), **scores}
    return Entry((outputs.argmax(1) == test.labels).numpy(), details)


def _oracle(outputs: Tensor, labels: Tensor) -> Entry:
    """The oracle over outputs [member, example, class]."""
    correct = outputs.argmax(2) == labels
    return Entry(correct.any(dim=0).numpy(), {"num_members": len(correct)})


def _diversity(outputs: Tensor, labels: Tensor) -> dict[str, Any]:
    if len(outputs) < 2:
        return {}
    return asdict(diversity(outputs.argmax(2).numpy(), labels.numpy()))


def deep_ensemble_entries(paths: Sequence[Path]) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Best network, mean and oracle of networks that were trained apart, one run each.

    Raises:
        RunError: If the runs were not scored on the same examples.
    """
    rows, tests, validations = [], [], []
    for path in paths:
        run = RunFolder.open(path)
        rows.append(run.result()["best"])
        tests.append(run.load_tensors("predictions/test.safetensors"))
        validations.append(run.load_tensors("predictions/validation.safetensors"))
        for split in (tests, validations):
            if not torch.equal(split[0]["index"], split[-1]["index"]):
                raise RunError(f"{paths[0]} and {path} were scored on different examples; give them one split_seed")
    best = max(range(len(rows)), key=lambda number: float(rows[number]["validation_accuracy"]))
    labels = tests[0]["labels"]
    outputs = torch.stack([stored[row["id"]] for stored, row in zip(tests, rows, strict=True)])
    mean = MeanCombiner([1.0] * len(rows))
    of_validation = torch.stack([s[row["id"]] for s, row in zip(validations, rows, strict=True)], dim=1)
    right = mean(of_validation).argmax(1) == validations[0]["labels"]
    details = {"validation_accuracy": int(right.sum()) / len(right), "num_members": len(rows)}
    details |= {key: sum(row[key] for row in rows) for key in ("parameters", "flops")}
    entries = {
        BEST: _entry(outputs[best], labels, rows[best]),
        "mean": Entry((mean(outputs.swapaxes(0, 1)).argmax(1) == labels).numpy(), details),
        ORACLE: _oracle(outputs, labels),
    }
    return entries, _diversity(outputs, labels)
