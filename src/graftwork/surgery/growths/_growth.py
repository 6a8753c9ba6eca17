"""A growth as a value: plain data that says what grows, how much and how, and knows how to change a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn, optim

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, Thoroughness
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry import ParameterGrowth, carry_state
from graftwork.surgery.growths._undo import NoWay, Undo

_ARGUMENTS = ("example_input", "optimizer", "mirrors", "generator")
"""What a growth is given when it is planned: objects of the running training, no data."""


@dataclass(frozen=True)
class Subject:
    """What a growth is planned for.

    Attributes:
        graph: The model, as it was traced.
        optimizers: Optimizers whose state is carried.
        mirrors: Modules of the same structure that grow along.
        generator: CPU generator of new weights; None derives one from the place and its width.
    """

    graph: ChannelGraph
    optimizers: tuple[optim.Optimizer, ...] = ()
    mirrors: tuple[nn.Module, ...] = ()
    generator: torch.Generator | None = None

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.graph.model

    def seed(self, derived: int) -> int:
        """Seed of new weights: drawn from the generator, or the one derived from the place."""
        if self.generator is None:
            return derived
        return int(torch.randint(2**62, (1,), generator=self.generator))

    def carry(self, transaction: Transaction, layouts: Mapping[str, Sequence[Layout]]) -> list[str]:
        """Carry the state of the optimizers of parameters that have grown; return notes."""
        grown = [
            (name, tensor, ParameterGrowth(tuple(layout.size for layout in own), tuple(own)))
            for name, own in layouts.items()
            if isinstance(tensor := self.graph.trace.tensors[name], nn.Parameter)
        ]
        return carry_state(transaction, self.optimizers, grown)


class Edit(ABC):
    """One way to make a growth in one model: what changes, and how.

    Attributes:
        sites: The places.
        label: The places, for messages.
        details: Lines that say more of it, for a printed plan.
        method: How new units are filled.
        tensors: Every parameter and buffer that changes or is new.
        attributes: Numbers of PyTorch's own modules that change.
        configs: Numbers of a Hugging Face ``config`` that change, so that it builds the grown model.
        notes: What a reader should know.
        approximations: Norms whose statistics the growth shifts; empty where it is exact.
    """

    sites: tuple[str, ...]
    label: str
    details: tuple[str, ...] = ()
    method: str
    tensors: tuple[TensorChange, ...]
    attributes: tuple[AttributeChange, ...] = ()
    configs: tuple[AttributeChange, ...] = ()
    notes: tuple[str, ...] = ()
    approximations: tuple[str, ...] = ()

    @abstractmethod
    def make(self, transaction: Transaction) -> list[str]:
        """Change the model and carry the optimizers; returns one line for each carried state tensor."""

    @abstractmethod
    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """Compare the grown model with the one before, and return further numbers that had to change.

        Raises:
            SurgeryError: The forward fails, or the function has changed.
        """

    def undo(self) -> Undo:
        """Return how the growth, once made, is taken out again, as plain data; by default, that it can't be."""
        return NoWay(f"a growth of the kind {type(self).__name__} does not say how it is taken out")

    @abstractmethod
    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """Return what `ModelGrowth.rebuild` needs, as plain data."""


KINDS: "dict[str, type[ModelGrowth]]" = {}
"""Every kind of growth by its name."""
Kind = TypeVar("Kind", bound="type[ModelGrowth]")


def register_growth(kind: str) -> Callable[[Kind], Kind]:
    """Return a decorator that registers a class of growths, so that schedules, logs and files may hold them.

    Args:
        kind: Name under which logs hold it.

    Raises:
        SurgeryError: The name is taken.
    """

    def register(cls: Kind) -> Kind:
        if kind in KINDS:
            raise SurgeryError(f"kind: expected a new name, got {kind!r}, which is taken; choose another")
        cls.kind = kind
        KINDS[kind] = cls
        return cls

    return register


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelGrowth(ABC):
    """A growth as a frozen value: printed, compared, logged and stored as plain data, planned for any model.

    A new kind is a frozen dataclass whose fields are its options, with `edit` and `rebuild`, registered by
    `register_growth`.

    Attributes:
        kind: Name under which logs hold it.
        check: Whether outputs are compared before and after, and the growth is undone on a change: True in evaluation
            and training mode and with another batch size (six forward passes in all), ``"fast"`` in evaluation mode
            (two), False not at all.
    """

    kind: ClassVar[str]
    check: Thoroughness = True

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Name the option that was meant, where one is unknown."""
        known = [field.name for field in cls._fields()]
        for name in options:
            if name in known:
                continue
            if name in _ARGUMENTS:
                raise SurgeryError(
                    f"{cls.__name__}: expected options that are plain data, got {name!r}; give it to graftwork.grow, "
                    "graftwork.plan or the schedule's step"
                )
            raise SurgeryError(
                f"{cls.__name__}: expected options of {known}, got {name!r}{did_you_mean(name, [*known, *_ARGUMENTS])}"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not (isinstance(self.check, bool) or self.check == "fast"):
            raise self.wrong("check", 'True, False or "fast"')

    def __repr__(self) -> str:
        shown = [f for f in self._fields() if getattr(self, f.name) != f.default]
        texts = [f"{f.name}={getattr(self, f.name)!r}" if f.kw_only else repr(getattr(self, f.name)) for f in shown]
        return f"{type(self).__name__}({', '.join(texts)})"

    @classmethod
    def _fields(cls) -> list[Field[Any]]:
        """The options, those that may be given by position first."""
        return sorted(fields(cls), key=lambda f: bool(f.kw_only))

    def wrong(self, name: str, expected: str) -> SurgeryError:
        """Return the error for an option with a value that can't be used."""
        return SurgeryError(f"{type(self).__name__}: {name}: expected {expected}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the growth as plain data: its kind and every option."""
        options = {field.name: getattr(self, field.name) for field in self._fields()}
        return {"kind": self.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ModelGrowth":
        """Return the growth that `to_dict` has described.

        Raises:
            SurgeryError: The kind or an option is unknown or missing, or a value can't be used.
        """
        if not isinstance(data, Mapping):
            raise SurgeryError(f"a growth: expected a mapping of its kind and options, got {type(data).__name__}")
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        kind = options.pop("kind", None)
        if not isinstance(kind, str) or kind not in KINDS:
            raise SurgeryError(f"kind: expected one of {list(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}")
        cls: Callable[..., ModelGrowth] = KINDS[kind]
        missing = [f.name for f in fields(KINDS[kind]) if f.default is MISSING and f.name not in options]
        if missing:
            raise SurgeryError(f"{kind}: expected the options {missing} too, got {list(options)}")
        return cls(**options)

    @abstractmethod
    def edit(self, subject: Subject) -> Edit:
        """Return what the growth changes in a model.

        Raises:
            SurgeryError: The model can't be grown like that.
        """

    def alternatives(self, subject: Subject, check: Check, problem: SurgeryError) -> Iterator[Edit]:
        """Yield other ways to make the growth, best first, for a model whose code can't follow `edit`; none by default.

        Args:
            subject: What it is planned for.
            check: The runs of the model before the growth.
            problem: Why the first way failed.
        """
        return iter(())

    @abstractmethod
    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """Give a freshly built model the structure of the grown one, without weights.

        Args:
            model: The model before the growth; changed in place.
            changes: What `Edit.changes` has returned.
        """
