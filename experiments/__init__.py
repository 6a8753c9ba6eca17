"""What ``python -m experiments`` runs: experiments over seeds, stored one by one, with figures.

`EXPERIMENTS` holds them all by name. An `Experiment` trains networks itself: ``zero-init`` (the poster's
zero-initialised network), ``init-scale`` (scale-matched against He initialisation), ``base-network`` (the poster's
0.70) and ``rank`` (Kendall's τ of scores on shared weights and stand-alone training); `run_experiment` runs one. The
arms of a `Study` are whole runs: ``neuroevolution`` (the poster's table), ``coevolution`` (three selections and two
controls at equal FLOPs) and ``strategies`` (every search strategy on seeds of the wrong size); `run_study` runs one.

`leak_test` fits stackers of any finished run on its members' own training data, beside those fitted on the blend split;
`distil` trains one network on with the soft labels of a run's ensemble, beside the same FLOPs without them.
What surgery is worth on ordinary modules is asked in `experiments.growing`.
"""

from collections.abc import Mapping

from experiments._base_network import BASE_NETWORK
from experiments._coevolution import COEVOLUTION
from experiments._common import Experiment, run_experiment
from experiments._init_scale import INIT_SCALE
from experiments._leak import leak_test
from experiments._neuroevolution import NEUROEVOLUTION
from experiments._rank import RANK
from experiments._strategies import STRATEGY_STUDY
from experiments._study import Study, run_study
from experiments._zero_init import ZERO_INIT
from graftwork.session._distil import distil

__all__ = [
    "BASE_NETWORK",
    "COEVOLUTION",
    "EXPERIMENTS",
    "INIT_SCALE",
    "NEUROEVOLUTION",
    "RANK",
    "STRATEGY_STUDY",
    "ZERO_INIT",
    "Experiment",
    "Study",
    "distil",
    "leak_test",
    "run_experiment",
    "run_study",
]

EXPERIMENTS: Mapping[str, Experiment | Study] = {
    e.name: e for e in (ZERO_INIT, INIT_SCALE, BASE_NETWORK, RANK, NEUROEVOLUTION, COEVOLUTION, STRATEGY_STUDY)
}
"""Experiments by the name that ``python -m experiments`` takes."""
