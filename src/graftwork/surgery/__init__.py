"""Grow any PyTorch model in the middle of training, without changing what it computes.

`widen` adds channels to a volume, `deepen` grafts a residual block onto a module's output, in place and all
or nothing, on a model that nobody here wrote; the optimizer's state is carried along. A growth is a plan
first (`plan_widen`, `plan_deepen`) and a `SurgeryReceipt` afterwards. `growth_sites` says what can grow and,
where not, why not.
"""

from graftwork.surgery._block import R2RBlock
from graftwork.surgery._deepen import DeepenPlan, deepen, plan_deepen
from graftwork.surgery._options import DeepenOptions, GrowthOptions, WidenOptions
from graftwork.surgery._plan import WidenPlan
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange
from graftwork.surgery._saving import growth_log, load, replay, save, save_log
from graftwork.surgery._schedule import Deepen, GrowthSchedule, Widen, WidenAll, plan_widen_all, widen_all
from graftwork.surgery._sites import GrowthSite, GrowthSites, growth_sites
from graftwork.surgery._widen import plan_widen, widen
from graftwork.surgery.carry import OptimizerCarry, ParameterGrowth, register_optimizer_carry, rescale, resume_optimizer

GrowthPlan = WidenPlan | DeepenPlan
"""What `plan_widen` and `plan_deepen` return: print it, then ``apply()`` it."""

__all__ = [
    "Deepen",
    "DeepenOptions",
    "DeepenPlan",
    "GrowthOptions",
    "GrowthPlan",
    "GrowthSchedule",
    "GrowthSite",
    "GrowthSites",
    "OptimizerCarry",
    "ParameterGrowth",
    "R2RBlock",
    "SurgeryReceipt",
    "TensorChange",
    "Widen",
    "WidenAll",
    "WidenOptions",
    "WidenPlan",
    "deepen",
    "growth_log",
    "growth_sites",
    "load",
    "plan_deepen",
    "plan_widen",
    "plan_widen_all",
    "register_optimizer_carry",
    "replay",
    "rescale",
    "resume_optimizer",
    "save",
    "save_log",
    "widen",
    "widen_all",
]
