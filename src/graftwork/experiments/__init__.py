"""What ``graftwork reproduce`` runs: experiments over seeds, stored one by one, with figures.

`EXPERIMENTS` holds every `Experiment` by name: ``zero-init`` (the poster's zero-initialised network), ``init-scale``
(scale-matched against He initialisation), ``base-network`` (the poster's 0.70) and ``rank`` (Kendall's τ of scores on
shared weights and stand-alone training). `run_experiment` runs one. What surgery is worth on ordinary modules is
asked in `graftwork.experiments.growing`.
"""

from collections.abc import Mapping

from graftwork.experiments._base_network import BASE_NETWORK
from graftwork.experiments._common import Experiment, run_experiment
from graftwork.experiments._init_scale import INIT_SCALE
from graftwork.experiments._rank import RANK
from graftwork.experiments._zero_init import ZERO_INIT

__all__ = ["BASE_NETWORK", "EXPERIMENTS", "INIT_SCALE", "RANK", "ZERO_INIT", "Experiment", "run_experiment"]

EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in (ZERO_INIT, INIT_SCALE, BASE_NETWORK, RANK)}
"""Experiments by the name that ``graftwork reproduce`` takes."""
