"""Grow a torch module in the middle of ``Model.fit`` of Keras 3, on its torch backend (extra ``graftwork[keras]``)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn, optim

from graftwork.errors import ConfigError
from graftwork.integrations._runner import ScheduleRunner
from graftwork.surgery import GrowthSchedule, SurgeryReceipt

try:
    import keras
    from keras.layers import TorchModuleWrapper
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError("this callback needs Keras 3 on torch: pip install 'graftwork[keras]'") from _error

__all__ = ["GrowthCallback"]

_SLOTS: dict[type, dict[str, str]] = {
    keras.optimizers.Adam: {"_momentums": "exp_avg", "_velocities": "exp_avg_sq"},
    keras.optimizers.SGD: {"momentums": "momentum_buffer"},
}
"""Keras's optimizers that are carried: where they keep what torch's keep by another name. AdamW is an Adam."""
_NOT_CARRIED = ("amsgrad", "use_ema", "gradient_accumulation_steps", "_exclude_from_weight_decay")


class GrowthCallback(keras.callbacks.Callback):
    """Makes the growths of a schedule during ``fit`` in the module of a ``TorchModuleWrapper``.

    Growths fall on steps of the model's optimizer, an ``Adam``, ``AdamW`` or ``SGD``, whose moments are carried. As
    Keras builds an optimizer for fixed variables, ``model.optimizer`` is another object with the same settings after a
    growth. It has one count of steps for all variables: moments of entirely new tensors start at zero, and second
    moments at the mean of the module's own.

    Keras saves a wrapped module as it is, so a saved model has grown too; ``fit`` then goes on behind the growths that
    it has. A schedule that waits for a `Plateau` is refused, as Keras tells no losses of single batches.

    Args:
        schedule: When to grow and how; percentages need its ``total_steps``.
        example_input: One batch as the module's forward takes it.
        layer: Name of the ``TorchModuleWrapper``; ``None``: the only one of the model.
        check: Whether all growths are tried on a copy when the training starts (`GrowthSchedule.check`).
        **along: Passed on to every growth: ``generator`` and ``mirrors`` (see `graftwork.plan`).

    Attributes:
        receipts: What has been grown in this process.

    Example:
        >>> growth = GrowthCallback(GrowthSchedule({100: WidenAll(1.5)}), example_input=x[:8])  # doctest: +SKIP
        >>> model.fit(x, y, callbacks=[growth])  # doctest: +SKIP

    Raises:
        ConfigError: If Keras runs on another backend, or the schedule waits for a plateau.
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        *,
        example_input: Any,
        layer: str | None = None,
        check: bool = True,
        **along: Any,
    ) -> None:
        super().__init__()
        if keras.backend.backend() != "torch":
            raise ConfigError(
                f"GrowthCallback: expected Keras on torch, got {keras.backend.backend()}; set KERAS_BACKEND=torch"
            )
        self._runner = ScheduleRunner(schedule, example_input=example_input, check=check, **along)
        if schedule.plateaus:
            raise ConfigError(f"schedule: expected moments by steps, got {schedule.plateaus[0]}; name a step instead")
        self._name = layer

    @property
    def receipts(self) -> list[SurgeryReceipt]:
        """Receipts of all growths made in this process."""
        return self._runner.schedule.receipts

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the schedule where the training stands."""
        self._layer = _wrapper(self.model, self._name)
        optimizer = self.model.optimizer
        _slots(optimizer)  # refuses what can't be carried
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._runner.resume(self._layer.module, self._steps, optimizers=[_stand_in(optimizer, self._layer)])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Make the growths that are due."""
        schedule, steps = self._runner.schedule, self._steps
        if schedule.due or steps - schedule.steps > 1:  # Keras may take several steps at once
            torch_optimizer = _stand_in(self.model.optimizer, self._layer)
            if self._runner.advance(self._layer.module, steps, optimizers=[torch_optimizer]):
                self._take_over(torch_optimizer)
        else:
            self._runner.advance(self._layer.module, steps, optimizers=[])

    @property
    def _steps(self) -> int:
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _take_over(self, grown: optim.Optimizer) -> None:
        """Let Keras track the parameters that there are now, and its optimizer hold their moments."""
        old, slots = self.model.optimizer, _slots(self.model.optimizer)
        kept = dict(_kept(old, slots))
        for variable in [*self._layer.trainable_variables, *self._layer.non_trainable_variables]:
            self._layer._untrack_variable(variable)  # noqa: SLF001 - Keras has no other way
        self._layer._track_module_parameters()  # noqa: SLF001
        new = type(old).from_config(old.get_config())
        new.build(self.model.trainable_variables)
        new.iterations.assign(old.iterations)
        own = {id(parameter) for parameter in self._layer.module.parameters()}
        for index, variable in enumerate(self.model.trainable_variables):
            for slot, name in slots.items():
                if id(variable.value) in own:
                    value = grown.state[variable.value].get(name)
                    value = _first(grown, name, variable.value) if value is None else value
                else:
                    value = kept[slot, id(variable)]
                getattr(new, slot)[index].assign(value)
        self.model.optimizer = new


