"""A search on disk, from a config to its result.

`SearchConfig` holds every option (`read_options` reads a file of them), `parse_budget` reads a `Budget`, `Problem` is
the data, `seed_of` its first network, and `prepare` makes a `Setup`: everything that `graftwork.search` takes, with the
`Plan` that `make_plan` fixes before the first step. A `Session` takes a run from there to its end, tells a `Listener`
what happens (an `Outline` first), and resumes it after a kill; `FinalScoring` opens the test split once and writes what
it gives. Other workers `follow` the session of rank 0. `combine` makes ensembles of a finished run from its stored
predictions (`methods_for` says which), and `distil` one network of an ensemble. `options_of` reads the options of a run
to begin another with, and `trunk_of` opens its trunk again (`front_of`: as exports take it). `open_classifier` makes a
`Classifier` of what a run left or of an exported model, and `evaluate` gives its `Scores` on other images.
"""

from graftwork.session._budget import Budget, parse_budget
from graftwork.session._classifier import Classifier, open_classifier
from graftwork.session._config import SearchConfig, read_options
from graftwork.session._distil import distil
from graftwork.session._ensembles import (
    METHODS,
    PENULTIMATE_METHODS,
    combine,
    ensemble_costs,
    load_ensemble,
    members_of,
    methods_for,
    prediction_scores,
)
from graftwork.session._evaluate import Scores, evaluate
from graftwork.session._final import CONTROL, FinalScoring
from graftwork.session._following import dismiss, follow, prepare_together, restore, shared_parts
from graftwork.session._growth import mutation_of, strategy_of
from graftwork.session._listener import Listener, SilentListener
from graftwork.session._outline import Outline
from graftwork.session._planning import make_plan, measure_speed, shared_fraction
from graftwork.session._predictions import StoredPredictions, options_of, problem_of, run_members
from graftwork.session._problem import Problem, most_calibration, seed_of
from graftwork.session._session import Session
from graftwork.session._setup import Setup, prepare
from graftwork.session._trunk import front_of, trunk_of

__all__ = [
    "CONTROL",
    "METHODS",
    "PENULTIMATE_METHODS",
    "Budget",
    "Classifier",
    "FinalScoring",
    "Listener",
    "Outline",
    "Problem",
    "Scores",
    "SearchConfig",
    "Session",
    "Setup",
    "SilentListener",
    "StoredPredictions",
    "combine",
    "dismiss",
    "distil",
    "ensemble_costs",
    "evaluate",
    "follow",
    "front_of",
    "load_ensemble",
    "make_plan",
    "measure_speed",
    "members_of",
    "methods_for",
    "most_calibration",
    "mutation_of",
    "open_classifier",
    "options_of",
    "parse_budget",
    "prediction_scores",
    "prepare",
    "prepare_together",
    "problem_of",
    "read_options",
    "restore",
    "run_members",
    "seed_of",
    "shared_fraction",
    "shared_parts",
    "strategy_of",
    "trunk_of",
]
