"""Siblings of the cases of `test_door1`, so that no case was mended for its own input alone.

The kinds that are not here have theirs beside what they test: numbers of norms (`surgery/test_attributes.py`), layers
that make channels (`operations/test_products.py`), what a forward fills (`test_snapshot.py`), layers like one that is
there (`growths/test_insert_layers.py`), scripting (`test_deepen.py`), transforms (`operations/test_fourier.py`), and
Lightning's averages (`integrations/test_lightning.py`).
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import SurgeryError

MASK = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()


# Padded rows in stock encoders, which run them as nested tensors -----------------------------------------------------


class _Padded(nn.Module):
    """Finds its mask itself: rows of zeros are padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=(x == 0).all(2))  # type: ignore[no-any-return]


def _encoder(**options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options), 2).eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("growth", "options"),
    [
        (gw.Widen("encoder.layers.0.linear1", extra=4), {"activation": "gelu"}),
        (gw.WidenAll(1.5), {}),
        (gw.Deepen("encoder.layers.0.linear1"), {}),
        (gw.Deepen("encoder.layers.1"), {}),
        (gw.InsertLayers("encoder.layers", count=1), {}),
        (gw.InsertLayers("encoder.layers", count=1), {"norm_first": True}),
    ],
    ids=str,
)
def test_an_encoder_that_pads_grows_or_is_refused_and_still_runs(growth: Any, options: dict[str, Any]) -> None:
    model, x = _Padded(_encoder(**options)), torch.randn(2, 5, 16).masked_fill(MASK.unsqueeze(2), 0.0)
    with torch.no_grad():
        before = model(x)
        with contextlib.suppress(SurgeryError):  # refused is as good
            gw.grow(model, growth, example_input=x)
        torch.testing.assert_close(model.eval()(x)[~MASK], before[~MASK], atol=1e-5, rtol=1e-4)


# Optimizers that step in the backward pass ---------------------------------------------------------------------------


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))  # type: ignore[no-any-return]


def _stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Sequential(_Residual(), _Residual()), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("growth", "kind", "options"),
    [
        (gw.InsertLayers("1", count=1), "AdamW", {"lr": 1e-3}),
        (gw.WidenStream(1.5), "RMSprop", {"lr": 1e-3}),
        (gw.WidenOutputs("2", 2), "SGD", {"lr": 1e-2, "momentum": 0.9}),
        (gw.Widen("1.0.up", extra=4), "Adamax", {"lr": 1e-3}),
    ],
    ids=str,
)
def test_new_parameters_step_in_the_backward_pass_too(growth: Any, kind: str, options: dict[str, Any]) -> None:
    model, x = _stack(), torch.randn(5, 4)
    optimizers = {parameter: getattr(torch.optim, kind)([parameter], **options) for parameter in model.parameters()}

    def step(parameter: Any) -> None:
        owner = next(o for o in optimizers.values() if any(p is parameter for p in o.param_groups[0]["params"]))
        owner.step()
        owner.zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]
    model(x).pow(2).sum().backward()
    gw.grow(model, growth, example_input=x, optimizer=list(optimizers.values()))
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(3):
        model(x).pow(2).sum().backward()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, old[name])] == []
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []


# The best model at the end -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("steps", "at"), [(7, 6), (8, 8)], ids=["no evaluation after", "at the end"])
def test_training_ends_whenever_the_growth_is_and_wherever_the_best_model_was(
    steps: int, at: int, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from graftwork.integrations.transformers import GrowthCallback

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=30, num_labels=2, max_position_embeddings=16, **sizes)
    data = [{"input_ids": torch.randint(30, (6,)), "labels": torch.tensor(row % 2)} for row in range(16)]
    growth = GrowthCallback(
        gw.GrowthSchedule({at: gw.WidenAll(1.5, only="*.intermediate.*", check="fast")}, total_steps=steps),
        example_input={"input_ids": torch.randint(30, (2, 6))},
    )
    given = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    given |= {"load_best_model_at_end": True, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=steps, per_device_train_batch_size=4, **given)
    model = transformers.BertForSequenceClassification(config)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[growth])
    trainer.train()
    assert (trainer.state.global_step, len(growth.receipts), model.config.intermediate_size) == (steps, 1, 48)
