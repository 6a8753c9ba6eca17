"""How a growth is taken out again: plain data that each edit leaves in its receipt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._calls import Call
from graftwork.surgery._check import Interface
from graftwork.surgery._configs import set_values
from graftwork.surgery._graft import graft, grafts_of, ungraft
from graftwork.surgery._layout import Layout
from graftwork.surgery._tensors import memory_format, old_entries
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.carry import ParameterGrowth, carry_back, release
from graftwork.surgery.layers import find_stack
from graftwork.surgery.streams import scaled

Optimizers = Sequence[optim.Optimizer]


class Undo(ABC):
    """Takes one growth out of a model."""

    @abstractmethod
    def apply(
        self, transaction: Transaction, model: nn.Module, optimizers: Optimizers, numbers: Sequence[AttributeChange]
    ) -> list[str]:
        """Change the model back.

        Args:
            transaction: Notes how to undo.
            model: The grown model.
            optimizers: Optimizers that are carried back.
            numbers: Numbers of modules and configs as the growth has changed them.

        Returns:
            One line for every state tensor that was carried.
        """

    def call(self, call: Call) -> Call:
        """Return the call of the smaller model that stands for one of the grown."""
        return call

    def output(self, small: list[Tensor], grown: list[Tensor]) -> list[Tensor]:
        """Return the part of the grown model's outputs that the smaller one has."""
        return grown


@dataclass(frozen=True)
class NoWay(Undo):
    """The growth can't be taken out.

    Attributes:
        reason: Why.
    """

    reason: str

    def apply(
        self, transaction: Transaction, model: nn.Module, optimizers: Optimizers, numbers: Sequence[AttributeChange]
    ) -> list[str]:
        """Refuse."""
        raise SurgeryError(f"remove: expected a growth that can be taken out, got one that can't: {self.reason}")


@dataclass(frozen=True)
class Shrink(Undo):
    """Tensors lose the entries that they have gained.

    Attributes:
        layouts: Parameter or buffer → the layouts by which it has grown.
        interface: What the growth has made of inputs and outputs.
        scales: Parameter → by what its old entries were multiplied, and what was added to them before.
        buffers: Buffer → its value before, where the growth has set another.
    """

    layouts: Mapping[str, Sequence[Layout]]
    interface: Interface = field(default_factory=Interface, compare=False)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def apply(
        self, transaction: Transaction, model: nn.Module, optimizers: Optimizers, numbers: Sequence[AttributeChange]
    ) -> list[str]:
        """See `Undo.apply`."""
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        shrunk = []
        for name, layouts in self.layouts.items():
            tensor = tensors[name]
            data, grad = tensor.data, tensor.grad
            factor, offset = self.scales.get(name, (1.0, 0.0))
            old = scaled(old_entries(data, layouts), 1.0 / factor, offset)
            new = old.clone().contiguous(memory_format=memory_format(data))
            new_grad = None if grad is None else old_entries(grad, layouts).clone()
            transaction.step(
                f"tensor {name}", partial(swap_data, tensor, new, new_grad), partial(swap_data, tensor, data, grad)
            )
            if isinstance(tensor, nn.Parameter):
                growth = ParameterGrowth(tuple(layout.size for layout in layouts), tuple(layouts))
                shrunk.append((name, tensor, growth))
        for name, value in self.buffers.items():
            buffer = tensors[name]
            data, old = buffer.data, value.to(buffer)
            transaction.step(
                f"buffer {name}", partial(swap_data, buffer, old, None), partial(swap_data, buffer, data, None)
            )
        put_back(transaction, model, numbers)
        return carry_back(transaction, optimizers, shrunk)

    def call(self, call: Call) -> Call:
        """See `Undo.call`."""
        return self.interface.old_call(call)

    def output(self, small: list[Tensor], grown: list[Tensor]) -> list[Tensor]:
        """See `Undo.output`."""
        return self.interface.output(small, grown)


