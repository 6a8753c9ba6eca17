"""The plan of growing a checkpoint: made from its config alone, without reading a weight."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._grow import plan
from graftwork.surgery._plan import GrowthPlan, count_parameters
from graftwork.surgery.checkpoints._examples import examples
from graftwork.surgery.checkpoints._sizes import Sizes
from graftwork.surgery.checkpoints._source import Source
from graftwork.surgery.growths import ModelGrowth
from graftwork.surgery.layers import changed_config

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class CheckpointPlan:
    """What growing a checkpoint will change; prints as a table.

    Attributes:
        source: The checkpoint.
        growths: The growths, in the order in which they are made.
        config: Config of the grown model.
        parameters: Number of parameters before and after.
        bytes: Size of the weights before and after.
        memory: Bytes of weights that are held at once while the model grows, the old of what changes with the grown.
        details: What each growth changes, for a person.
        approximate: Whether outputs may change.
    """

    source: Source
    growths: tuple[ModelGrowth, ...]
    config: Any
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    memory: int
    details: tuple[str, ...]
    approximate: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "architecture": self.source.kind.__name__,
            "dtype": self.source.precision,
            "growths": [growth.to_dict() for growth in self.growths],
            "plan": [line for text in self.details for line in text.splitlines()],
            "parameters": list(self.parameters),
            "bytes": list(self.bytes),
            "memory": self.memory,
        }

    def __str__(self) -> str:
        (before, after), (small, large) = self.parameters, self.bytes
        head = f"{self.source.kind.__name__} in {self.source.precision}: {before:,} → {after:,} parameters"
        tail = (
            f"weights: {_amount(small)} → {_amount(large)}; while they grow, {_amount(self.memory)} are in memory, "
            f"with Adam's state {_amount(3 * self.memory)}"
        )
        return "\n".join([head, *self.details, tail])


def plan_checkpoint(
    path: str | Path, sizes: Sizes, *, dtype: str | None = None, inputs: str | Path | None = None
) -> CheckpointPlan:
    """Plan how a checkpoint of Hugging Face grows; only its config is read.

    Args:
        path: Folder with a ``config.json``.
        sizes: What shall grow.
        dtype: Precision of the grown weights, such as ``"bfloat16"``. None is the checkpoint's own.
        inputs: Safetensors file with one batch of the model's arguments. None where random tokens or images do.

    Returns:
        The plan: print it, or give it to `grow_checkpoint`.

    Raises:
        SurgeryError: The folder is no checkpoint, or the model can't grow like that.
    """
    source = Source.open(Path(path), dtype)
    config, memory = source.config, 0
    growths: list[ModelGrowth] = []
    details: list[str] = []
    first = model = source.skeleton()
    for step in sizes.steps():
        example = next(iter(examples(model, source.dtype, None if inputs is None else Path(inputs)).values()))
        growth = step(model, example)
        planned = plan(model, growth, example_input=example)
        config, model = _grown(source, config, planned, numbers=_numbers(model))
        memory = max(memory, _size(model) + _replaced(planned) * source.dtype.itemsize)
        growths.append(growth)
        details.append(planned.told(_alike(planned.tensors), planned.edit.configs))
    return CheckpointPlan(
        source,
        tuple(growths),
        config,
        parameters=(count_parameters(first), count_parameters(model)),
        bytes=(_size(first), _size(model)),
        memory=memory,
        details=tuple(details),
        approximate=sizes.approximate,
    )


def _grown(source: Source, config: Any, planned: GrowthPlan, *, numbers: int) -> tuple[Any, nn.Module]:
    """The config of the grown model and the model that it builds, which has to be the planned one."""
    values = {change.name: change.new for change in planned.edit.configs if change.path == "config"}
    changed = changed_config(config, values)
    model = source.skeleton(changed)
    built = {name: tuple(t.shape) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    unlike = next((c.name for c in planned.tensors if built.get(c.name) != c.new_shape), None)
    wanted = numbers - _replaced(planned) + sum(math.prod(change.new_shape) for change in planned.tensors)
    if not values or unlike or _numbers(model) != wanted:
        what = f"{unlike!r} of another shape" if unlike else "one of other sizes"
        raise SurgeryError(
            f"{planned.growth!r}: expected a config that describes the grown model, got {what}, so that "
            "from_pretrained could not build it; grow the model by graftwork.grow and keep it by graftwork.save_model"
        )
    return changed, model


def _size(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _replaced(planned: GrowthPlan) -> int:
    """Numbers in tensors that a growth replaces, and keeps until it has been checked."""
    return sum(math.prod(change.old_shape) for change in planned.tensors if change.old_shape is not None)


def _numbers(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def _amount(size: float) -> str:
    """A number of bytes for a person."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def _alike(changes: Sequence[TensorChange]) -> list[TensorChange]:
    """Changes of tensors with one entry for those that differ by the number of their layer alone."""
    counts = Counter(replace(change, name=re.sub(r"(?<=\.)\d+(?=\.)", "*", change.name)) for change in changes)
    return [replace(one, name=f"{one.name} (×{count})") if count > 1 else one for one, count in counts.items()]
