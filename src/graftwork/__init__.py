"""Grow neural networks instead of retraining them.

Two doors, one idea: new blocks are grafted onto a trained network so that its function does not change, and because old
weights are never touched, parent and child can live on one set of parameters.

* Grow a model of your own in the middle of training: `Widen`, `WidenAll`, `Deepen` and `InsertLayers` say what grows,
  `plan` shows it and `grow` makes it (`widen`, `widen_all` and `deepen` in one line); `growth_sites`, `GrowthSchedule`,
  `rescale`, `save_model`, `load_model`, `replay`, `register_optimizer_carry`, `register_operation`
  (`graftwork.surgery`); callbacks of training frameworks in `graftwork.surgery.integrations`.
* Find a model: `prepare` a data set and a recipe, then `search` evolves a `Population` over one `BlockBank` and yields
  a `Generation` a round; on the command line, ``graftwork search``.
* What both are made of: `Genome`, `seed_genome`, `bind`, `R2RWiden`, `R2RDeepen`, `RandomPadding`, `compose`,
  `output_gap`, `load_dataset`.

Names are imported when they are first used, so that ``import graftwork`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.bank import BlockBank
    from graftwork.config import prepare
    from graftwork.datasets import load_dataset
    from graftwork.evolution import Generation, search
    from graftwork.genome import Genome, seed_genome
    from graftwork.member import bind
    from graftwork.population import Population
    from graftwork.surgery import (
        Deepen,
        GrowthSchedule,
        InsertLayers,
        Widen,
        WidenAll,
        deepen,
        grow,
        growth_sites,
        load_model,
        plan,
        register_operation,
        register_optimizer_carry,
        replay,
        rescale,
        save_model,
        widen,
        widen_all,
    )
    from graftwork.transforms import R2RDeepen, R2RWiden, RandomPadding, compose, output_gap

__version__ = "0.1.0"

__all__ = [
    "BlockBank",
    "Deepen",
    "Generation",
    "Genome",
    "GrowthSchedule",
    "InsertLayers",
    "Population",
    "R2RDeepen",
    "R2RWiden",
    "RandomPadding",
    "Widen",
    "WidenAll",
    "bind",
    "compose",
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
    "replay",
    "rescale",
    "save_model",
    "search",
    "seed_genome",
    "widen",
    "widen_all",
]

_HOMES = {
    "bank": ("BlockBank",),
    "config": ("prepare",),
    "datasets": ("load_dataset",),
    "evolution": ("Generation", "search"),
    "genome": ("Genome", "seed_genome"),
    "member": ("bind",),
    "population": ("Population",),
    "surgery": (
        "Deepen",
        "GrowthSchedule",
        "InsertLayers",
        "Widen",
        "WidenAll",
        "deepen",
        "grow",
        "growth_sites",
        "load_model",
        "plan",
        "register_operation",
        "register_optimizer_carry",
        "replay",
        "rescale",
        "save_model",
        "widen",
        "widen_all",
    ),
    "transforms": ("R2RDeepen", "R2RWiden", "RandomPadding", "compose", "output_gap"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graftwork' has no attribute {name!r}")
    value = getattr(import_module(f"graftwork.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
