"""Words shared by the whole package: closed sets of names, no torch."""

from typing import Literal, NewType

__all__ = [
    "ACTIVATIONS",
    "KERNEL_SIZES",
    "NORMS",
    "Activation",
    "BlockId",
    "Initialisation",
    "MemberId",
    "Norm",
    "PoolKind",
    "Role",
    "Shape",
]

BlockId = NewType("BlockId", str)
"""Names one entry of the bank. Two genomes share a block exactly when both name its id."""

MemberId = NewType("MemberId", str)
"""Names one member of a population, for life: ``"m0"``, ``"m1"``, … in order of birth."""

Activation = Literal["relu", "gelu", "silu", "leaky_relu", "tanh"]
Norm = Literal["batch", "instance", "layer", "none"]
PoolKind = Literal["max", "avg"]
Role = Literal["filter", "mixing", "norm", "bias", "head", "stem"]
"""What a tensor is for; a recipe maps roles to optimizers and learning rates."""
Initialisation = Literal["twin", "random"]
"""How new blocks start: as twin halves that cancel (zero output), or at random (the control)."""
Shape = tuple[int, int, int]
"""Channels, height, width."""

ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu", "silu", "leaky_relu", "tanh")
NORMS: tuple[Norm, ...] = ("batch", "instance", "layer", "none")
KERNEL_SIZES = (1, 3, 5)