@dataclass(frozen=True)
class Ungraft(Undo):
    """Modules lose the block that hangs on them.

    Attributes:
        blocks: Path of a module, name of its block, and whether that takes the module's further arguments.
    """

    blocks: tuple[tuple[str, str, bool], ...]

    def apply(
        self, transaction: Transaction, model: nn.Module, optimizers: Optimizers, numbers: Sequence[AttributeChange]
    ) -> list[str]:
        """See `Undo.apply`."""
        for path, name, like in reversed(self.blocks):
            module = model.get_submodule(path)
            if grafts_of(module)[-1:] != [name]:
                raise SurgeryError(f"{path!r}: expected {name!r} as its last block, got {grafts_of(module)}")
            block = module.get_submodule(name)
            release(transaction, optimizers, list(block.parameters()))
            transaction.step(
                f"block after {path}", partial(ungraft, module, name), partial(_hang_again, module, block, like)
            )
        return []


def _hang_again(module: nn.Module, block: nn.Module, like: bool) -> None:
    if not any(child is block for child in module.children()):
        graft(module, block, like=like)


@dataclass(frozen=True)
class TakeOut(Undo):
    """A list loses the entries that were put in.

    Attributes:
        stack: Path of the list.
        places: Old position after which each new entry went.
        keys: Names of the entries before the growth.
        woken: Names, after the growth, of parameters that it has frozen.
    """

    stack: str
    places: tuple[int, ...]
    keys: tuple[str, ...]
    woken: tuple[str, ...] = ()

    def apply(
        self, transaction: Transaction, model: nn.Module, optimizers: Optimizers, numbers: Sequence[AttributeChange]
    ) -> list[str]:
        """See `Undo.apply`."""
        grown = find_stack(model, self.stack, (0,)).own
        fresh = {place + 1 + number for number, place in enumerate(self.places)}
        kept = [(key, entry) for at, (key, entry) in enumerate(grown) if at not in fresh]
        if len(kept) != len(self.keys):
            raise SurgeryError(
                f"{self.stack!r}: expected {len(self.keys) + len(fresh)} entries, got {len(grown)}; it has changed"
            )
        parameters = dict(model.named_parameters())
        for name in self.woken:
            wake = parameters[name].requires_grad_
            transaction.step("what trains", partial(wake, True), partial(wake, False))
        put_back(transaction, model, numbers)
        own = {id(p) for _, entry in kept for p in entry.parameters()}
        own |= {id(p) for name, p in parameters.items() if not _holds(self.stack, name)}
        gone = [p for at in fresh for p in grown[at][1].parameters() if id(p) not in own]
        moved = {old: new for (old, _), new in zip(kept, self.keys, strict=True)}
        release(transaction, optimizers, gone, partial(_renamed, self.stack, moved))
        held = model.get_submodule(self.stack)._modules  # noqa: SLF001 - the order of entries is theirs
        after = {new: entry for (_, entry), new in zip(kept, self.keys, strict=True)}
        transaction.step(f"entries of {self.stack}", partial(_fill, held, after), partial(_fill, held, dict(held)))
        return []


def _holds(stack: str, name: str) -> bool:
    return not stack or name.startswith(f"{stack}.")


def _renamed(stack: str, moved: Mapping[str, str], name: str) -> str:
    if not _holds(stack, name):
        return name
    key, dot, rest = name.removeprefix(f"{stack}." if stack else "").partition(".")
    return f"{stack}.{moved.get(key, key)}{dot}{rest}".lstrip(".")


def _fill(held: dict[str, nn.Module | None], content: Mapping[str, nn.Module | None]) -> None:
    held.clear()
    held.update(content)


def put_back(transaction: Transaction, model: nn.Module, numbers: Sequence[AttributeChange]) -> None:
    """Give modules and configs the numbers that they had before a growth."""
    back = [AttributeChange(change.path, change.name, change.new, change.old) for change in numbers]
    set_values(transaction, model, back)
