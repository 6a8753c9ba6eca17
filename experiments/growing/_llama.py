"""A Llama on bytes under Hugging Face's `Trainer`: trained to a checkpoint, and from there on with a growth."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from experiments.growing._tasks import TextTask, evaluation_mode
from graftwork.integrations.transformers import GrowthCallback
from graftwork.surgery import GrowthSchedule, ModelGrowth, SurgeryReceipt
from graftwork.training import Precision, generator_for

BYTES = 256


class _Watch(TrainerCallback):
    """Measures after every update from one on, growths included."""

    def __init__(self, training: "LlamaTraining", start: int) -> None:
        self._training, self._start = training, start
        self.losses: list[tuple[float, float]] = []

    def on_step_end(self, _: Any, state: Any, *__: Any, model: LlamaForCausalLM, **___: Any) -> None:
        """Note the held-out loss."""
        if state.global_step >= self._start:
            self.losses.append(self._training.held_out(model))


class _Save(TrainerCallback):
    """Asks for one checkpoint."""

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Save at the moment."""
        control.should_save = state.global_step == self._moment


class _Forget(TrainerCallback):
    """The control: at the moment of the growth, the optimizer loses what it has gathered."""

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def on_step_end(self, _: Any, state: Any, __: Any, *, optimizer: Any, **___: Any) -> None:
        """Drop the state."""
        if state.global_step == self._moment:
            optimizer.state.clear()


@dataclass(frozen=True)
class Around:
    """What a training saw from one moment on.

    Attributes:
        held_out: Held-out loss over bytes after every update, and after the growth where it falls on one.
        over_all_tokens: The same with the tokens in the softmax that a growth has added.
        train: Loss of every update on its own batch, before it.
        receipts: Growths.
        parameters: Number of parameters at the end.
    """

    held_out: list[float]
    over_all_tokens: list[float]
    train: list[float]
    receipts: Sequence[SurgeryReceipt]
    parameters: int


@dataclass(frozen=True)
class LlamaTraining:
    """A Llama that learns to predict bytes; constant rate after a warm-up.

    Args:
        task: The bytes, their windows and the rate.
        shape: Options of `LlamaConfig` that set its size.
        seed: Seed of the weights and of the order of batches.
        warmup: Updates of warm-up.
        moment: Number of updates at the growth.
        until: Number of updates at the end.
        watched: Number of updates before the growth that are watched.
        precision: Precision of the products.
    """

    task: TextTask
    shape: Mapping[str, int]
    seed: int
    warmup: int
    moment: int
    until: int
    watched: int
    precision: Precision = "float32"

    def model(self) -> LlamaForCausalLM:
        """A fresh model over bytes."""
        special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = LlamaConfig(vocab_size=BYTES, max_position_embeddings=2 * self.task.context, **special, **self.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return LlamaForCausalLM(config)

    @cached_property
    def _windows(self) -> Tensor:
        text, context = self.task.corpus.validation, self.task.context
        starts = torch.linspace(0, len(text) - context - 1, self.task.windows).to(torch.int64)
        return text[starts[:, None] + torch.arange(context)].to(torch.int64)

    def held_out(self, model: LlamaForCausalLM) -> tuple[float, float]:
        """Loss over bytes, and over all tokens, on windows spread evenly over the validation text; in float32."""
        with evaluation_mode(model), torch.no_grad():
            logits = model(input_ids=self._windows, use_cache=False).logits[:, :-1]
            following = self._windows[:, 1:].flatten()
            bytes_, tokens = (F.cross_entropy(part.flatten(0, 1), following) for part in (logits[..., :BYTES], logits))
        return float(bytes_), float(tokens)

    def _trainer(self, model: LlamaForCausalLM, folder: Path, steps: int, callbacks: list[TrainerCallback]) -> Trainer:
        arguments = TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=self.task.batch_size,
            learning_rate=self.task.lr,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=self.warmup,
            weight_decay=0.01,
            adam_beta2=0.95,
            max_grad_norm=self.task.clip or 0.0,
            bf16=self.precision == "bfloat16",
            seed=self.seed,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        batches = [
            self.task.batch(number)[0] for number in range(self.until)
        ]  # as many always: their order depends on it
        rows = [{"input_ids": row, "labels": row} for batch in batches for row in batch]
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def trunk(self, folder: Path) -> Around:
        """Train until the moment, without a growth.

        Args:
            folder: Gets a checkpoint of the state one update before the moment, from which `go_on` starts.

        Returns:
            What was seen in the last ``watched`` updates, and after the one before them.
        """
        watch = _Watch(self, self.moment - self.watched)
        callbacks = [watch, _Save(self.moment - 1)]
        return _run(self._trainer(self.model(), folder, self.moment, callbacks), watch)

    def go_on(self, folder: Path, growth: ModelGrowth | None, *, carry: bool = True) -> Around:
        """Resume the checkpoint, grow after its next update, and train to the end.

        Args:
            folder: As given to `trunk`.
            growth: None: nothing grows.
            carry: Whether the optimizer's state is kept.

        Returns:
            What was seen from the moment on.
        """
        watch, schedule = _Watch(self, self.moment), GrowthSchedule({} if growth is None else {self.moment: growth})
        example, generator = {"input_ids": self.task.batch(0)[0]}, generator_for("growth", self.seed)
        callback = GrowthCallback(schedule, example_input=example, generator=generator)
        callbacks = [callback, *([] if carry else [_Forget(self.moment)]), watch]
        trainer = self._trainer(self.model(), folder, self.until, callbacks)
        return _run(trainer, watch, callback.receipts, folder / f"checkpoint-{self.moment - 1}")


def _run(
    trainer: Trainer, watch: _Watch, receipts: Sequence[SurgeryReceipt] = (), checkpoint: Path | None = None
) -> Around:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers: about the machine, and about max_steps
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    train = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    over_bytes, over_all = map(list, zip(*watch.losses, strict=True))
    return Around(over_bytes, over_all, train[-len(over_all) :], receipts, trainer.model.num_parameters())
