"""Grow any PyTorch model in the middle of training, without changing what it computes.

A growth is one frozen value: `Widen` adds channels to a volume, `WidenAll` to every one, `Deepen` grafts residual
blocks onto the outputs of modules, `InsertLayers` makes a list of layers longer, `WidenStream` makes the model itself
wider, `RepeatKeyValueHeads` and `RepeatExperts` copy heads and experts, `AddSharedExpert` puts one beside those that
are chosen, `WidenOutputs` and `WidenInputs` add classes, tokens and channels to what a model gives and takes. `plan`
shows every tensor that it will change in a model that nobody here wrote, `grow` makes it, in place and all or nothing,
and carries the optimizer's state along; schedules and logs hold the same values. `growth_sites` says what can grow and,
where not, why not; `advise` says by a short race whether it pays to grow now; `decay_branch` finishes a copy of a
training that goes on, and `search_module` makes a family of sizes of all that.
"""

from graftwork.surgery._advise import Advice, advise
from graftwork.surgery._block import R2RBlock
from graftwork.surgery._branch import decay_branch
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._grow import deepen, grow, plan, widen, widen_all
from graftwork.surgery._methods import Method, register_method
from graftwork.surgery._plan import GrowthPlan, SurgeryReceipt
from graftwork.surgery._plateau import Plateau
from graftwork.surgery._remove import Removal, remove
from graftwork.surgery._saving import growth_log, load_model, replay, save_log, save_model
from graftwork.surgery._schedule import GrowthSchedule
from graftwork.surgery._score import SiteScore, SiteScores, score_sites
from graftwork.surgery._sites import GrowthSite, GrowthSites, growth_sites
from graftwork.surgery._unwrapped import unwrapped
from graftwork.surgery.carry import OptimizerCarry, ParameterGrowth, register_optimizer_carry, rescale, resume_optimizer
from graftwork.surgery.families import FamilyMember, ModuleFamily, search_module
from graftwork.surgery.growths import (
    AddSharedExpert,
    Deepen,
    InsertLayers,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    Widen,
    WidenAll,
    WidenInputs,
    WidenOutputs,
    WidenStream,
    register_growth,
)
from graftwork.surgery.operations import register_operation

__all__ = [
    "AddSharedExpert",
    "Advice",
    "Deepen",
    "FamilyMember",
    "GrowthPlan",
    "GrowthSchedule",
    "GrowthSite",
    "GrowthSites",
    "InsertLayers",
    "Method",
    "ModelGrowth",
    "ModuleFamily",
    "OptimizerCarry",
    "ParameterGrowth",
    "Plateau",
    "R2RBlock",
    "Removal",
    "RepeatExperts",
    "RepeatKeyValueHeads",
    "SiteScore",
    "SiteScores",
    "SurgeryReceipt",
    "TensorChange",
    "Widen",
    "WidenAll",
    "WidenInputs",
    "WidenOutputs",
    "WidenStream",
    "advise",
    "decay_branch",
    "deepen",
    "grow",
    "growth_log",
    "growth_sites",
    "load_model",
    "plan",
    "register_growth",
    "register_method",
    "register_operation",
    "register_optimizer_carry",
    "remove",
    "replay",
    "rescale",
    "resume_optimizer",
    "save_log",
    "save_model",
    "score_sites",
    "search_module",
    "unwrapped",
    "widen",
    "widen_all",
]
