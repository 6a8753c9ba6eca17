"""Growing inside other people's training loops, beside what else they hang in there."""

import contextlib
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import graftwork as gw
from graftwork.errors import GraftworkError

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_trainer_loads_the_best_model_at_the_end_also_after_a_growth(tmp_path: Path) -> None:
    """The best evaluation came before the growth: shapes differ, and `train` fails after its last step."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from graftwork.integrations.transformers import GrowthCallback

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=30, num_labels=2, max_position_embeddings=16, **sizes)
    data = [{"input_ids": torch.randint(30, (6,)), "labels": torch.tensor(row % 2)} for row in range(32)]
    growth = GrowthCallback(
        gw.GrowthSchedule({6: gw.WidenAll(1.5)}, total_steps=8),
        example_input={"input_ids": torch.randint(30, (2, 6))},
    )
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    evaluations = count()
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=data,
        eval_dataset=data[:8],
        compute_metrics=lambda _: {"score": -float(next(evaluations))},  # the first is the best
        callbacks=[growth],
    )
    with contextlib.suppress(GraftworkError):  # refused is as good
        trainer.train()


def _stochastic(callbacks: Any) -> Any:
    return callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)


def _exponential(callbacks: Any) -> Any:
    return callbacks.EMAWeightAveraging()


@pytest.mark.parametrize("make", [_stochastic, _exponential])
def test_lightning_averages_weights_of_a_model_that_grows(make: Callable[[Any], Any]) -> None:
    """The callback's copy of the model does not grow along, and `fit` fails at the next average."""
    lightning = pytest.importorskip("lightning.pytorch")
    from graftwork.integrations.lightning import GrowthCallback

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, _index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = TensorDataset(torch.randn(32, 4), torch.randint(2, (32,)))
    schedule = gw.GrowthSchedule({9: gw.WidenAll(1.5)}, total_steps=16)
    growth = GrowthCallback(schedule, example_input=torch.randn(2, 4), module="net")
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[growth, make(lightning.callbacks)],
    )
    with contextlib.suppress(GraftworkError):  # refused is as good
        trainer.fit(Lit(), DataLoader(data, batch_size=8))
