"""Grow a module in the middle of ``NeuralNet.fit`` of skorch (extra ``graftwork[skorch]``)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Generator, nn, optim

from graftwork.errors import ConfigError
from graftwork.integrations._runner import ScheduleRunner
from graftwork.surgery import GrowthSchedule, SurgeryReceipt, growth_log, replay

try:
    from skorch import NeuralNet
    from skorch.callbacks import Callback
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError("this callback needs skorch: pip install 'graftwork[skorch]'") from _error

__all__ = ["GrowthCallback"]

_KEY = "graftwork"


class GrowthCallback(Callback):
    """Makes the growths of a schedule during ``fit``; the optimizer's state is carried along.

    Every training batch counts as one optimizer step, those of earlier calls of ``partial_fit`` included; a `Plateau`
    goes by the losses of the batches. ``fit`` and ``initialize`` begin the schedule again. The history keeps the log of
    the growths and the state of the schedule, epoch by epoch, so that a checkpoint of skorch has them (see `restore`).

    Args:
        schedule: When to grow and how; percentages need its ``total_steps``. It is copied, so that every net of a
            cross-validation has one of its own.
        example_input: One batch as the module's forward takes it.
        check: Whether all growths are tried on a copy when the training starts (`GrowthSchedule.check`).
        generator: Source of new weights; ``None``: the growths' own.
        module: Name of the net's module that grows.

    Attributes:
        receipts: What has been grown since ``initialize``.

    Example:
        >>> growth = GrowthCallback(GrowthSchedule({100: WidenAll(1.5)}), example_input=x[:8])  # doctest: +SKIP
        >>> NeuralNetClassifier(Net, callbacks=[("growth", growth)]).fit(x, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        *,
        example_input: Any,
        check: bool = True,
        generator: Generator | None = None,
        module: str = "module_",
    ) -> None:
        self.schedule = schedule
        self.example_input = example_input
        self.check = check
        self.generator = generator
        self.module = module

    @property
    def receipts(self) -> list[SurgeryReceipt]:
        """Receipts of all growths made since ``initialize``."""
        return self.runner_.schedule.receipts

    def initialize(self) -> "GrowthCallback":
        """Begin the schedule from its start."""
        along = {} if self.generator is None else {"generator": self.generator}
        schedule = deepcopy(self.schedule)
        self.runner_ = ScheduleRunner(schedule, example_input=self.example_input, check=self.check, **along)
        self.steps_ = 0
        self.state_: dict[str, Any] | None = None
        return self

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **_: Any) -> None:
        """Start the schedule where the training stands."""
        self.runner_.resume(self._target(net), self.steps_, optimizers=_optimizers(net), state=self.state_)

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool = False, **given: Any) -> None:
        """Make the growths that are due."""
        if not training:
            return
        self.steps_ += 1
        if self.runner_.schedule.plateaus:
            self.runner_.schedule.observe(given["loss"])
        self.runner_.advance(self._target(net), self.steps_, optimizers=_optimizers(net))

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Let the history keep what a resume needs."""
        self.state_ = self.runner_.schedule.state_dict()
        net.history.record(_KEY, {"growths": growth_log(self._target(net)), "schedule": self.state_})

    def restore(self, net: NeuralNet, history: Sequence[Mapping[str, Any]]) -> None:
        """Make the growths of a checkpoint again, before ``net.load_params`` reads its weights.

        The net has to be initialized. Its optimizers are made again, for the grown module. ``net.partial_fit`` then
        goes on where the last epoch of the history ended.

        Args:
            net: A net whose module is as it was before any growth, with this callback.
            history: The history of the checkpoint: ``skorch.history.History.from_file("history.json")``.

        Raises:
            ConfigError: If the history is of a training without this callback.
        """
        if not history or _KEY not in history[-1]:
            raise ConfigError(f"history: expected epochs that name {_KEY!r}, got none; take that of a grown training")
        replay(self._target(net), history[-1][_KEY]["growths"])
        net.initialize_optimizer()
        saved = history[-1][_KEY]["schedule"]
        self.state_, self.steps_ = saved, saved["steps"]

    def _target(self, net: NeuralNet) -> nn.Module:
        found = getattr(net, self.module, None)
        if not isinstance(found, nn.Module):
            raise ConfigError(f"module: expected the name of a module of the net, such as module_, got {self.module!r}")
        return found


def _optimizers(net: NeuralNet) -> list[optim.Optimizer]:
    return [value for value in vars(net).values() if isinstance(value, optim.Optimizer)]
