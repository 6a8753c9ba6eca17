"""Grow neural networks instead of retraining them.

Two doors, one idea: new blocks are grafted onto a trained network so that its function does not change, and because old
weights are never touched, parent and child can live on one set of parameters.

* Grow a model of your own in the middle of training: `Widen`, `WidenAll`, `WidenStream`, `Deepen`, `InsertLayers`,
  `RepeatKeyValueHeads`, `RepeatExperts`, `AddSharedExpert`, `WidenOutputs` and `WidenInputs` say what grows, `plan`
  shows it and `grow` makes it (`widen`, `widen_all` and `deepen` in one line), `remove` takes it out; `growth_sites`,
  `advise`, `score_sites`, `GrowthSchedule`, `Plateau`, `decay_branch`, `search_module`, `rescale`, `save_model`,
  `load_model`, `replay`, `unwrapped`, `register_optimizer_carry`, `register_operation` (`graftwork.surgery`); callbacks
  of training frameworks in `graftwork.integrations`.
* Find a model: `prepare` a data set and a recipe, then `search` evolves a `Population` over one `BlockBank` and yields
  a `Generation` a round; on the command line, ``graftwork search``.
* What both are made of: `Genome`, `seed_genome`, `bind`, `R2RWiden`, `R2RDeepen`, `RandomPadding`, `compose`,
  `output_gap`, `load_dataset`.

Names are imported when they are first used, so that ``import graftwork`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from graftwork._lazy import lazy_names
from graftwork._version import __version__

if TYPE_CHECKING:
    from graftwork.datasets import load_dataset
    from graftwork.evolution import Generation, search
    from graftwork.evolution._population import Population
    from graftwork.evolution.transforms import R2RDeepen, R2RWiden, RandomPadding, compose, output_gap
    from graftwork.networks._member import bind
    from graftwork.networks.bank import BlockBank
    from graftwork.networks.genome import Genome, seed_genome
    from graftwork.session import prepare
    from graftwork.surgery import (
        AddSharedExpert,
        Deepen,
        GrowthSchedule,
        InsertLayers,
        Plateau,
        RepeatExperts,
        RepeatKeyValueHeads,
        Widen,
        WidenAll,
        WidenInputs,
        WidenOutputs,
        WidenStream,
        advise,
        decay_branch,
        deepen,
        grow,
        growth_sites,
        load_model,
        plan,
        register_operation,
        register_optimizer_carry,
        remove,
        replay,
        rescale,
        save_model,
        score_sites,
        search_module,
        unwrapped,
        widen,
        widen_all,
    )

__all__ = [
    "AddSharedExpert",
    "BlockBank",
    "Deepen",
    "Generation",
    "Genome",
    "GrowthSchedule",
    "InsertLayers",
    "Plateau",
    "Population",
    "R2RDeepen",
    "R2RWiden",
    "RandomPadding",
    "RepeatExperts",
    "RepeatKeyValueHeads",
    "Widen",
    "WidenAll",
    "WidenInputs",
    "WidenOutputs",
    "WidenStream",
    "__version__",
    "advise",
    "bind",
    "compose",
    "decay_branch",
    "deepen",
    "grow",
    "growth_sites",
    "load_dataset",
    "load_model",
    "output_gap",
    "plan",
    "prepare",
    "register_operation",
    "register_optimizer_carry",
    "remove",
    "replay",
    "rescale",
    "save_model",
    "score_sites",
    "search",
    "search_module",
    "seed_genome",
    "unwrapped",
    "widen",
    "widen_all",
]

_HOMES = {
    "networks.bank": ("BlockBank",),
    "session": ("prepare",),
    "datasets": ("load_dataset",),
    "evolution": ("Generation", "Population", "search"),
    "networks.genome": ("Genome", "seed_genome"),
    "networks": ("bind",),
    "surgery": (
        "AddSharedExpert",
        "Deepen",
        "GrowthSchedule",
        "InsertLayers",
        "Plateau",
        "RepeatExperts",
        "RepeatKeyValueHeads",
        "Widen",
        "WidenAll",
        "WidenInputs",
        "WidenOutputs",
        "WidenStream",
        "advise",
        "decay_branch",
        "deepen",
        "grow",
        "growth_sites",
        "load_model",
        "plan",
        "register_operation",
        "register_optimizer_carry",
        "remove",
        "replay",
        "rescale",
        "save_model",
        "score_sites",
        "search_module",
        "unwrapped",
        "widen",
        "widen_all",
    ),
    "evolution.transforms": ("R2RDeepen", "R2RWiden", "RandomPadding", "compose", "output_gap"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
