"""Growing inside Hugging Face's Trainer, against the real package: state carried, resume equal to the bit."""

import warnings
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen, WidenOutputs, replay

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from graftwork.integrations.transformers import GrowthCallback

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.randint(20, (64, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row} for row in IDS]
UP = "transformer.h.0.mlp.c_fc"


def _model() -> Any:
    torch.manual_seed(0)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **none, bos_token_id=0, eos_token_id=0))


def _trainer(
    model: Any,
    folder: Path,
    steps: int = 12,
    *,
    schedule: GrowthSchedule | None = None,
    check: bool = False,
    **given: Any,
) -> tuple[Any, Any]:
    schedule = schedule or GrowthSchedule({3: Widen(UP, factor=1.25), 7: Deepen("transformer.h.0.mlp")})
    callback = GrowthCallback(schedule, example_input={"input_ids": IDS[:3]}, check=check)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="steps",
        **{"save_steps": 5, "logging_steps": 1, **given},
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA[:8], callbacks=[callback])
    return trainer, callback


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model that was trained through both growths without interruption, and the folder of its checkpoints."""
    model, folder = _model(), tmp_path_factory.mktemp("straight")
    trainer, _ = _trainer(model, folder)
    trainer.train()
    return model, folder


def test_a_vocabulary_that_grew_trains_on_its_new_tokens(tmp_path: Path) -> None:
    model = _model()
    trainer, _ = _trainer(model, tmp_path, steps=6)
    schedule = GrowthSchedule({3: WidenOutputs(None, 4, init="mean")})
    trainer.pop_callback(GrowthCallback)
    trainer.add_callback(GrowthCallback(schedule, example_input={"input_ids": IDS[:3]}, check=False))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6
    assert losses[3] < losses[2] + 0.3  # one more class of average logit changes the softmax by little
    assert model.config.vocab_size == 24
    assert model(input_ids=IDS + 4, labels=IDS + 4).loss.isfinite()
    again = type(model).from_pretrained(_saved(trainer, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def _saved(trainer: Any, folder: Path) -> Path:
    trainer.save_model(str(folder / "final"))
    return folder / "final"


def test_it_grows_on_schedule_and_carries_the_wrapped_optimizer(tmp_path: Path) -> None:
    model = _model()
    trainer, callback = _trainer(model, tmp_path, 9, gradient_accumulation_steps=2, check=True)
    trainer.train()
    assert [receipt.kind for receipt in callback.receipts] == ["widen", "deepen"]
    assert callback.receipts[0].optimizer_state
    assert max(receipt.largest_gap for receipt in callback.receipts) < 2e-5
    weight = model.transformer.h[0].mlp.c_fc.weight
    assert weight.shape == (8, 40)
    state = trainer.optimizer.state[weight]
    assert state["exp_avg"].shape == weight.shape
    assert int(state["step"]) == 9
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters()}
    assert (tmp_path / "checkpoint-5" / "growth.json").is_file()
    with pytest.raises(SurgeryError, match="save_pretrained"):  # without the log it could not be read
        trainer.save_model(str(tmp_path / "final"))


@pytest.mark.parametrize("stop", [5, 10])
def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(
    stop: int, straight: tuple[Any, Path], tmp_path: Path
) -> None:
    """Also where it checks the growths that are to come, and the other one has not."""
    uninterrupted, folder = straight
    checkpoint = folder / f"checkpoint-{stop}"
    resumed = _model()
    replay(resumed, checkpoint)
    trainer, callback = _trainer(resumed, tmp_path, check=True)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert len(callback.receipts) == (1 if stop == 5 else 0)
    ours, theirs = resumed.state_dict(), uninterrupted.state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_training_resumes_between_the_windows_of_a_plateau(tmp_path: Path) -> None:
    def schedule() -> GrowthSchedule:
        return GrowthSchedule({Plateau(3, threshold=0.5): Widen(UP, factor=1.25)})  # the loss is not halved so soon

    straight = _model()
    trainer, callback = _trainer(straight, tmp_path / "run", schedule=schedule())
    trainer.train()
    assert len(callback.receipts) == 1
    resumed = _model()
    trainer, callback = _trainer(resumed, tmp_path / "again", schedule=schedule())
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert len(callback.receipts) == 1
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), straight.parameters(), strict=True))


def test_a_window_that_is_no_longer_than_the_logs_of_trainer_is_refused_at_the_start(tmp_path: Path) -> None:
    """At the end of step 5, `Trainer` tells of the step before it logs its loss."""
    schedule = GrowthSchedule({Plateau(6): Widen(UP, factor=1.25), Plateau(5): Widen(UP, factor=1.25)})
    trainer, _ = _trainer(_model(), tmp_path, schedule=schedule, logging_steps=5)
    with pytest.raises(ConfigError, match=r"window=5.*logging_steps=5"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_resuming_a_model_without_its_growths_is_an_error(straight: tuple[Any, Path], tmp_path: Path) -> None:
    trainer, _ = _trainer(_model(), tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer.train(resume_from_checkpoint=str(straight[1] / "checkpoint-5"))
    # Where only blocks were grafted, Trainer itself would load on and leave them out.
    trainer, callback = _trainer(_model(), tmp_path)
    trainer.state.global_step = 5
    with pytest.raises(ConfigError, match="replay"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)


@pytest.mark.parametrize(("every", "best"), [(4, 8), pytest.param(6, 10, marks=pytest.mark.slow)])
def test_the_best_model_at_the_end_is_the_best_since_the_last_growth(every: int, best: int, tmp_path: Path) -> None:
    model, scores = _model(), count()
    given = {"eval_strategy": "steps", "eval_steps": every, "save_steps": every, "load_best_model_at_end": True}
    trainer, callback = _trainer(
        model, tmp_path, 10, **given, metric_for_best_model="score", greater_is_better=True, save_total_limit=1
    )
    trainer.compute_metrics = lambda _: {"score": -next(scores)}  # the first is the best
    trainer.train()
    assert [receipt.kind for receipt in callback.receipts] == ["widen", "deepen"]
    assert trainer.state.best_global_step == best
    saved, own = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors"), model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items())


def test_several_processes_are_refused(tmp_path: Path) -> None:
    trainer, callback = _trainer(_model(), tmp_path)

    class Two:
        world_size, n_gpu = 2, 0

    with pytest.raises(ConfigError, match="one device"):
        callback.on_train_begin(Two(), trainer.state, trainer.control, model=trainer.model)
