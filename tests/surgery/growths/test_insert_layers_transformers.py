"""Whole layers in Hugging Face models: numbers and configs follow, caches work, files build the same model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import Deepen, InsertLayers, SurgeryReceipt, grow, plan
from tests.surgery.growths.hugging import IDS, TEXT, USES, again, build, logits, measured

pytestmark = pytest.mark.filterwarnings("ignore")

DEEP = {**TEXT, "num_hidden_layers": 3}
GEMMA = {**DEEP, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4}
GPT = {
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4}


def _llama(**more: Any) -> nn.Module:
    return build("LlamaForCausalLM", "LlamaConfig", {**DEEP, "num_key_value_heads": 1, **more})


def _grown(model: nn.Module, stack: str, **options: Any) -> SurgeryReceipt:
    return grow(model, InsertLayers(stack, **options), example_input={"input_ids": IDS})


@pytest.mark.parametrize(
    ("kind", "config", "options", "stack"),
    [
        ("LlamaForCausalLM", "LlamaConfig", {**DEEP, "num_key_value_heads": 1}, "model.layers"),
        pytest.param("GPT2LMHeadModel", "GPT2Config", GPT, "transformer.h", marks=pytest.mark.slow),
        pytest.param("Gemma2ForCausalLM", "Gemma2Config", GEMMA, "model.layers", marks=pytest.mark.slow),
    ],
    ids=["llama", "gpt2", "gemma2"],
)
def test_a_decoder_grows_exactly_and_its_files_build_the_same_model(
    kind: str, config: str, options: dict[str, Any], stack: str, tmp_path: Path
) -> None:
    model = build(kind, config, options)
    old = model.config
    before, described = logits(model), copy.deepcopy(old.to_dict())
    tokens = model.generate(IDS, max_new_tokens=3, do_sample=False)
    receipt = _grown(model, stack, after=(0, 2))
    assert set(receipt.gaps) >= USES
    assert receipt.largest_gap == 0.0
    assert torch.equal(logits(model), before)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, do_sample=False), tokens)
    assert model.config.num_hidden_layers == 5
    assert old.to_dict() == described  # whoever holds the config may build the model as it was
    numbers = [m.layer_idx for m in model.get_submodule(stack).modules() if hasattr(m, "layer_idx")]
    assert sorted(set(numbers)) == [0, 1, 2, 3, 4]
    assert numbers == sorted(numbers)
    assert torch.equal(logits(again(model, tmp_path)), before)


def test_kinds_of_layers_follow_their_originals() -> None:
    model = build("Gemma2ForCausalLM", "Gemma2Config", GEMMA)
    kinds = list(model.config.layer_types)
    _grown(model, "model.layers", after=(1,))
    assert model.config.layer_types == [kinds[0], kinds[1], kinds[1], kinds[2]]
    windows = [layer.self_attn.sliding_window for layer in model.model.layers]
    assert windows == [4, None, None, 4]


def test_twins_are_not_made_of_a_half_of_partly_rotated_heads() -> None:
    model = build("PersimmonForCausalLM", "PersimmonConfig", DEEP)  # queries, keys and values in one packed projection
    before = logits(model)
    receipt = _grown(model, "model.layers", after=(0,), init="r2r")
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-12)
    assert receipt.largest_gap <= 1e-12


def test_layers_that_alternate_are_refused_one_by_one_and_grow_in_pairs() -> None:
    model = build("SwinForImageClassification", "SwinConfig", SWIN)
    stack, x = "swin.encoder.layers.0.blocks", {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    with pytest.raises(NotPreservedError, match=r"alternate in \['shift_size'\]: insert as many"):
        grow(model, InsertLayers(stack, after=(0,)), example_input=x)
    receipt = grow(model, InsertLayers(stack, after=(1, 1)), example_input=x)
    assert receipt.largest_gap == 0.0
    assert [block.shift_size for block in model.get_submodule(stack)] == [0, 2, 0, 2]
    assert model.config.depths == [4]


def test_a_model_that_computes_with_the_number_of_a_layer_is_refused_by_name() -> None:
    model = build("GPT2LMHeadModel", "GPT2Config", {**GPT, "scale_attn_by_inverse_layer_idx": True})
    with pytest.raises(NotPreservedError, match=r"computes with \['layer_idx'\]"):
        _grown(model, "transformer.h", after=(0,))
    assert model.config.n_layer == 3
    assert _grown(model, "transformer.h", after=-1).largest_gap == 0.0


def test_the_first_block_of_t5_is_not_what_is_copied_behind_it() -> None:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2}
    model = build("T5ForConditionalGeneration", "T5Config", {**sizes, "num_heads": 2})
    example = {"input_ids": IDS, "decoder_input_ids": IDS}
    planned = plan(model, InsertLayers("decoder.block", after=(0,)), example_input=example)
    assert "decoder.block.1: a copy of decoder.block.1" in str(planned)
    assert planned.apply().largest_gap == 0.0
    assert model.config.num_decoder_layers == model.decoder.config.num_layers == 3
    assert model.config.num_layers == 2
    assert "relative_attention_bias" not in str(list(dict(model.decoder.block[1].named_parameters())))


@pytest.mark.slow
def test_a_deeper_encoder_of_t5_leaves_the_count_of_its_decoder() -> None:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2}
    model = build("T5ForConditionalGeneration", "T5Config", {**sizes, "num_heads": 2})
    grow(model, InsertLayers("encoder.block", after=-1), example_input={"input_ids": IDS, "decoder_input_ids": IDS})
    assert (model.config.num_layers, model.config.num_decoder_layers) == (3, 2)
    rebuilt = type(model)(type(model.config).from_dict(model.config.to_dict()))
    assert rebuilt.state_dict().keys() == model.state_dict().keys()


def test_copies_that_share_a_slot_of_the_cache_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from graftwork.surgery.growths import _new_layers

    monkeypatch.setattr(_new_layers, "set_numbers", lambda *_: None)
    for options in ({}, {"init": "copy", "approximate": True}):
        model = _llama()
        with pytest.raises(SurgeryError, match=r"cache|not train|put back"):
            _grown(model, "model.layers", after=(0,), **options)
        assert len(model.model.layers) == 3
        assert model.config.num_hidden_layers == 3


def test_deepening_like_a_layer_is_an_insertion() -> None:
    model = _llama()
    before = logits(model)
    growth = Deepen("model.layers.1", like="model.layers.0")
    receipt = grow(model, growth, example_input={"input_ids": IDS})
    assert torch.equal(logits(model), before)
    assert receipt.site == "model.layers.2"
    assert torch.equal(model.model.layers[2].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


def test_bert_is_refused_as_post_norm() -> None:
    model = build("BertForMaskedLM", "BertConfig", DEEP)
    with pytest.raises(SurgeryError, match="post-norm"):
        _grown(model, "bert.encoder.layer", count=1)


@pytest.mark.slow
def test_every_architecture_of_the_table_is_exact_or_refused_for_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    for name, one, row in measured("insert layers", monkeypatch):
        assert row["outcome"] == ("refused" if one.refused else "exact"), (name, row)
        assert one.refused in row.get("reason", ""), (name, row)
        seen += 1
    assert seen >= 55
