"""Ensembles: several members as one model, fitted on the blend split that neither training nor selection has seen.

Arrays keep the order [example, member, class] throughout, so what is computed for one example can't mix with another.

* ``mean``: the mean of probabilities.
* ``greedy``: forward selection with replacement, a weighted mean (Caruana et al. 2004).
* ``stacked``: regularised logistic regression on the log-probabilities of all members.
* ``stacked-network``: a small network like the report's hierarchical ensemble, added to the mean of the
  log-probabilities, and kept where held-out examples are more likely with it.

* ``cascade``: members in order of cost; each is asked only where those before it are not sure.

Each but the last can be calibrated by one temperature. ``fit_combiner`` makes a combiner and says what it does on
held-out examples, ``Ensemble`` joins it to its members.
"""

from graftwork.ensembles._arrays import (
    ForwardSelection,
    fit_temperature,
    greedy_forward_selection,
    mean_probabilities,
)
from graftwork.ensembles._cascade import NEVER, CascadePoint, cascade_curve, fit_cascade, thresholds_of
from graftwork.ensembles._combiners import (
    CascadeCombiner,
    Combiner,
    LinearCombiner,
    MeanCombiner,
    NetworkCombiner,
    TemperatureCombiner,
)
from graftwork.ensembles._ensemble import Ensemble
from graftwork.ensembles._fit import COMBINERS, CombinerFit, fit_combiner
from graftwork.ensembles._folds import labels_of_groups
from graftwork.ensembles._network import NetworkFit, NetworkSettings, fit_network
from graftwork.ensembles._state import combiner_from, describe_combiner

__all__ = [
    "COMBINERS",
    "NEVER",
    "CascadeCombiner",
    "CascadePoint",
    "Combiner",
    "CombinerFit",
    "Ensemble",
    "ForwardSelection",
    "LinearCombiner",
    "MeanCombiner",
    "NetworkCombiner",
    "NetworkFit",
    "NetworkSettings",
    "TemperatureCombiner",
    "cascade_curve",
    "combiner_from",
    "describe_combiner",
    "fit_cascade",
    "fit_combiner",
    "fit_network",
    "fit_temperature",
    "greedy_forward_selection",
    "labels_of_groups",
    "mean_probabilities",
    "thresholds_of",
]
