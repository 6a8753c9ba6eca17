"""The ensembles of a run: fitted on stored blend predictions, scored on stored validation and test predictions.

A run stores the logits of its final survivors once, and `combine` uses them (`StoredPredictions`): nothing is run and
no split is opened. Only what was not stored, such as penultimate features, makes the members run again (`run_members`,
on the data of `problem_of`), and an opening of the test split is then recorded. `load_ensemble` reads what was stored.
"""

from graftwork.combination._combine import (
    METHODS,
    PENULTIMATE_METHODS,
    combine,
    ensemble_costs,
    load_ensemble,
    members_of,
    prediction_scores,
)
from graftwork.combination._stored import StoredPredictions, problem_of, run_members

__all__ = [
    "METHODS",
    "PENULTIMATE_METHODS",
    "StoredPredictions",
    "combine",
    "ensemble_costs",
    "load_ensemble",
    "members_of",
    "prediction_scores",
    "problem_of",
    "run_members",
]
