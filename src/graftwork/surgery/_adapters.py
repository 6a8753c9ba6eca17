"""Models with adapters of PEFT: each adapter, and none, is a way to run the model, and a growth has to fit all of them.

Nothing here imports PEFT. Its layers are known by what they hold: a base layer, or the original of a module, with the
weights of adapters beside it, and a switch (``_active_adapter``, ``_disable_adapters``).
"""

import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import Call
from graftwork.surgery._space import Expr, Reason, atoms

_RANK = "it is inside an adapter alone, whose config holds it (its rank): add an adapter with a larger one instead"
"""Why volumes of adapters don't grow."""
_COPIES = "modules_to_save"
"""Where a layer holds copies of its original that adapters train whole."""
_COPIED = (
    f"an adapter trains a copy of it beside the original ({_COPIES}), which would not grow along; merge_and_unload()"
)
_BASES = ("base_layer", "original_module")
_PROMPTS = "prompt_encoder"
"""Child of a model of PEFT that holds, by their names, adapters that are tokens of their own."""
_SWITCH = ("_active_adapter", "_disable_adapters")


@dataclass(frozen=True)
class AdapterCall(Call):
    """One forward call with one adapter.

    Attributes:
        adapter: Its name. None: adapters are disabled.
    """

    adapter: str | None = None

    @contextmanager
    def around(self, model: nn.Module) -> Iterator[None]:
        """Switch to the adapter inside; what trains stays as it is, other than by PEFT's own methods."""
        held = [(vars(layer), {k: vars(layer)[k] for k in _SWITCH if k in vars(layer)}) for layer in _layers(model)]
        try:
            for own, _ in held:
                own.update(_disable_adapters=self.adapter is None)
                if self.adapter is not None:
                    own.update(_active_adapter=[self.adapter])
            yield
        finally:
            for own, before in held:
                for key in _SWITCH:
                    own.pop(key, None)
                own.update(before)

    @property
    def name(self) -> str:
        """What this way is called in a receipt."""
        return "adapters disabled" if self.adapter is None else f"adapter {self.adapter!r}"


def adapter_calls(model: nn.Module, call: Call) -> list[AdapterCall]:
    """Return a call in every way that adapters allow, but the one that is set.

    Args:
        model: The model; without adapters there is none.
        call: The call.
    """
    layers = _layers(model)
    names = dict.fromkeys(name for layer in layers for name in _names(layer))
    active = {tuple(layer.active_adapters) for layer in layers if not layer.disable_adapters}
    ways: list[str | None] = [name for name in names if active != {(name,)}]
    if active:
        ways.append(None)
    return [AdapterCall(call.arguments, call.keywords, way) for way in ways]


def refuse_merged(model: nn.Module) -> None:
    """Refuse a model whose weights hold an adapter that may be taken out of them again.

    Raises:
        SurgeryError: It is one.
    """
    for path, module in model.named_modules():
        if _is_layer(module) and module.merged_adapters:
            raise SurgeryError(
                f"model: expected adapters beside the weights, got {module.merged_adapters} merged into those of "
                f"{path!r}, which could not be unmerged from grown ones; call unmerge_adapter() first, or "
                "merge_and_unload() and grow the model that it returns"
            )


def refuse_adapters(model: nn.Module, what: str) -> None:
    """Refuse a model with adapters.

    Args:
        model: The model.
        what: The growth, for the message.

    Raises:
        SurgeryError: It has some.
    """
    names = {name for layer in _layers(model) for name in _names(layer)}
    prompts = [module._modules.get(_PROMPTS) for module in model.modules()]  # noqa: SLF001
    names |= {name for held in prompts if isinstance(held, nn.ModuleDict) for name in held}
    if names:
        raise SurgeryError(
            f"{what}: expected a model without adapters, got {sorted(names)}, which read and write the stream in ways "
            "of their own; grow the base before it gets adapters, or merge_and_unload() and grow what that returns"
        )


