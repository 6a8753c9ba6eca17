"""Machine: how training steps run here, and what was measured for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from graftwork.errors import ConfigError, RunError
from graftwork.training import Passes, Precision

_ALLOWED: dict[str, tuple[str, ...]] = {"precision": get_args(Precision), "passes": get_args(Passes)}


@dataclass(frozen=True, slots=True)
class Machine:
    """How training steps run on a machine, and what was measured for it.

    Stored in the run's ``provenance.json``; a resume and all other workers follow it instead of measuring again.

    Args:
        precision: Type of the factors of products.
        passes: What runs the passes between products.
        threads: Threads of torch's CPU operations and of the compiled passes.
        reasons: Why, in words, by field.
        seconds: Best time of one training step, by what it ran in (``"float32"``, ``"bfloat16"``, ``"torch passes"``,
            ``"2 threads"``, …); empty where nothing was compared.
        memory: Bytes that training and scoring a member may take; ``None``: nothing is known, so anything.

    Raises:
        ConfigError: If a value is out of its range.
    """

    precision: Precision = "float32"
    passes: Passes = "torch"
    threads: int = field(default_factory=torch.get_num_threads)
    reasons: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}; take one")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ConfigError(f"threads: expected an integer >= 1, got {self.threads!r}; leave it out to measure it")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` gives an equal value back."""
        return {
            "precision": self.precision,
            "passes": self.passes,
            "threads": self.threads,
            "reasons": dict(self.reasons),
            "seconds": dict(self.seconds),
            "memory": self.memory,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Machine":
        """Build a machine from plain data; keys that are not its own are passed over.

        Raises:
            RunError: If a key is missing.
            ConfigError: If a value is out of its range.
        """
        names = ("precision", "passes", "threads", "reasons", "seconds", "memory")
        missing = [name for name in names if name not in data]
        if missing:
            raise RunError(
                f"machine: expected {', '.join(names)}, got no {', '.join(missing)}; the run folder is damaged or of "
                "another version"
            )
        return cls(*(data[name] for name in names))
