"""Several processes train one population: ranks over ``torch.distributed``.

A `Group` is the ranks of one search and what they say to each other. Every rank holds the whole population and draws
the same updates; `deal` says which rank makes which, `average` puts together what they have changed, `SharedTrainer`
and `SharedScorer` do both for a `Trainer` and a `Scorer`. `launch` starts ranks on this machine; ``torchrun`` does so
on one or several. The rules are explained in ``docs/scaling.md``.
"""

from graftwork.workers._averaging import average
from graftwork.workers._deal import Job, deal, deal_scoring, scoring_flops
from graftwork.workers._group import Group, given_size, num_cores, restarted
from graftwork.workers._launch import launch
from graftwork.workers._shared import SharedScorer, SharedTrainer

__all__ = [
    "Group",
    "Job",
    "SharedScorer",
    "SharedTrainer",
    "average",
    "deal",
    "deal_scoring",
    "given_size",
    "launch",
    "num_cores",
    "restarted",
    "scoring_flops",
]
