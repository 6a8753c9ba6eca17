"""`GraftworkClassifier` with its own budget, beside scikit-learn's usual choices for tables.

    python benchmarks/estimator.py --json results/estimator.json

Accuracy by three folds, shuffled, for each of three seeds; seconds are a fit's, in processor time on one thread.
``hundred_rows_seconds`` is what a fit with ``budget="auto"`` takes of 100 rows: of iris as a table, and of 8×8 digits
as images.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import torch
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import _ratio
from graftwork.sklearn import GraftworkClassifier

TABLES: Mapping[str, Callable[..., Any]] = {
    "iris": load_iris,
    "wine": load_wine,
    "cancer": load_breast_cancer,
    "digits": load_digits,
}
WAYS: Mapping[str, Callable[[int], ClassifierMixin]] = {
    "graftwork": lambda seed: GraftworkClassifier(random_state=seed),
    "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "MLP": lambda seed: make_pipeline(StandardScaler(), MLPClassifier(max_iter=2000, random_state=seed)),
}


def scored(make: Callable[[int], ClassifierMixin], X: Any, y: Any, seeds: range) -> dict[str, Any]:
    """Mean accuracy over seeds, its deviation between them, and processor seconds of a fit."""
    began, means = process_time(), []
    for seed in seeds:
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        means.append(float(cross_val_score(make(seed), X, y, cv=folds).mean()))
    fits = 3 * len(means)
    return {"accuracy": mean(means), "std": stdev(means), "seconds": round((process_time() - began) / fits, 2)}


def hundred() -> dict[str, list[float]]:
    """Processor seconds of three fits of 100 rows each."""
    table, classes = load_iris(return_X_y=True)
    images, digits = load_digits(return_X_y=True)
    cases = {
        "iris, a table": (table[25:125], classes[25:125]),
        "digits, 8×8 images": (images.reshape(-1, 8, 8), digits),
    }
    found: dict[str, list[float]] = {}
    for name, (X, y) in cases.items():
        rows = slice(None, 100)
        for seed in range(4):  # the first one imports
            began = process_time()
            GraftworkClassifier(random_state=seed).fit(X[rows], y[rows])
            found.setdefault(name, []).append(round(process_time() - began, 3))
    return {name: seconds[1:] for name, seconds in found.items()}


def main() -> None:
    """Compare on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        name: {way: scored(make, *load(return_X_y=True), range(options.seeds)) for way, make in WAYS.items()}
        for name, load in TABLES.items()
    }
    _ratio.write(options.json, {"rows": rows, "hundred_rows_seconds": hundred()})


if __name__ == "__main__":
    main()
