"""``--budget``: time, training FLOPs or steps."""

import re
from dataclasses import dataclass
from typing import Literal

from graftwork.errors import ConfigError

_UNITS: dict[str, tuple[Literal["seconds", "flops", "steps"], float]] = {
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
    "gflop": ("flops", 1e9),
    "tflop": ("flops", 1e12),
    "pflop": ("flops", 1e15),
    "steps": ("steps", 1),
    "step": ("steps", 1),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend.

    Args:
        kind: What is counted: ``"seconds"`` from the start of the command to the result (turned into FLOPs before the
            first step, and again where the machine is slower or faster than it was), ``"flops"`` of training and
            scoring, or ``"steps"`` of training.
        amount: Number of that unit; greater than 0.
        text: The words that it was read from, as a config stores it.
    """

    kind: Literal["seconds", "flops", "steps"]
    amount: float
    text: str

    def __str__(self) -> str:
        return self.text


def parse_budget(text: object) -> Budget:
    """Read ``10m``, ``90s``, ``1.5h``, ``0.05PFLOP``, ``200TFLOP`` or ``20000steps``.

    Raises:
        ConfigError: If it is none of these, or not greater than 0.
    """
    pattern = r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*"
    match = re.fullmatch(pattern, text.lower()) if isinstance(text, str) else None
    unit = match[2].removesuffix("s") if match and match[2].endswith("flops") else match[2] if match else ""
    if not match or unit not in _UNITS or float(match[1]) <= 0:
        raise ConfigError(
            "budget: expected a time (10m, 90s, 1.5h), FLOPs (0.05PFLOP, 200TFLOP) or steps (20000steps), "
            f"got {text!r}; give a number greater than 0 and one of these units"
        )
    kind, factor = _UNITS[unit]
    return Budget(kind, float(match[1]) * factor, str(text))
