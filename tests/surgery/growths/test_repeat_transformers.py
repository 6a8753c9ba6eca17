"""Heads and experts of Hugging Face models: caches work, files build the same model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.surgery import (
    AddSharedExpert,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    SurgeryReceipt,
    grow,
    widen_all,
)
from tests.surgery.growths.hugging import IDS, TEXT, USES, again, build, logits, measured

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {**TEXT, "num_hidden_layers": 1, "num_attention_heads": 4}
GROUPED = {**TEXT, "num_key_value_heads": 2}
SPARSE = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
INPUT = {"input_ids": IDS}


def _many(cases: dict[str, Any], *, fast: tuple[str, ...]) -> list[Any]:
    """All cases, of which some run always."""
    return [
        pytest.param(*case, id=name, marks=() if name in fast else pytest.mark.slow) for name, case in cases.items()
    ]


def _grown(model: Any, growth: ModelGrowth, **more: Any) -> SurgeryReceipt:
    before = logits(model)
    receipt = grow(model, growth, example_input=INPUT, **more)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert set(receipt.gaps) >= ({"left padding", "right padding"} if "Granite" in type(model).__name__ else USES)
    return receipt


def _eager(kind: str, options: dict[str, Any]) -> Any:
    """A model in double precision; the grouped product of experts takes none."""
    model = build(f"{kind}ForCausalLM", f"{kind}Config", options)
    model.set_experts_implementation("eager")
    return model


def _comes_back(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    built = type(model).from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
    assert list(built.state_dict()) == list(model.state_dict())
    assert torch.equal(logits(copy.deepcopy(built)), logits(model))


HEADS = {
    "llama": ("Llama", GROUPED, 1e-14),
    "one head": ("Llama", {**TEXT, "num_key_value_heads": 1}, 1e-14),
    "biases": ("Qwen2", GROUPED, 1e-14),
    "norms": ("Qwen3", {**GROUPED, "head_dim": 8}, 1e-14),
    "a norm of all": ("Olmo2", GROUPED, 1e-6),  # a mean over twice as many entries may be rounded otherwise
    "fused": ("Phi3", GROUPED, 1e-14),  # one weight makes queries, keys and values
}


@pytest.mark.parametrize(("kind", "options", "gap"), _many(HEADS, fast=("llama", "fused")))
def test_heads_of_keys_are_repeated_under_the_same_queries(
    kind: str, options: dict[str, Any], gap: float, tmp_path: Path
) -> None:
    model = build(f"{kind}ForCausalLM", f"{kind}Config", options)
    old = model.config
    receipt = _grown(model, RepeatKeyValueHeads(2))
    assert receipt.largest_gap <= gap
    assert not any("o_proj" in change.name or "q_proj" in change.name for change in receipt.tensors)
    assert model.config.num_key_value_heads == 2 * options["num_key_value_heads"] == 2 * old.num_key_value_heads
    assert torch.equal(logits(again(model, tmp_path)), logits(model))


@pytest.mark.slow
def test_heads_of_queries_are_repeated_along_by_another_growth(tmp_path: Path) -> None:
    model = build("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 4, "head_dim": 6})
    before = logits(model)
    widen_all(model, 2, only="*.q_proj", axis=0, method="net2net", example_input=INPUT)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-9)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (8, 8)
    assert torch.equal(logits(again(model, tmp_path)), logits(model))


DEEPSEEK = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 0}
DEEPSEEK |= {"q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
DEEPSEEK = {**SPARSE, "num_key_value_heads": 4} | DEEPSEEK
ROUTERS = {
    "softmax, the best, normalised": ("Mixtral", {**SPARSE, "num_local_experts": 4}),
    "softmax, the best": ("Olmoe", {**SPARSE, "num_experts": 4, "norm_topk_prob": False}),
    "beside a shared expert": ("Qwen2Moe", {**SPARSE, "num_experts": 4, "shared_expert_intermediate_size": 8}),
    "the best, softmax, biases": ("GptOss", {**SPARSE, "num_local_experts": 4, "head_dim": 8}),
    "sigmoid in groups, normalised": ("DeepseekV3", DEEPSEEK),
    "sigmoid": ("DeepseekV3", {**DEEPSEEK, "norm_topk_prob": False}),
}


@pytest.mark.parametrize(("kind", "options"), _many(ROUTERS, fast=("sigmoid in groups, normalised",)))
def test_twice_as_many_experts_with_twice_as_many_chosen_are_the_same_mixture(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = _eager(kind, options)
    receipt = _grown(model, RepeatExperts(2))
    assert receipt.largest_gap <= 1e-6
    assert model.config.num_experts_per_tok == 4
    alone = kind == "DeepseekV3" and not options.get("norm_topk_prob", True)
    assert any("multiplied by 0.5" in note for note in receipt.notes) == alone
    _comes_back(model, tmp_path)


def test_the_loss_that_balances_experts_stays_what_it_was() -> None:
    """In single precision and the grouped product, as transformers has it by default."""
    model = build("MixtralForCausalLM", "MixtralConfig", {**SPARSE, "num_local_experts": 4}, torch.float32)
    old, inputs = model.config, {**INPUT, "labels": IDS, "output_router_logits": True}
    before = model(**inputs)
    assert _grown(model, RepeatExperts(3)).largest_gap <= 2e-5
    after = model(**inputs)
    torch.testing.assert_close(after.aux_loss, 3 * before.aux_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-5, atol=0)
    assert model.config.router_aux_loss_coef == pytest.approx(old.router_aux_loss_coef / 3)


ERNIE = {**GROUPED, "moe_intermediate_size": 12, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0}
SHARED = {
    "a module of its own": ("Ernie4_5_Moe", {**ERNIE, "moe_num_shared_experts": 0}, 2),
    "a width": ("GraniteMoeShared", {**SPARSE, "num_local_experts": 4, "shared_intermediate_size": 0}, 12),
    "empty modules": ("DeepseekV3", {**DEEPSEEK, "n_shared_experts": 0}, 1),
    "a gate": ("Qwen2Moe", {**SPARSE, "num_experts": 4, "shared_expert_intermediate_size": 0}, 8),
}


@pytest.mark.parametrize(("kind", "options", "size"), _many(SHARED, fast=("a module of its own",)))
def test_a_shared_expert_starts_at_zero_and_learns(
    kind: str, options: dict[str, Any], size: int, tmp_path: Path
) -> None:
    model = _eager(kind, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**INPUT, labels=IDS).loss.backward()
    optimizer.step()
    receipt = _grown(model, AddSharedExpert(size), optimizer=optimizer)
    assert receipt.largest_gap == 0.0
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    _comes_back(model, tmp_path)
    new = {change.name: model.get_parameter(change.name).detach().clone() for change in receipt.tensors}
    for _ in range(2):
        optimizer.zero_grad()
        model(**INPUT, labels=IDS).loss.backward()
        optimizer.step()
    assert all(not torch.equal(model.get_parameter(name), held) for name, held in new.items())


@pytest.mark.slow
@pytest.mark.parametrize(("column", "exact"), [("heads of keys, doubled", 20), ("experts, doubled", 3)])
def test_no_architecture_of_the_table_becomes_another_function(
    column: str, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, list[str]] = {}
    for name, _, row in measured(column, monkeypatch):
        found.setdefault(row["outcome"], []).append(name)
    assert "WRONG" not in found
    assert len(found["exact"]) >= exact, found
