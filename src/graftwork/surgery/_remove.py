"""Take a growth out of a model again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery._agreement import agreed
from graftwork.surgery._calls import Call, ExampleInput, call_of, first_line, sandbox
from graftwork.surgery._check import plain
from graftwork.surgery._grow import Optimizers, given_optimizers
from graftwork.surgery._guard import Guard, plain_numbers
from graftwork.surgery._plan import LOG, SurgeryReceipt, count_parameters
from graftwork.surgery._pretrained import refuse_saving
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry import check_optimizers
from graftwork.surgery.growths import ModelGrowth


@dataclass(frozen=True)
class Removal:
    """What taking a growth out has changed.

    Attributes:
        growth: The growth that is gone.
        gap: Relative change of the outputs on the example, in evaluation mode: rounding where the new part had not been
            trained, else what it had learned.
        parameters: Number of parameters before and after.
        optimizer_state: State tensors that were carried back, one line each.
    """

    growth: ModelGrowth
    gap: float
    parameters: tuple[int, int]
    optimizer_state: tuple[str, ...]

    def __str__(self) -> str:
        before, after = self.parameters
        return f"removed {self.growth!r}: {before:,} → {after:,} parameters, outputs changed by {self.gap:.1e}"


@plain_numbers()
def remove(
    model: nn.Module,
    receipt: SurgeryReceipt,
    *,
    example_input: ExampleInput,
    optimizer: Optimizers = None,
    mirrors: Sequence[nn.Module] = (),
) -> Removal:
    """Take the last growth out of a model, in place, all or nothing.

    Old parameters keep their present values and optimizer slots, bit for bit; new ones go, with theirs. What a wider
    stream has scaled is scaled back, within rounding. That keeps the function as long as the new part has not been
    trained; afterwards the outputs change by what it had learned, and the result states how much.

    Args:
        model: The grown model; changed in place.
        receipt: What the growth has returned.
        example_input: One batch as the grown model's forward takes it, to measure the change of the outputs.
        optimizer: Optimizers whose state is carried back. None leaves optimizers alone.
        mirrors: Modules that have grown along.

    Returns:
        What changed.

    Raises:
        SurgeryError: The growth is not the model's last one, it can't be taken out (``net2net`` and copied
            channels have changed old weights), or the smaller model's forward fails.
    """
    log = vars(model).get(LOG, [])
    if receipt.undo is None or not log or log[-1] != receipt.log:
        last = ModelGrowth.from_dict(log[-1]["growth"]) if log else "none"
        raise SurgeryError(
            f"receipt: expected that of the model's last growth, {last!r}, got one of {receipt.growth!r}; remove later "
            "growths first"
        )
    _refuse_changed(model, receipt)
    optimizers = given_optimizers(optimizer)
    check_optimizers(optimizers, model)
    call, undo = call_of(example_input), receipt.undo
    with Guard(model, *mirrors) as guard, agreed(model, weights=True), guard.transaction() as transaction:
        before, parameters = _outputs(model, call), count_parameters(model)
        carried = undo.apply(transaction, model, optimizers, receipt.attributes)
        for mirror in mirrors:
            undo.apply(transaction, mirror, (), receipt.attributes)
        _shorten_log(transaction, model, log)
        for one in (model, *mirrors):
            refuse_saving(transaction, one, log[:-1])
        try:
            after = _outputs(model, undo.call(call))
        except Exception as error:
            raise SurgeryError(
                f"the model's forward fails without {receipt.growth!r} ({first_line(error)}); everything was put back"
            ) from error
        gap = output_gap(undo.output(after, before), after)
        return Removal(receipt.growth, gap, (parameters, count_parameters(model)), tuple(carried))


def _refuse_changed(model: nn.Module, receipt: SurgeryReceipt) -> None:
    now = dict([*model.named_parameters(), *model.named_buffers()])
    for change in receipt.tensors:
        if change.name not in now or tuple(now[change.name].shape) != change.new_shape:
            raise SurgeryError(f"{change.name!r} has changed since the growth, which can't be taken out any more")


def _outputs(model: nn.Module, call: Call) -> list[Tensor]:
    with sandbox(model):
        model.eval()
        return plain(call.run(model))


def _shorten_log(transaction: Transaction, model: nn.Module, log: list[dict[str, Any]]) -> None:
    def shorten() -> None:
        if log[:-1]:
            setattr(model, LOG, log[:-1])
        else:
            vars(model).pop(LOG, None)

    transaction.step("log", shorten, lambda: setattr(model, LOG, log))
