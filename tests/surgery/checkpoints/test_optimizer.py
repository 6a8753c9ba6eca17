"""The state of an optimizer grows with its checkpoint, in the positions that a training of the grown model has."""

from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.surgery.checkpoints import Sizes, grow_checkpoint, plan_checkpoint
from tests.surgery.checkpoints.folders import IDS, TOKENS, gpt2, grown, llama, optimizer_of, saved, transformers

pytestmark = pytest.mark.filterwarnings("ignore")


def test_an_optimizers_state_is_carried_as_in_a_live_training(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old")
    optimizer = optimizer_of(model, TOKENS)
    torch.save(optimizer.state_dict(), source / "optimizer.pt")
    plan = plan_checkpoint(source, Sizes(layers="+1", mlp=1.5))
    receipt = grow_checkpoint(plan, tmp_path / "new", optimizer=source / "optimizer.pt")
    assert receipt.optimizer_state > len(list(model.parameters()))
    for growth in plan.growths:
        gw.grow(model, growth, example_input=TOKENS, optimizer=optimizer)
    wanted, found = optimizer.state_dict(), torch.load(tmp_path / "new" / "optimizer.pt", weights_only=True)
    assert found["param_groups"] == wanted["param_groups"]
    assert found["state"].keys() == wanted["state"].keys()
    for position, entry in wanted["state"].items():
        assert all(torch.equal(found["state"][position][key], value) for key, value in entry.items()), position


def test_trainer_resumes_from_the_grown_folder(tmp_path: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    common = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_steps": 2, "eval_strategy": "steps"}
    common |= {"eval_steps": 2, "load_best_model_at_end": True, "weight_decay": 0.1}

    def trainer(model: Any, steps: int) -> Any:
        arguments = transformers.TrainingArguments(str(tmp_path / "run"), max_steps=steps, **common)
        return transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)

    trainer(llama(num_hidden_layers=1), 2).train()
    source = tmp_path / "run" / "checkpoint-2"
    grown(source, tmp_path / "new", Sizes(layers="+1", vocab=70), optimizer=source / "optimizer.pt")
    again = trainer(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new"), 4)
    optimizer = again.create_optimizer()
    optimizer.load_state_dict(torch.load(tmp_path / "new" / "optimizer.pt", weights_only=True))
    for parameter in again.model.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    old = torch.load(source / "optimizer.pt", weights_only=True)["state"]
    moments = optimizer.state[again.model.model.embed_tokens.weight]["exp_avg"]
    assert torch.equal(moments[:64], old[0]["exp_avg"])
    again.train(resume_from_checkpoint=str(tmp_path / "new"))
    assert again.state.global_step == 4
    assert len(again.optimizer.state) == len(list(again.model.parameters()))
    assert str(again.state.best_model_checkpoint).endswith("checkpoint-4")


@pytest.mark.slow
def test_momentum_and_unknown_optimizers_are_carried_too(tmp_path: Path) -> None:
    model = gpt2(n_layer=1)
    source = saved(model, tmp_path / "old")
    shapes = [parameter.shape for parameter in model.parameters()]
    for key in ("momentum_buffer", "direction"):
        state = {i: {key: torch.randn(shape)} for i, shape in enumerate(shapes)}
        groups = [{"lr": 0.1, "params": list(range(len(shapes)))}]
        torch.save({"state": state, "param_groups": groups}, source / f"{key}.pt")
        grown(source, tmp_path / key, Sizes(mlp=1.5), optimizer=source / f"{key}.pt")
        found = torch.load(tmp_path / key / "optimizer.pt", weights_only=True)
        sizes = [tuple(p.shape) for p in transformers.GPT2LMHeadModel.from_pretrained(tmp_path / key).parameters()]
        assert [tuple(found["state"][i][key].shape) for i in range(len(sizes))] == sizes
        for i, shape in enumerate(shapes):
            assert torch.equal(found["state"][i][key][tuple(map(slice, shape))], state[i][key])
