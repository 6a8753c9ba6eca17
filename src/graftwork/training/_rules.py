"""Rules: which optimizer moves the tensors of a role, and how fast."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from graftwork.errors import ConfigError
from graftwork.training._options import check_choice, check_known, check_range
from graftwork.typing import Role

OptimizerName = Literal["adam", "sgd", "muon"]
MuonVariant = Literal["scaled", "norm-reset"]

ROLES: tuple[Role, ...] = get_args(Role)
"""Every role of a tensor in the bank."""

_MATRIX_ROLES = ("filter", "mixing")


@dataclass(frozen=True, slots=True)
class Rule:
    """How the tensors of one role are moved.

    Args:
        optimizer: ``"adam"``, ``"sgd"`` or ``"muon"`` (filters and mixing weights only).
        lr: Learning rate at schedule factor 1.
        weight_decay: Strength of the decay; ``decoupled`` says how it acts.
        betas: Decay of Adam's first and second moments.
        eps: Value added to Adam's denominator, and the smallest norm that Muon divides by.
        momentum: Decay of the running mean of gradients in SGD and Muon.
        nesterov: Whether SGD and Muon look ahead.
        decoupled: ``False`` adds ``weight_decay · w`` to the gradient (L2, as torch's Adam); ``True`` shrinks the
            weights by ``1 − lr · weight_decay`` (as AdamW). Muon's decay is always decoupled.
        variant: Variant of `Muon`.
        num_iterations: Number of Muon's Newton–Schulz iterations.

    Raises:
        ConfigError: If a value is out of its range.
    """

    optimizer: OptimizerName
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True
    decoupled: bool = False
    variant: MuonVariant = "scaled"
    num_iterations: int = 5

    def __post_init__(self) -> None:
        check_choice("rule: optimizer", self.optimizer, get_args(OptimizerName))
        check_choice("rule: variant", self.variant, get_args(MuonVariant))
        check_range("rule: lr", self.lr, low=0)
        check_range("rule: weight_decay", self.weight_decay, low=0)
        check_range("rule: eps", self.eps, low=0)
        check_range("rule: momentum", self.momentum, low=0, high=1)
        check_range("rule: num_iterations", self.num_iterations, low=1, high=99, integer=True)
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"rule: betas: expected two numbers in [0, 1), got {self.betas!r}")
        if self.optimizer == "muon" and self.variant == "norm-reset" and self.weight_decay:
            raise ConfigError(
                "rule: weight_decay: expected 0 for variant 'norm-reset', which keeps the norm of the weights, "
                f"got {self.weight_decay!r}; use variant='scaled' to decay"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for TOML and JSON."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Rule":
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: If a key is unknown or missing, or a value is out of its range.
        """
        check_known("rule", data, cls.__dataclass_fields__)
        for key in ("optimizer", "lr"):
            if key not in data:
                raise ConfigError(f"rule: expected a key {key!r}, got {sorted(data)}")
        return cls(**data)


Rules = Mapping[Role, Rule]
"""A rule for every role."""


def same_rule(rule: Rule) -> dict[Role, Rule]:
    """The same rule for every role (the paper: Adam for all)."""
    return dict.fromkeys(ROLES, rule)


def check_rules(rules: Rules) -> None:
    """Raise `ConfigError` unless every role has a rule that can move its tensors."""
    check_known("rules", rules, ROLES)
    missing = [role for role in ROLES if role not in rules]
    if missing:
        raise ConfigError(f"rules: expected a rule for every role, got none for {', '.join(missing)}")
    for role, rule in rules.items():
        if rule.optimizer == "muon" and role not in _MATRIX_ROLES:
            raise ConfigError(
                f"rules: expected muon, which moves matrices only, for {' or '.join(_MATRIX_ROLES)}, got it for "
                f"{role!r}, which has vectors; use adam or sgd there"
            )
