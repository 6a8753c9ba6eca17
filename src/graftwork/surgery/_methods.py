"""How new units of a volume are filled: one class a method, in a register."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery._layout import Layout, UnitMap, free_units


class Method(ABC):
    """How new units of a volume are filled.

    ==================  =====================  ===================  ======================================
    method              producers' new rows    consumers' columns   conditions
    ==================  =====================  ===================  ======================================
    ``r2r``             [U; U], U random       [V, −V], V random    an even number of new units; between
                                                                    producer and consumer every operation
                                                                    acts per channel
    ``net2net``         copies of old rows     divided by the       per channel; old consumer weights
                                               number of copies     are rescaled
    ``netmorph``        random                 zero                 per channel
    ``random-padding``  random                 random               none: the control, changes the function
    ==================  =====================  ===================  ======================================

    To add one, write a class with a `unit_map` and hand it to `register_method`.

    Attributes:
        name: Name by which a growth asks for it.
        step: New units come in multiples of this number.
        preserves: Whether the function is kept; where it is, a growth that changes the outputs is undone.
        keeps_old_weights: Whether old weights stay as they are, so that a copy of the model can grow along.
    """

    name: ClassVar[str]
    step: ClassVar[int] = 1
    preserves: ClassVar[bool] = True
    keeps_old_weights: ClassVar[bool] = True

    @abstractmethod
    def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> UnitMap:
        """Return the layout of a volume that gains units at its end.

        Args:
            size: Units before.
            added: New units, a multiple of ``step``.
            rng: Source of choices among old units.
        """


METHODS: dict[str, Method] = {}
"""Every method by its name."""


def register_method(method: type[Method]) -> type[Method]:
    """Register a method under its name; usable as a decorator.

    Args:
        method: The class; made without arguments.

    Raises:
        SurgeryError: The name is taken.
    """
    if method.name in METHODS:
        raise SurgeryError(f"method: expected a new name, got {method.name!r}, which is taken; choose another")
    METHODS[method.name] = method()
    return method


def method_named(name: str) -> Method:
    """Return a method by name.

    Raises:
        SurgeryError: There is no such method.
    """
    if name not in METHODS:
        raise SurgeryError(f"method: expected one of {list(METHODS)}, got {name!r}{did_you_mean(name, METHODS)}")
    return METHODS[name]


@register_method
class R2R(Method):
    """New units in twins that cancel: the second half of them repeats the first, and is heard with the other sign.

    4 units + 4 new ones::

        source   0  1  2  3 | 4  5 | 4  5      rows:     [W; U; U]
        factor   1  1  1  1 | 1  1 |−1 −1      columns:  [W, V, −V]
    """

    name = "r2r"
    step = 2

    def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> UnitMap:
        """See `Method.unit_map`."""
        half = added // 2
        free = free_units(size, added)
        source = np.concatenate([np.arange(size + half), np.arange(size, size + half)])
        factor = np.ones(size + added)
        factor[size + half :] = -1.0
        return Layout(free.old, source, factor, size + half, size)


@register_method
class Net2Net(Method):
    """Every new unit copies a random old one; consumers share their weights among the copies.

    4 units + 2 new ones that copy units 2 and 0::

        source   0  1  2  3 | 2  0
        factor   ½  1  ½  1 | ½  ½
    """

    name = "net2net"
    keeps_old_weights = False

    def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> UnitMap:
        """See `Method.unit_map`."""
        # Whole rounds of all units first, so that doubling copies every unit once.
        rounds = [rng.permutation(size) for _ in range(-(-added // size))]
        source = np.concatenate([np.arange(size), np.concatenate(rounds)[:added]])
        factor = 1.0 / np.bincount(source, minlength=size)[source]
        return Layout(free_units(size, added).old, source, factor, size, size)


@register_method
class NetMorph(Method):
    """New units are random and not heard yet: their consumers' columns start at zero."""

    name = "netmorph"

    def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> UnitMap:
        """See `Method.unit_map`."""
        free = free_units(size, added)
        return Layout(free.old, free.source, np.where(free.new, 0.0, 1.0), free.reduced, size)


@register_method
class RandomPadding(Method):
    """New units are random and heard at once: the control, which changes the function."""

    name = "random-padding"
    preserves = False

    def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> UnitMap:
        """See `Method.unit_map`."""
        return free_units(size, added)
