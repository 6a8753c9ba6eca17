"""The leak test: a stacker fitted on the members' own training data beside one fitted on the blend split.

Members are surer and more often right on what they were trained on than they will be on anything new, so a stacker that
is fitted there learns to believe them too much. The poster's own research code was fitted so.
"""

from pathlib import Path
from typing import Any

import torch

from graftwork.ensembles import fit_combiner
from graftwork.errors import RunError
from graftwork.metrics import Entry, difference
from graftwork.runs import RunFolder
from graftwork.session import SearchConfig, StoredPredictions, prediction_scores, problem_of, run_members

LEAK_METHODS = ("stacked", "stacked-network")
"""What learns from the members' outputs, and so can be misled by them."""
BLEND, TRAINING = "blend", "training"


def leak_test(path: Path) -> dict[str, Any]:
    """Fit stackers of a finished run's survivors on blend and on as many training images, and store how both do.

    No split is opened: validation and test predictions are those that the run stored. Training images are taken as they
    are, without augmentation.

    Args:
        path: Run folder; ``leak.json`` is written there, or read if it is there already.

    Returns:
        ``num_examples`` fitted on; ``members`` (their mean accuracy on each of the two sets); ``rows``, a method and
        set each (accuracies, ``ece`` and ``nll`` on test, ``fitted_accuracy`` on the set); ``differences`` on test.

    Raises:
        RunError: If the run is not finished, or has no ensemble.
        DataError: If its data are not at hand.
    """
    run = RunFolder.open(path)
    if (path / "leak.json").is_file():
        return run.read_json("leak.json")
    result = run.result()
    if result["ensemble"] is None:
        raise RunError(f"{path} has no ensemble to test: it takes two survivors at least, and a blend split")
    names = [row["id"] for row in result["survivors"]]
    config = SearchConfig.load(path / "config.toml")
    sets = {BLEND: StoredPredictions.load(run, "blend", names)}
    sets[TRAINING] = _training_predictions(run, names, len(sets[BLEND].labels))
    validation, test = (StoredPredictions.load(run, split, names) for split in ("validation", "test"))
    rows, entries = [], dict[tuple[str, str], Entry]()
    for method in LEAK_METHODS:
        for name, fitted in sets.items():
            generator = torch.Generator().manual_seed(config.seed)
            combiner = fit_combiner(method, fitted.outputs, fitted.labels, generator=generator).combiner
            parts = (fitted, validation, test)
            with torch.no_grad():
                said = [combiner(part.outputs) for part in parts]
            scores = [prediction_scores(one, part.labels) for one, part in zip(said, parts, strict=True)]
            entry = entries[method, name] = Entry((said[2].argmax(1) == test.labels).numpy())
            row = {"method": method, "fitted_on": name, "fitted_accuracy": scores[0]["accuracy"]}
            row |= {"validation_accuracy": scores[1]["accuracy"], **entry.to_dict()}
            rows.append({**row, "ece": scores[2]["ece"], "nll": scores[2]["nll"]})
    found = {
        "num_examples": len(sets[BLEND].labels),
        "members": {name: _mean_accuracy(predictions) for name, predictions in sets.items()},
        "rows": rows,
        "differences": {
            f"{m}: fitted on blend − fitted on training data": difference(entries[m, BLEND], entries[m, TRAINING])
            for m in LEAK_METHODS
        },
    }
    run.write_json("leak.json", found)
    return found


def _training_predictions(run: RunFolder, names: list[str], count: int) -> StoredPredictions:
    """Predictions on the last ``count`` training images in stratified order; the first made the running statistics."""
    problem = problem_of(run)
    rows = problem.splits.order[-count:]
    return StoredPredictions(run_members(run, names, problem.images(rows)), problem.labels(rows))


def _mean_accuracy(predictions: StoredPredictions) -> float:
    right = predictions.outputs.argmax(2) == predictions.labels[:, None]
    return float(right.double().mean())
