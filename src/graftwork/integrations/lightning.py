"""Grow a `LightningModule` in the middle of ``Trainer.fit`` (extra ``graftwork[lightning]``)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from graftwork.errors import ConfigError, did_you_mean
from graftwork.integrations._runner import ScheduleRunner
from graftwork.surgery import GrowthSchedule, SurgeryReceipt, growth_log, replay

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError("this callback needs Lightning: pip install 'graftwork[lightning]'") from _error

__all__ = ["GrowthCallback"]


class GrowthCallback(Callback):
    """Makes the growths of a schedule during ``fit``; the optimizers' state is carried along.

    Growths fall on optimizer steps (``trainer.global_step``), so accumulated batches don't count; a `Plateau` goes by
    the losses that ``training_step`` returns. Checkpoints hold the log of the growths and the schedule's state. On
    ``fit(model, ckpt_path=…)``, and on ``validate``, ``test`` and ``predict`` with a checkpoint, a freshly built module
    is grown by that log before its weights are loaded. `LightningModule.load_from_checkpoint` knows nothing of
    callbacks: build the module, `graftwork.surgery.replay` the log
    (``checkpoint["callbacks"][callback.state_key]["growths"]``), then load the state.

    On one device or with ``strategy="ddp"``, where all processes grow alike (`graftwork.unwrapped`); with FSDP or
    DeepSpeed it refuses to start. It also refuses to start beside a callback that averages the weights
    (``StochasticWeightAveraging``, ``WeightAveraging``), whose copy would not grow.

    Args:
        schedule: When to grow and how; percentages need its ``total_steps``.
        example_input: One batch as the grown module's forward takes it.
        module: Path of the submodule to grow, such as ``"net"``. None grows the `LightningModule`, whose own
            ``forward`` must then take ``example_input``.
        check: Whether all growths are tried on a copy when the training starts (`GrowthSchedule.check`).
        **along: Passed on to every growth: ``generator`` and ``mirrors`` (see `graftwork.plan`).

    Attributes:
        receipts: What has been grown in this process.

    Example:
        >>> schedule = GrowthSchedule({"50%": WidenAll(2)}, total_steps=1000)  # doctest: +SKIP
        >>> Trainer(callbacks=[GrowthCallback(schedule, example_input=images[:8], module="net")])  # doctest: +SKIP
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        *,
        example_input: Any,
        module: str | None = None,
        check: bool = True,
        **along: Any,
    ) -> None:
        self._runner = ScheduleRunner(schedule, example_input=example_input, check=check, **along)
        self._path = module or ""
        self._mirrors: Sequence[nn.Module] = along.get("mirrors", ())
        self._growths: list[dict[str, Any]] = []
        self._resumed: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Name of this callback's entry in a checkpoint; one for every module that is grown."""
        return str(self._generate_state_key(module=self._path))

    @property
    def receipts(self) -> list[SurgeryReceipt]:
        """Receipts of all growths made in this process."""
        return self._runner.schedule.receipts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange that a checkpoint's growths are made before its weights are loaded."""
        if stage == "fit":
            _refuse_strategies(trainer)
            _refuse_averages(trainer, self._mirrors)
        original = pl_module.on_load_checkpoint
        pl_module.on_load_checkpoint = self._loader(pl_module, original)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the module's own ``on_load_checkpoint`` back."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def _loader(
        self, pl_module: LightningModule, original: Callable[[dict[str, Any]], None]
    ) -> Callable[[dict[str, Any]], None]:
        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            saved = checkpoint.get("callbacks", {}).get(self.state_key)
            if saved is not None:
                _catch_up(self._target(pl_module), saved["growths"])
            original(checkpoint)

        return on_load_checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the schedule where the training stands."""
        _refuse_averages(trainer, self._mirrors)
        target = self._target(pl_module)
        self._runner.resume(
            target,
            trainer.global_step,
            optimizers=trainer.optimizers,
            state=self._resumed,
            wrapper=trainer.strategy.model,
        )
        self._growths = growth_log(target)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the growths that are due."""
        target = self._target(pl_module)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        schedule, wrapper = self._runner.schedule, trainer.strategy.model
        if loss is not None and schedule.plateaus:
            schedule.observe(trainer.strategy.reduce(loss, reduce_op="mean"))  # the same on all processes
        self._runner.advance(target, trainer.global_step, optimizers=trainer.optimizers, wrapper=wrapper)
        self._growths = growth_log(target)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as plain data: the log of the growths, and the state of the schedule."""
        return {"growths": self._growths, "schedule": self._runner.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the schedule for the start of the training."""
        self._resumed = state_dict["schedule"]

    def _target(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self._path)  # type: ignore[no-any-return]
        except AttributeError as error:
            known = [name for name, _ in pl_module.named_modules() if name]
            raise ConfigError(
                f"module: expected the path of a submodule of the LightningModule, got {self._path!r}"
                f"{did_you_mean(self._path, known)}"
            ) from error


def _catch_up(target: nn.Module, growths: list[dict[str, Any]]) -> None:
    """Make the growths of a checkpoint that a module does not have yet."""
    have = growth_log(target)
    if growths[: len(have)] != have:
        raise ConfigError(
            f"module: expected the first of the checkpoint's {len(growths)} growths or none, got {len(have)} others; "
            "pass a freshly built module"
        )
    replay(target, growths[len(have) :])


def _refuse_strategies(trainer: Trainer) -> None:
    name = type(trainer.strategy).__name__
    if not name.startswith("SingleDevice") and name != "DDPStrategy":
        raise ConfigError(
            f'GrowthCallback: expected one device or strategy="ddp", got {name} with {trainer.world_size} processes; '
            "stop at the moment, grow, and start the distributed training again"
        )


def _refuse_averages(trainer: Trainer, mirrors: Sequence[nn.Module]) -> None:
    """Refuse callbacks that hold an average of the module, unless it is one of the mirrors, which grow along."""
    for callback in trainer.callbacks:
        averages = [held for held in vars(callback).values() if isinstance(held, AveragedModel)]
        followed = any(one is mirror for held in averages for one in held.modules() for mirror in mirrors)
        kinds = (StochasticWeightAveraging, WeightAveraging)
        if isinstance(callback, kinds) or (averages and not followed):
            raise ConfigError(
                f"GrowthCallback: expected no callback that averages weights beside it, got {type(callback).__name__}, "
                "whose copy of the module would not grow; average after the last growth, in a fit of its own, or hold "
                "an AveragedModel yourself and give mirrors=[averaged.module]"
            )