def _wrapper(model: keras.Model, name: str | None) -> TorchModuleWrapper:
    found = [layer for layer in model._flatten_layers() if isinstance(layer, TorchModuleWrapper)]  # noqa: SLF001
    chosen = [layer for layer in found if name in (None, layer.name)]
    if len(chosen) != 1:
        raise ConfigError(
            f"layer: expected the name of one TorchModuleWrapper, got {name!r}; name one of "
            f"{', '.join(layer.name for layer in found) or 'none: wrap the module that is to grow'}"
        )
    return chosen[0]


def _slots(optimizer: Any) -> dict[str, str]:
    """Where an optimizer keeps its moments, by torch's names of them."""
    used = [name for name in _NOT_CARRIED if getattr(optimizer, name, None)]
    for kind, slots in _SLOTS.items():
        if isinstance(optimizer, kind) and not used:
            return {slot: name for slot, name in slots.items() if getattr(optimizer, "momentum", 1)}
    with_ = f" with {', '.join(used)}" if used else ""
    raise ConfigError(
        f"optimizer: expected Adam, AdamW or SGD without {', '.join(_NOT_CARRIED)}, got {type(optimizer).__name__}"
        f"{with_}; compile the model with one of these"
    )


def _kept(optimizer: Any, slots: dict[str, str]) -> Iterator[tuple[tuple[str, int], torch.Tensor]]:
    for index, variable in enumerate(optimizer._trainable_variables):  # noqa: SLF001
        for slot in slots:
            yield (slot, id(variable)), getattr(optimizer, slot)[index].value.detach()


def _stand_in(optimizer: Any, layer: TorchModuleWrapper) -> optim.Optimizer:
    """An optimizer of torch that holds the moments of Keras's, so that a growth carries them."""
    slots, steps = _slots(optimizer), float(keras.ops.convert_to_numpy(optimizer.iterations))
    parameters = [parameter for parameter in layer.module.parameters() if parameter.requires_grad]
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    found: optim.Optimizer
    if isinstance(optimizer, keras.optimizers.SGD):
        found = optim.SGD(parameters, lr=rate, momentum=float(optimizer.momentum))
    else:
        betas = (float(optimizer.beta_1), float(optimizer.beta_2))
        found = optim.Adam(parameters, lr=rate, betas=betas, eps=float(optimizer.epsilon))
    if not steps:
        return found
    for index, variable in enumerate(optimizer._trainable_variables):  # noqa: SLF001
        if any(variable.value is parameter for parameter in parameters):
            state = {name: getattr(optimizer, slot)[index].value.detach().clone() for slot, name in slots.items()}
            found.state[variable.value] = {"step": torch.tensor(steps), **state} if "exp_avg" in state else state
    return found


def _first(optimizer: optim.Optimizer, name: str, parameter: nn.Parameter) -> torch.Tensor:
    """What a moment of a new tensor begins with: zero, or the mean of all second moments, which can't be zero."""
    seconds: Sequence[torch.Tensor] = [state[name] for state in optimizer.state.values() if name in state]
    if name != "exp_avg_sq" or not seconds:
        return torch.zeros_like(parameter)
    mean = sum(float(second.sum()) for second in seconds) / sum(second.numel() for second in seconds)
    return torch.full_like(parameter, mean)
