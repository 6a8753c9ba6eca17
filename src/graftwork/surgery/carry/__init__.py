"""What happens to an optimizer in a growth: state of grown tensors, groups of new ones, and their first update."""

from graftwork.surgery.carry._back import carry_back, release
from graftwork.surgery.carry._exchange import exchange
from graftwork.surgery.carry._first_update import inner_optimizer, limit_first_update, resume_optimizer
from graftwork.surgery.carry._groups import adopt, rescale
from graftwork.surgery.carry._growth import OptimizerCarry, ParameterGrowth
from graftwork.surgery.carry._optimizers import (
    carry_state,
    check_optimizers,
    register_optimizer_carry,
)

__all__ = [
    "OptimizerCarry",
    "ParameterGrowth",
    "adopt",
    "carry_back",
    "carry_state",
    "check_optimizers",
    "exchange",
    "inner_optimizer",
    "limit_first_update",
    "register_optimizer_carry",
    "release",
    "rescale",
    "resume_optimizer",
]
