"""Joint training: one step, one optimizer over the bank, schedules, batches, scoring, recipes.

A `Recipe` holds the values. `BankOptimizer` moves the tensors that a step has used, by `Rules` from role to optimizer
(Adam, SGD, `Muon`). `BatchStream` makes batch *n* from seed and number alone. `Trainer` puts them together into one
`Update` of one member or several. `Scorer` says which validation examples each member gets right. Schedules are in
`SCHEDULES`, recipes in `RECIPES`: a new one is used and tested once it is registered.
"""

from graftwork.training._augment import AUGMENTATIONS, Augmentation, Flip
from graftwork.training._batches import BatchStream, Images, most_parts, part_of, resident, shrink, take_images
from graftwork.training._memory import MemoryLimit
from graftwork.training._muon import Muon, orthogonalize
from graftwork.training._optimizer import BankOptimizer, Beside
from graftwork.training._precision import Passes, Precision, in_precision
from graftwork.training._recipes import RECIPES, SMALLEST_BATCH, Recipe, make_recipe
from graftwork.training._rules import ROLES, MuonVariant, OptimizerName, Rule, Rules, check_rules, same_rule
from graftwork.training._schedules import (
    SCHEDULES,
    Schedule,
    constant,
    cosine,
    linear,
    make_schedule,
    warmup_stable_decay,
)
from graftwork.training._scoring import Evaluation, Scorer
from graftwork.training._seeding import generator_for
from graftwork.training._step import NOT_FINITE_HINT, Loss, LrScale, Outcome, Trainer, Update

__all__ = [
    "AUGMENTATIONS",
    "NOT_FINITE_HINT",
    "RECIPES",
    "ROLES",
    "SCHEDULES",
    "SMALLEST_BATCH",
    "Augmentation",
    "BankOptimizer",
    "BatchStream",
    "Beside",
    "Evaluation",
    "Flip",
    "Images",
    "Loss",
    "LrScale",
    "MemoryLimit",
    "Muon",
    "MuonVariant",
    "OptimizerName",
    "Outcome",
    "Passes",
    "Precision",
    "Recipe",
    "Rule",
    "Rules",
    "Schedule",
    "Scorer",
    "Trainer",
    "Update",
    "check_rules",
    "constant",
    "cosine",
    "generator_for",
    "in_precision",
    "linear",
    "make_recipe",
    "make_schedule",
    "most_parts",
    "orthogonalize",
    "part_of",
    "resident",
    "same_rule",
    "shrink",
    "take_images",
    "warmup_stable_decay",
]
