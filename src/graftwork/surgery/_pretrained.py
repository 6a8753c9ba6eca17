"""``save_pretrained`` of models that their config no longer builds: refused, since nothing could read what it writes.

A growth of one layer alone, say, has no place in a config. ``save_pretrained`` would write tensors that
``from_pretrained`` leaves out or takes for damaged, and say so in a warning at most.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._transaction import Transaction

UNSAVED = "unsaved"
"""Entry of a growth log: paths of modules whose config does not describe the growth."""
_NAME = "save_pretrained"
_OF_ADAPTERS = ("PeftModel", "PeftMixedModel")
"""Classes that write their adapters alone; the base inside of them writes itself."""


class _Refusal:
    """Stands on a module in the place of its ``save_pretrained``."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SurgeryError(
            "save_pretrained: expected a model that its config builds, got one that has grown beyond what the config "
            "can say, so that from_pretrained would build another model; write it by graftwork.save_model and build "
            "it by graftwork.load_model"
        )


def unsaved(model: nn.Module, tensors: Sequence[TensorChange], attributes: Sequence[AttributeChange]) -> list[str]:
    """Return paths of modules that ``save_pretrained`` writes, and whose config has not followed a growth.

    Args:
        model: The grown model.
        tensors: What has changed in it.
        attributes: Numbers that have changed, those of configs too.
    """
    followed = {change.path for change in attributes}
    return [
        path
        for path in _savers(model)
        if f"{path}.config".lstrip(".") not in followed
        and any(not path or change.name.startswith(f"{path}.") for change in tensors)
    ]


def _savers(model: nn.Module) -> Iterator[str]:
    """Paths of the outermost modules that write all their tensors beside a config."""
    found: list[str] = []
    for path, module in model.named_modules():
        above = any(not outer or path.startswith(f"{outer}.") for outer in found)
        adapters = any(kind.__name__ in _OF_ADAPTERS for kind in type(module).__mro__)
        if not above and callable(getattr(type(module), _NAME, None)) and not adapters:
            found.append(path)
            yield path


def refuse_saving(transaction: Transaction, model: nn.Module, log: Sequence[Mapping[str, Any]]) -> None:
    """Let ``save_pretrained`` refuse where a log of growths says so, and nowhere else.

    Args:
        transaction: Notes how to undo.
        model: The model.
        log: All its growths.
    """
    paths = {path for entry in log if isinstance(held := entry.get(UNSAVED), list) for path in map(str, held)}
    for path, module in model.named_modules():
        own = vars(module)
        refused = isinstance(own.get(_NAME), _Refusal)
        if refused != (path in paths):
            put, take = partial(own.__setitem__, _NAME, _Refusal()), partial(own.pop, _NAME, None)
            transaction.step(f"save_pretrained of {path}", *((put, take) if not refused else (take, put)))


def allow_saving(model: nn.Module) -> None:
    """Let ``save_pretrained`` write again: for one who keeps the log of the growths beside what it writes."""
    for module in model.modules():
        if isinstance(vars(module).get(_NAME), _Refusal):
            del vars(module)[_NAME]
