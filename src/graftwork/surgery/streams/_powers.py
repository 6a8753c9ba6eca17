"""Powers of one ratio as unknowns: by how much every tensor of a wider model is scaled.

A norm over a channel that has become ``r²`` times as long, with zeros in the new places, finds a mean square that is
``r⁻²`` times as large. What follows from it, that a gain has to be ``r⁻¹`` times as large or that a tied embedding must
stay, is linear in the powers: each operation gives an equation, and what no equation decides stays as it is.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

Power: TypeAlias = dict[str, float]
"""A sum of unknowns with their weights; the constant stands under ``""``."""


class ContradictionError(Exception):
    """No powers make a wider model the same function."""


def constant(value: float) -> Power:
    """Return a known power."""
    return {"": value} if value else {}


def plus(*powers: Power, minus: Power | None = None) -> Power:
    """Return a sum of powers, less another one."""
    result: Power = {}
    for power, sign in [*((power, 1.0) for power in powers), *([(minus, -1.0)] if minus is not None else [])]:
        for name, weight in power.items():
            result[name] = result.get(name, 0.0) + sign * weight
    return {name: weight for name, weight in result.items() if abs(weight) > 1e-9}


def times(power: Power, factor: float) -> Power:
    """Return a multiple of a power."""
    return {name: weight * factor for name, weight in power.items() if weight * factor}


@dataclass
class Powers:
    """Equations between powers, solved as they come.

    Attributes:
        solved: Unknown → what it is, in other unknowns.
        first: Unknowns that give way first: gains of norms, before weights and embeddings.
    """

    solved: dict[str, Power] = field(default_factory=dict)
    first: set[str] = field(default_factory=set)

    def now(self, power: Power) -> Power:
        """Return a power in unknowns that are still free."""
        while known := [name for name in power if name in self.solved]:
            for name in known:
                weight = power.get(name, 0.0)
                power = plus({k: v for k, v in power.items() if k != name}, times(self.solved[name], weight))
        return power

    def equal(self, left: Power, right: Power) -> None:
        """Note that two powers are the same.

        Raises:
            ContradictionError: They can't be.
        """
        rest = self.now(plus(left, minus=right))
        if not rest:
            return
        names = [name for name in rest if name]
        if not names:
            raise ContradictionError
        chosen = next((name for name in names if name in self.first), names[-1])
        weight = rest.pop(chosen)
        self.solved[chosen] = times(rest, -1.0 / weight)

    def value(self, name: str) -> float:
        """Return the power of a tensor: 0 where nothing decides it."""
        return self.now({name: 1.0}).get("", 0.0)
