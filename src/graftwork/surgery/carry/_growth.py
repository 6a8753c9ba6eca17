"""How one parameter has grown, for carrying its optimizer state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from graftwork.surgery._layout import Layout, same_units
from graftwork.surgery._tensors import old_entries, place_old


@dataclass(frozen=True)
class ParameterGrowth:
    """How one parameter has grown, for carrying its optimizer state.

    Attributes:
        old_shape: Shape before.
        layouts: One layout for every dimension.
        parameter: The parameter as it is after; None where only shapes are known.
    """

    old_shape: tuple[int, ...]
    layouts: tuple[Layout, ...]
    parameter: Tensor | None = None

    def place(self, old: Tensor, *, fill: Tensor | float = 0.0) -> Tensor:
        """Return a state tensor of the parameter's old shape with its entries in their new places.

        Args:
            old: State tensor of shape ``old_shape``.
            fill: Value of the new slots, or a tensor of the new shape that holds them.
        """
        return place_old(old, self.layouts, fill=fill)

    def old_part(self, new: Tensor, *, without: int | None = None, over: Sequence[int] = ()) -> Tensor:
        """Return the old entries of a tensor of the new shape.

        Args:
            new: The tensor.
            without: A dimension of the parameter that it has not, which may count from the end. None where it has all.
            over: Dimensions along which it holds one number.
        """
        layouts = [same_units(1) if dim in over else layout for dim, layout in enumerate(self.layouts)]
        if without is not None:
            del layouts[without]
        return old_entries(new, layouts)

    def place_reduced(self, old: Tensor, *, without: int) -> Tensor:
        """Return a state tensor of the parameter's old shape without one dimension; new slots take its mean.

        Args:
            old: State tensor.
            without: The dimension that it has not.
        """
        layouts = [layout for dim, layout in enumerate(self.layouts) if dim != without % len(self.layouts)]
        return place_old(old, layouts, fill=float(old.double().mean()) if old.numel() else 0.0)

    def new_slots(self, device: torch.device) -> Tensor:
        """Return a mask over the new shape: True where a slot is new."""
        return place_old(torch.zeros(self.old_shape, dtype=torch.bool, device=device), self.layouts, fill=1.0)


OptimizerCarry: TypeAlias = Callable[[dict[str, Any], ParameterGrowth, dict[str, Any]], dict[str, Any]]
"""``(state of one parameter, its growth, its param group) → new state``; must not change what it is given."""