def adapter_weights(model: nn.Module) -> set[str]:
    """Return the names of parameters and buffers that belong to adapters alone."""
    held = {id(module) for layer in _layers(model) for module in _holders(layer)}
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if id(module) in held
        for name, _ in [*module.named_parameters(), *module.named_buffers()]
    }


def freeze_adapters(model: nn.Module, spaces: Mapping[str, Sequence[Expr]]) -> None:
    """Freeze what only an adapter has, a number of its config, and modules of which it trains copies.

    Args:
        model: The traced model.
        spaces: Name → index space of every dimension.
    """
    adapters, originals = adapter_weights(model), _copied_weights(model)
    volumes = {name: [var for expr in dims for var in atoms(expr)] for name, dims in spaces.items()}
    shared = {id(var) for name, own in volumes.items() if name not in adapters | originals for var in own}
    for name in adapters | originals:
        reason = Reason(_COPIED if name in originals or f".{_COPIES}." in f".{name}." else _RANK)
        for var in volumes.get(name, ()):
            if id(var) not in shared and reason not in var.reasons:
                var.reasons = (reason, *var.reasons)


def _copied_weights(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if _is_layer(module) and _COPIES in module._modules  # noqa: SLF001
        for name, _ in [*module.named_parameters(), *module.named_buffers()]
        if name.startswith("original_module.")
    }


def refuse_outside(model: nn.Module, grown: Container[str], name: str, size: int) -> None:
    """Refuse a growth of a weight whose adapters have as many entries, and would not follow.

    Args:
        model: The model.
        grown: Names of all that grows.
        name: Name of the weight.
        size: Length of its dimension before.

    Raises:
        SurgeryError: There is such an adapter.
    """
    path, found, _ = name.rpartition(".base_layer.")
    tensors = dict([*model.named_parameters(), *model.named_buffers()]) if found else {}
    for other in sorted(adapter_weights(model) & tensors.keys()):
        if other.startswith(f"{path}.") and other not in grown and size in tensors[other].shape:
            raise SurgeryError(
                f"{name!r} can't get new ones: {other!r}, of an adapter, has {size} entries too and would not grow "
                "along; merge_and_unload() and grow the model that it returns"
            )


def without_adapters(model: nn.Module) -> nn.Module:
    """Return the model as it was before it got adapters: other modules where there are some, the same tensors."""
    if (base := _base_name(model)) is not None:
        return without_adapters(model.get_submodule(base))
    children = {name: child and without_adapters(child) for name, child in model._modules.items()}  # noqa: SLF001
    if all(child is model._modules[name] for name, child in children.items()):  # noqa: SLF001
        return model
    plain = copy.copy(model)
    vars(plain)["_modules"] = children
    return plain


def path_beside_adapters(model: nn.Module, path: str) -> str:
    """Return the path of a module of `without_adapters` in the model itself.

    Args:
        model: The model.
        path: The path, as it was before there were adapters; one that is not there stays as it is.
    """
    found: Any = model
    steps: list[str] = []
    for step in path.split(".") if path else ():
        found = found._modules.get(step)  # noqa: SLF001
        if found is None:
            return path
        steps.append(step)
        while (base := _base_name(found)) is not None:
            steps.append(base)
            found = found.get_submodule(base)
    return ".".join(steps)


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if _is_layer(module)]


def _is_layer(module: Any) -> bool:
    kind = type(module)
    return isinstance(getattr(kind, "disable_adapters", None), property) and hasattr(kind, "adapter_layer_names")


def _base_name(module: nn.Module) -> str | None:
    """Name of what a layer with adapters stands around, None for other modules."""
    return next((name for name in _BASES if name in module._modules), None) if _is_layer(module) else None  # noqa: SLF001


def _holders(layer: Any) -> list[nn.ModuleDict | nn.ParameterDict]:
    """The modules in which a layer keeps the weights of its adapters, by their names."""
    found = [attrgetter(name)(layer) for name in layer.adapter_layer_names]
    return [held for held in found if isinstance(held, (nn.ModuleDict, nn.ParameterDict))]


def _names(layer: Any) -> list[str]:
    return [str(name) for held in _holders(layer) for name in held]
