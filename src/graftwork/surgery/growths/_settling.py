"""Whether a model that a growth has changed does all that it did before, and learns."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery._calls import first_line, sandbox
from graftwork.surgery._check import Check, Interface, Thoroughness, plain
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout
from graftwork.surgery._tensors import place_old
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.layers import Uses
from graftwork.surgery.streams import Tape, doubled, looseness, unmoved


class Settling:
    """The runs of a model before and after a growth of its tensors.

    Args:
        graph: The model, as it was traced.
        tape: One run of it.
        thorough: How much is checked.
        interface: Which part of the grown model's outputs is compared.
    """

    def __init__(self, graph: ChannelGraph, tape: Tape, thorough: Thoroughness, interface: Interface) -> None:
        self._graph, self._thorough, self._interface = graph, thorough, interface
        self._call, self._loose = graph.probes[0].call, looseness(tape)
        self._uses = Uses({})

    def begin(self) -> None:
        """Run the model in the ways in which it is used, before it changes."""
        if self._thorough is True:
            self._uses = Uses.before(self._graph.model, self._call)

    def finish(
        self, transaction: Transaction, check: Check, masks: Callable[[], Mapping[str, Tensor]], *, what: str, hint: str
    ) -> tuple[str, ...]:
        """Compare the grown model with the one before.

        Args:
            transaction: The growth.
            check: The runs of the model before the growth.
            masks: Gives the name of each grown or new parameter → mask of its new entries.
            what: The growth, for messages.
            hint: What a change of the outputs probably comes from.

        Returns:
            What a reader should know.

        Raises:
            SurgeryError: The forward fails, the function has changed, or new entries would not train.
        """
        if not check.runs:
            return ()
        check.interface = self._interface
        try:
            worst, where = check.compare(transaction), "the example"
            if self._uses.runs:
                other, use = self._uses.compare(self._graph.model, self._interface)
                worst, where = (other, use) if not other <= worst else (worst, where)
        except SurgeryError:
            raise
        except Exception as error:
            used = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
            raise SurgeryError(
                f"the model's forward fails with {what}{used} ({first_line(error)}); everything was put "
                "back. Its code probably holds an old size as a number that could not be found: make it read the size "
                "from its weights or inputs"
            ) from error
        check.gaps.update(self._uses.gaps)
        notes = () if worst <= 1.0 else self._in_double(transaction, check, (worst, where), what, hint)
        return (*notes, *self._untrained(masks())) if self._thorough is True else notes

    def _in_double(
        self, transaction: Transaction, check: Check, found: tuple[float, str], what: str, hint: str
    ) -> tuple[str, ...]:
        """Refuse a change that is more than rounding; where the forward computes in single, look in double."""
        (worst, where), gap = found, check.largest_gap
        if worst <= self._loose:
            with transaction.suspended():
                before = self._doubled()
            gap, where = output_gap(before, self._interface.output(before, self._doubled())), "double precision"
            if gap <= tolerance_for(torch.float64):
                return (f"the forward computes in single precision, to which outputs agree; in double to {gap:.0e}",)
        raise NotPreservedError(
            f"{what}: expected the same outputs within rounding, got a relative change of {gap:.2e} in {where}; "
            f"everything was put back. {hint}"
        )

    def _doubled(self) -> list[Tensor]:
        model = self._graph.model
        with sandbox(model), doubled():
            model.eval()
            return plain(self._call.run(model))

    def _untrained(self, masks: Mapping[str, Tensor]) -> tuple[str, ...]:
        excused = unmoved(self._graph.model, self._call, masks)
        some = ", ".join(excused[:4]) + (", …" if len(excused) > 4 else "")
        return (f"no gradient reaches {some}: neither old nor new entries",) if excused else ()


def new_entries(graph: ChannelGraph, layouts: Mapping[str, Sequence[Layout]]) -> dict[str, Tensor]:
    """Return the name of each parameter that has grown → mask of its new entries."""
    masks = {}
    for name, own in layouts.items():
        tensor = graph.trace.tensors[name]
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            old = torch.zeros([layout.size for layout in own], dtype=torch.bool, device=tensor.device)
            masks[name] = place_old(old, own, fill=1.0)
    return masks
