"""Ensembles: several members as one model, fitted on the blend split that neither training nor selection has seen.

Arrays keep the order [example, member, class] throughout, so what is computed for one example can't mix with another.

* ``mean``: the mean of probabilities.
* ``greedy``: forward selection with replacement, a weighted mean (Caruana et al. 2004).
* ``stacked``: the report's hierarchical ensemble, a small network over all outputs.
* ``grafted``: the same, added to the mean and starting from zero.

Each can be calibrated by one temperature. ``fit_combiner`` makes a combiner, ``Ensemble`` joins it to its members.
"""

from graftwork.ensembles._arrays import (
    ForwardSelection,
    fit_temperature,
    greedy_forward_selection,
    mean_probabilities,
)
from graftwork.ensembles._combiners import Combiner, MeanCombiner, StackedCombiner, TemperatureCombiner
from graftwork.ensembles._ensemble import Ensemble
from graftwork.ensembles._fit import COMBINERS, fit_combiner
from graftwork.ensembles._stack import StackFit, StackSettings, fit_stacked
from graftwork.ensembles._state import combiner_from, describe_combiner

__all__ = [
    "COMBINERS",
    "Combiner",
    "Ensemble",
    "ForwardSelection",
    "MeanCombiner",
    "StackFit",
    "StackSettings",
    "StackedCombiner",
    "TemperatureCombiner",
    "combiner_from",
    "describe_combiner",
    "fit_combiner",
    "fit_stacked",
    "fit_temperature",
    "greedy_forward_selection",
    "mean_probabilities",
]
