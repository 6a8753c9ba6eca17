"""What surgery is interrupted on: a trained model with its optimizer, and every growth, removal and save."""

import copy
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import graftwork as gw
from graftwork import surgery
from graftwork.surgery import (
    AddSharedExpert,
    Deepen,
    InsertLayers,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    Widen,
    WidenAll,
    WidenInputs,
    WidenOutputs,
    WidenStream,
)
from graftwork.surgery.carry import _first_update
from tests.surgery.mixture import MixtureNet


@dataclass
class Config:
    """As in the models of transformers: sizes that a model is built from, and that follow its growths."""

    hidden_size: int = 8
    intermediate_size: int = 12
    num_hidden_layers: int = 2
    num_labels: int = 3
    num_channels: int = 5

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> "Config":
        return cls(**held)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Block(nn.Module):
    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.norm, self.inner = nn.LayerNorm(config.hidden_size), nn.BatchNorm1d(config.intermediate_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.size = config.intermediate_size

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.up(self.norm(x)))
        return x + self.down(torch.relu(y).view(-1, self.size))  # type: ignore[no-any-return]


class Net(nn.Module):
    """A residual stream, normed by layer, with branches normed by batch: every growth has a place."""

    config_class = Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.stem, self.norm = nn.Linear(config.num_channels, config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.num_hidden_layers))
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(config.hidden_size, config.num_labels)
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(self.norm(x)))  # type: ignore[no-any-return]


@dataclass
class Subject:
    """A trained model with its optimizer and a copy that grows along, and a folder that holds an older save of it."""

    folder: Path
    kind: type[nn.Module] = Net
    model: nn.Module = field(init=False)
    mirror: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    x: Tensor = field(init=False)
    receipt: surgery.SurgeryReceipt = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.x = self.kind(), torch.randn(*([4, 5] if self.kind is Net else [2, 3, 5]))
        if isinstance(self.model, Net):
            self.model.blocks[1].inner.eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.model(self.x).sum().backward()
        self.optimizer.step()
        self.mirror = copy.deepcopy(self.model)
        shutil.rmtree(self.folder, ignore_errors=True)
        gw.save_model(self.model, self.folder)

    @property
    def along(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1)
        return {"example_input": self.x, "optimizer": self.optimizer, "mirrors": [self.mirror], "generator": generator}

    def values(self) -> dict[str, Any]:
        """All that can be compared with another run; tensors as bytes."""
        optimizer = self.optimizer
        return {
            "tensors": _tensors(self.model),
            "modules": {name: _about(module) for name, module in self.model.named_modules()},
            "mirror": (_tensors(self.mirror), {name: _about(module) for name, module in self.mirror.named_modules()}),
            "optimizer": _plain(optimizer.state_dict()),
            "waiting": len(_first_update._unsettled.get(optimizer, {})),
            "hooks": len(optimizer._optimizer_step_pre_hooks),
            "random": (_plain(torch.get_rng_state()), random.getstate()),
            "modes": (torch.is_grad_enabled(), len(_get_current_function_mode_stack())),
            "dispatch": len(_get_current_dispatch_mode_stack()),
            "makes": (torch.get_default_dtype(), nn.Module.register_parameter),
            "kernels": (torch._C._get_mkldnn_enabled(), torch.backends.mha.get_fastpath_enabled()),
        }

    def identities(self) -> list[int]:
        """Of every object that a user may hold."""
        found: list[Any] = []
        for model in (self.model, self.mirror):
            configs = [module.config for module in model.modules() if hasattr(module, "config")]
            found += [*model.parameters(), *model.buffers(), *model.modules(), *configs]
        return [id(one) for one in found]

    def saved(self) -> Any:
        """What the folder gives back: an older or a newer save, whole."""
        return _plain(gw.load_model(self.kind, self.folder).state_dict())


def _tensors(model: nn.Module) -> dict[str, Any]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: (_plain(t), t.requires_grad, _plain(t.grad)) for name, t in named}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _about(module: nn.Module) -> Any:
    held = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple | list)}
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    config = module.config.to_dict() if hasattr(module, "config") else None
    return type(module).__name__, _plain(held), hooks, config, list(module._modules)


def _saved_again(subject: Subject) -> None:
    own = subject.model.head.weight.detach().clone()
    subject.model.head.weight.data.fill_(1.0)
    try:
        gw.save_model(subject.model, subject.folder)
    finally:
        subject.model.head.weight.data.copy_(own)


GROWTHS: dict[str, ModelGrowth] = {
    "widen": Widen("blocks.0.up", extra=4),
    "widen all": WidenAll(1.5),
    "widen all, width": WidenAll(1.5, width=1.5),
    "widen stream": WidenStream(1.5),
    "widen outputs, zero": WidenOutputs(None, 2),
    "widen outputs, mean": WidenOutputs(None, 2, init="mean"),
    "widen inputs": WidenInputs(None, 1),
    "deepen": Deepen("norm"),
    "deepen, like": Deepen("blocks.0", like="blocks.1"),
    "insert layers, zero-out": InsertLayers("blocks", after=(0,)),
    "insert layers, r2r": InsertLayers("blocks", after=(0,), init="r2r"),
    "insert layers, copy": InsertLayers("blocks", after=(0,), init="copy", approximate=True),
    "insert layers, new train": InsertLayers("blocks", after=(0,), train="new"),
    "repeat heads": RepeatKeyValueHeads(2),
    "repeat experts": RepeatExperts(2),
    "shared expert": AddSharedExpert(1),
}
"""Every kind of growth, and every way in which it fills new weights."""
REMOVED = ("widen all", "widen stream", "widen outputs, zero", "insert layers, zero-out", "deepen",
           "shared expert")  # fmt: skip
"""Growths that are taken out again: one for each way to do so."""


def _grown(growth: ModelGrowth, subject: Subject) -> None:
    subject.receipt = gw.grow(subject.model, growth, **subject.along)


def _removed(subject: Subject) -> None:
    along = {"optimizer": subject.optimizer, "mirrors": [subject.mirror]}
    gw.remove(subject.model, subject.receipt, example_input=subject.x, **along)


ACTIONS: dict[str, Callable[[Subject], object]] = {
    **{name: partial(_grown, growth) for name, growth in GROWTHS.items()},
    **{f"remove: {name}": _removed for name in REMOVED},
    "save": _saved_again,
}


def subject_of(action: str, folder: Path) -> Subject:
    """The subject of an action, as it is before: grown, where a growth is taken out."""
    own = action.removeprefix("remove: ") in ("repeat heads", "repeat experts", "shared expert")
    subject = Subject(folder, MixtureNet if own else Net)
    if action.startswith("remove: "):
        _grown(GROWTHS[action.removeprefix("remove: ")], subject)
    return subject
