"""Grow a model in the middle of Hugging Face ``Trainer.train`` (extra ``graftwork[transformers]``)."""

import logging
from pathlib import Path
from typing import Any

from torch import nn, optim

from graftwork.errors import ConfigError
from graftwork.integrations._runner import ScheduleRunner
from graftwork.surgery import GrowthSchedule, SurgeryReceipt, growth_log, save_log
from graftwork.surgery._pretrained import allow_saving, refuse_saving
from graftwork.surgery._transaction import Transaction

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError("this callback needs Transformers: pip install 'graftwork[transformers]'") from _error

__all__ = ["GrowthCallback"]

_log = logging.getLogger(__name__)


class GrowthCallback(TrainerCallback):
    """Makes the growths of a schedule during ``train``; the optimizer's state is carried along.

    Growths fall on optimizer steps (``state.global_step``); a `Plateau` goes by the losses that `Trainer` logs, so its
    window has to be longer than ``logging_steps``. Every checkpoint folder gets a ``growth.json``, and
    ``trainer_state.json`` the schedule's state. `Trainer`
    loads a checkpoint's weights before any callback can act, so to resume, build the model as it was at first, make the
    growths again with ``graftwork.surgery.replay(model, checkpoint_folder)``, and pass it to a new `Trainer` whose
    ``train(resume_from_checkpoint=checkpoint_folder)`` does the rest. A model without them is refused.

    A growth starts the search for the best checkpoint again (``load_best_model_at_end``, `EarlyStoppingCallback`): a
    checkpoint from before holds another structure, which the model at the end can't load. So the best model at the end
    is the best since the last growth, or the last one where no evaluation came after it.

    One process on one device: with several it refuses to start.

    Args:
        schedule: When to grow and how; percentages need its ``total_steps``.
        example_input: One batch as the model's forward takes it, usually a mapping: ``{"input_ids": …}``.
        check: Whether all growths are tried on a copy when the training starts (`GrowthSchedule.check`).
        **along: Passed on to every growth: ``generator`` and ``mirrors`` (see `graftwork.plan`).

    Attributes:
        receipts: What has been grown in this process.

    Example:
        >>> schedule = GrowthSchedule({500: WidenAll(1.5)})  # doctest: +SKIP
        >>> callback = GrowthCallback(schedule, example_input={"input_ids": ids[:4]})  # doctest: +SKIP
        >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
    """

    def __init__(self, schedule: GrowthSchedule, *, example_input: Any, check: bool = True, **along: Any) -> None:
        self._runner = ScheduleRunner(schedule, example_input=example_input, check=check, **along)
        self._key = f"graftwork.{schedule!r}"

    @property
    def receipts(self) -> list[SurgeryReceipt]:
        """Receipts of all growths made in this process."""
        return self._runner.schedule.receipts

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: optim.Optimizer | None = None,
        **_: Any,
    ) -> None:
        """Start the schedule where the training stands."""
        if args.world_size > 1 or args.n_gpu > 1:
            raise ConfigError(
                f"GrowthCallback: expected one process on one device, got {args.world_size} processes on {args.n_gpu} "
                "devices, where wrappers hold the old shapes; train on one device (CUDA_VISIBLE_DEVICES=0), or stop at "
                "the moment, grow, and start the distributed training again"
            )
        for plateau in self._runner.schedule.plateaus:
            if plateau.window <= state.logging_steps:
                raise ConfigError(
                    f"{plateau}: expected a window of more than logging_steps={state.logging_steps}, as Trainer tells "
                    "losses where it logs them; make one of them fit"
                )
        optimizers, saved = [] if optimizer is None else [optimizer], state.stateful_callbacks.get(self._key)
        self._runner.resume(model, state.global_step, optimizers=optimizers, state=saved)
        allow_saving(model)  # beside the log, see `on_save`

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: optim.Optimizer,
        **_: Any,
    ) -> None:
        """Make the growths that are due."""
        grown = self._runner.advance(model, state.global_step, optimizers=[optimizer])
        allow_saving(model)
        self._note(state)
        if grown and state.best_metric is not None:
            _log.info(
                "after %d optimizer steps: the best checkpoint so far (%s) is of the model before it grew; from here "
                "on, the best of the grown model counts",
                state.global_step,
                state.best_model_checkpoint,
            )
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Tell the schedule the loss."""
        if "loss" in logs:
            self._runner.schedule.observe(logs["loss"])
            self._note(state)

    def _note(self, state: TrainerState) -> None:
        """Let the next checkpoint's ``trainer_state.json`` hold the state of the schedule."""
        state.stateful_callbacks[self._key] = self._runner.schedule.state_dict()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """From here on, ``save_pretrained`` refuses again what a config can't say."""
        with Transaction() as transaction:
            refuse_saving(transaction, model, growth_log(model))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Write the log of the growths beside the checkpoint's tensors."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.is_dir():
            save_log(model, folder)
