"""What a checkpoint computes, noted before a growth and compared after it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery._calls import Call, sandbox
from graftwork.surgery._check import OldChannels, plain
from graftwork.surgery.layers import Uses


class Proof:
    """Outputs of a model: on whole batches, and in the ways that language models are used (a cache, padding).

    Args:
        model: The model before the growth, in evaluation mode.
        examples: Batches by name.

    Raises:
        SurgeryError: The model does not run on a batch.
    """

    def __init__(self, model: nn.Module, examples: Mapping[str, dict[str, Tensor]]) -> None:
        self._calls = {name: Call((), dict(batch)) for name, batch in examples.items()}
        self._before = {name: _run(model, name, call) for name, call in self._calls.items()}
        self._uses = Uses.before(model, next(iter(self._calls.values())))
        kinds = [t.dtype for outputs in self._before.values() for t in outputs if t.is_floating_point()]
        # Norms of transformers compute in single precision in a model in double too.
        self.tolerance = max(map(tolerance_for, [*kinds, torch.float32]))

    def gaps(self, model: nn.Module) -> dict[str, float]:
        """Return the largest relative change of outputs, by what was run; of longer outputs the old part is compared.

        Raises:
            SurgeryError: The model does not run.
        """
        return dict(self._gaps(model))

    def _gaps(self, model: nn.Module) -> Iterator[tuple[str, float]]:
        same = OldChannels()
        for name, before in self._before.items():
            yield name, output_gap(before, same.output(before, _run(model, name, self._calls[name])))
        try:
            self._uses.compare(model, same)
        except Exception as error:  # whatever the grown model's forward raises
            used = ", ".join(getattr(error, "__notes__", ()))
            raise SurgeryError(f"the grown model's forward fails ({used}): {error!r}; nothing was written") from error
        yield from self._uses.gaps.items()


def _run(model: nn.Module, name: str, call: Call) -> list[Any]:
    try:
        with sandbox(model):
            outputs = plain(call.run(model))
    except Exception as error:  # whatever a forward raises on what it does not take
        raise SurgeryError(f"{name}: expected a batch as {type(model).__name__} takes it, got {error!r}") from error
    if not outputs:
        raise SurgeryError(f"{name}: expected a model that returns tensors, got none from {type(model).__name__}")
    return outputs
