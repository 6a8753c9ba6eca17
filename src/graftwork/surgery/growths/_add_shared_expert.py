"""Add a shared expert beside the routed ones."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._configs import owners
from graftwork.surgery.growths._growth import ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._new_modules import Addition, NewModules, rebuild_modules
from graftwork.surgery.layers import config_entries

_SHARED = re.compile(r"(^|\.)((moe_)?n(um)?_shared_experts?|shared_(expert_)?intermediate_size)$")


@register_growth("add-shared-expert")
@dataclass(frozen=True, repr=False)
class AddSharedExpert(ModelGrowth):
    """Add to every mixture of experts a shared one, which every token passes through and which writes zero at first.

    For architectures whose config has a number for it that is 0. A shared expert that is there is made wider by
    `WidenAll`, where none can be said, `Deepen` grafts a block behind the mixture.

    Attributes:
        size: The config's number afterwards: of shared experts, or of the hidden units of the one.

    Example:
        >>> AddSharedExpert(1)
        AddSharedExpert(1)
    """

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (type(self.size) is int and self.size > 0):
            raise self.wrong("size", "a number above 0")

    def edit(self, subject: Subject) -> NewModules:
        """See `ModelGrowth.edit`."""
        owner, entry = self._entry(subject.model)
        return NewModules(subject, Addition("a shared expert", owner, entry, self.size), thorough=self.check)

    def _entry(self, model: nn.Module) -> tuple[str, str]:
        found = [
            (path, name, value)
            for path, module in owners(model)
            for name, value in config_entries(module.config)
            if _SHARED.search(name)
        ]
        for path, name, value in found:
            if value == 0 and type(value) is int:
                return path, name
        if not found:
            raise SurgeryError(
                f"{self!r}: expected a Hugging Face model whose config has a number for shared experts, got "
                f"{type(model).__name__}; graftwork.Deepen(PATH of the mixture) grafts a block behind it that adds "
                "nothing at first"
            )
        raise SurgeryError(
            f"{self!r}: expected a config in which {found[0][1]} is 0, got {found[0][2]!r}; "
            'graftwork.WidenAll(2, only="*shared*") makes a shared expert wider'
        )

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        if not _SHARED.search(changes["entry"]):  # a stranger's log may ask for any model to be built
            raise SurgeryError(f"growth log: expected a number of shared experts, got {changes['entry']!r}")
        rebuild_modules(model, changes)
