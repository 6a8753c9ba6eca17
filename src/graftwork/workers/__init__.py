"""Several processes train one population: ranks over ``torch.distributed``.

A `Group` is the ranks of one search and how they talk to each other. Every rank holds the whole population and draws
the same updates. `train_together` makes a `Trainer` do its rank's share: of every batch (`DataParallelTrainer`), or of
the updates, which `deal` deals out and `average` combines (`LocalStepsTrainer`). `SharedScorer` does the same for a
`Scorer`. `launch` starts ranks on this machine; ``torchrun`` starts them on one or several. ``docs/scaling.md``
explains the rules.
"""

from graftwork.workers._averaging import add_up, average, time_exchange
from graftwork.workers._deal import Job, deal, deal_scoring, scoring_flops
from graftwork.workers._group import Group, given_size, restarted
from graftwork.workers._launch import launch
from graftwork.workers._shared import DataParallelTrainer, LocalStepsTrainer, SharedScorer, train_together

__all__ = [
    "DataParallelTrainer",
    "Group",
    "Job",
    "LocalStepsTrainer",
    "SharedScorer",
    "add_up",
    "average",
    "deal",
    "deal_scoring",
    "given_size",
    "launch",
    "restarted",
    "scoring_flops",
    "time_exchange",
    "train_together",
]
