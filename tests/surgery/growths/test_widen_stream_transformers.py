"""Wider Hugging Face models: configs follow, caches work, files build the same model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import ModelGrowth, SurgeryReceipt, WidenAll, WidenStream, grow, plan
from tests.surgery.growths.hugging import IDS, TEXT, USES, again, build, logits, measured

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {**TEXT, "num_hidden_layers": 1}
GROUPED = {**TEXT, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}
GPT = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}


def _grown(model: nn.Module, growth: ModelGrowth) -> SurgeryReceipt:
    before = logits(model)
    receipt = grow(model, growth, example_input={"input_ids": IDS})
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    return receipt


def _comes_back(model: nn.Module, folder: Path) -> None:
    assert torch.equal(logits(again(model, folder)), logits(model))


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_llama_grows_and_its_files_build_the_same_model(tied: bool, tmp_path: Path) -> None:
    model = build("LlamaForCausalLM", "LlamaConfig", {**GROUPED, "tie_word_embeddings": tied})
    old, tokens = model.config, model.generate(IDS, max_new_tokens=3, do_sample=False)
    described = copy.deepcopy(old.to_dict())
    receipt = _grown(model, WidenStream(1.5))
    assert set(receipt.gaps) >= USES
    assert any("in double" in note for note in receipt.notes)  # its norms compute in single precision
    assert old.to_dict() == described  # whoever holds the config may build the model as it was
    config = model.config
    assert (config.hidden_size, config.head_dim, config.num_attention_heads) == (24, 8, 2)
    assert config.rms_norm_eps == model.model.norm.variance_epsilon == pytest.approx(old.rms_norm_eps / 1.5)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, do_sample=False), tokens)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    _comes_back(model, tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "kept"),
    [
        # one eps for norms of the stream, and of queries and keys
        pytest.param("Qwen3", HEADS, "rms_norm_eps", marks=pytest.mark.slow),
        (
            "Gemma2",
            {**HEADS, "sliding_window": 4},
            "",
        ),  # root of the width, gains stored as 1 + w
        pytest.param("Nemotron", HEADS, "", marks=pytest.mark.slow),  # LayerNorm whose gain is stored as 1 + w
        ("Olmo", GROUPED, ""),  # LayerNorm without gain, its eps in the code
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_forward_computes_from_the_width_is_followed(
    kind: str, options: dict[str, Any], kept: str, tmp_path: Path
) -> None:
    model = build(f"{kind}ForCausalLM", f"{kind}Config", options)
    old = copy.deepcopy(model.config)
    _grown(model, WidenStream(to=24))
    assert model.config.hidden_size == 24
    if kept:
        assert getattr(model.config, kept) == getattr(old, kept)
    _comes_back(model, tmp_path)


def test_one_call_makes_a_model_of_the_next_size(tmp_path: Path) -> None:
    model = build("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2})
    receipt = _grown(model, WidenAll(1.5, width=1.5))
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (24, 36, 4)
    assert (config.num_attention_heads, config.num_key_value_heads) == (6, 3)
    assert receipt.growth.to_dict()["width"] == 1.5
    _comes_back(model, tmp_path)


def test_query_heads_grow_under_one_key_head(tmp_path: Path) -> None:
    model = build("LlamaForCausalLM", "LlamaConfig", GROUPED)
    _grown(model, WidenAll(2, width=1.5))
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.hidden_size) == (4, 1, 24)
    _comes_back(model, tmp_path)


def test_heads_grow_along_where_a_config_ties_them_to_the_width(tmp_path: Path) -> None:
    model = build("GPT2LMHeadModel", "GPT2Config", GPT)
    text = str(plan(model, WidenStream(1.5), example_input={"input_ids": IDS}))
    assert "config.n_head: 2 → 3" in text
    assert "config.n_inner: None → 64" in text
    assert _grown(model, WidenStream(1.5)).largest_gap <= 1e-10
    assert model.transformer.h[0].attn.head_dim == 8
    _comes_back(model, tmp_path)
    with pytest.raises(SurgeryError, match="multiple of the width of heads"):
        plan(model, WidenStream(to=26), example_input={"input_ids": IDS})


@pytest.mark.slow
def test_a_stream_that_is_returned_beside_logits_may_be_wider() -> None:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    model = build("T5ForConditionalGeneration", "T5Config", {**sizes, "decoder_start_token_id": 0})
    example = {"input_ids": IDS, "decoder_input_ids": IDS}
    with torch.no_grad():
        before = model(**example)
    receipt = grow(model, WidenStream(1.5), example_input=example)
    with torch.no_grad():
        after = model(**example)
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=1e-5)
    assert after.encoder_last_hidden_state.shape[-1] == 24
    assert {part.config.d_model for part in (model, model.encoder, model.decoder)} == {24}
    assert not after.encoder_last_hidden_state[..., 16:].any()
    assert any("returns the stream itself" in note for note in receipt.notes)


HEADS_OF_THEIR_OWN = {
    # an RMSNorm runs over all heads of the queries, and one over those of the keys
    "Olmoe": {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 2, "num_experts_per_tok": 1},
    # a gated RMSNorm runs over all heads; one projection makes what is normed, the gate and more
    "Mamba2": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "num_heads": 4,
               "head_dim": 8, "n_groups": 1, "chunk_size": 4, "pad_token_id": 0},
    "Falcon": {**TEXT, "num_attention_heads": 4},  # the heads of keys and values are picked by an index from the end
    "CodeGen": {**GPT, "n_head": 4, "rotary_dim": 2},  # queries, values and keys lie in four parts, however wide
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "Mamba2",
        "CodeGen",
        pytest.param("Olmoe", marks=pytest.mark.slow),
        pytest.param("Falcon", marks=pytest.mark.slow),
    ],
)
def test_heads_follow_the_width_as_the_forward_deals_them_out(kind: str, tmp_path: Path) -> None:
    options = HEADS_OF_THEIR_OWN[kind]
    # The grouped product of experts takes no doubles.
    model = build(f"{kind}ForCausalLM", f"{kind}Config", options, torch.float32 if kind == "Olmoe" else torch.float64)
    before = logits(model)
    receipt = grow(model, WidenStream(1.5), example_input={"input_ids": IDS})
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)  # norms compute in single precision
    assert receipt.largest_gap <= 2e-5
    assert model.config.hidden_size == 24
    if kind != "CodeGen":  # its table of sines is made anew, in single precision
        _comes_back(model, tmp_path)


def test_a_row_of_a_fused_projection_stands_where_the_wider_forward_reads_it() -> None:
    model = build("CodeGenForCausalLM", "CodeGenConfig", HEADS_OF_THEIR_OWN["CodeGen"])
    old = model.transformer.h[0].attn.qkv_proj.weight.detach().clone()
    grow(model, WidenStream(1.5), example_input={"input_ids": IDS})
    new = model.transformer.h[0].attn.qkv_proj.weight[:, :16]
    # Four parts of 4 queries, 4 values and 4 keys become four parts of 6 each; query 10 is the fourth of the second.
    assert torch.equal(new.view(4, 3, 6, 16).transpose(0, 1).reshape(3, 24, 16)[:, :16],
                       old.view(4, 3, 4, 16).transpose(0, 1).reshape(3, 16, 16))  # fmt: skip


@pytest.mark.slow
def test_copies_of_heads_train_where_zeros_can_not() -> None:
    options = {**HEADS_OF_THEIR_OWN["Olmoe"], "num_key_value_heads": 4}
    model = build("OlmoeForCausalLM", "OlmoeConfig", options, torch.float32)
    with pytest.raises(SurgeryError, match="would not train"):  # queries and keys of new heads would both be zero
        grow(model, WidenStream(1.5), example_input={"input_ids": IDS})
    assert _grown(model, WidenStream(2.0)).method == "copies"


def test_heads_get_wider_where_their_number_says_how_they_attend() -> None:
    model = build("BloomForCausalLM", "BloomConfig", {**TEXT, "n_layer": 1, "n_head": 2})
    receipt = _grown(model, WidenStream(2.0))
    assert receipt.largest_gap <= 1e-10
    assert (model.config.n_head, model.transformer.h[0].self_attention.head_dim) == (2, 16)


@pytest.mark.slow
def test_a_pooling_head_grows_with_the_stream(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = build("SiglipVisionModel", "SiglipVisionConfig", {**sizes, "image_size": 8, "patch_size": 4})
    example = {"pixel_values": torch.randn(2, 3, 8, 8, dtype=torch.float64)}
    with torch.no_grad():
        before = model(**example)
    receipt = grow(model, WidenStream(1.5), example_input=example)
    with torch.no_grad():
        after = model(**example)
    assert receipt.largest_gap <= 1e-10
    assert model.head.attention.num_heads == 3
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(after[name][..., :16], before[name], rtol=0, atol=1e-12)


def test_a_model_without_a_head_returns_a_wider_stream() -> None:
    model = build("LlamaModel", "LlamaConfig", GROUPED)
    with torch.no_grad():
        before = model(IDS).last_hidden_state
    receipt = grow(model, WidenStream(1.5), example_input={"input_ids": IDS})
    with torch.no_grad():
        after = model(IDS).last_hidden_state
    torch.testing.assert_close(after[..., :16], before, rtol=0, atol=1e-5)
    assert not after[..., 16:].any()
    assert any("returns the stream itself" in note for note in receipt.notes)


def test_a_bert_is_doubled_by_copies(tmp_path: Path) -> None:
    model = build("BertForMaskedLM", "BertConfig", TEXT)
    receipt = _grown(model, WidenStream(2.0))
    assert receipt.method == "copies"
    assert receipt.largest_gap <= 1e-10
    assert (model.config.hidden_size, model.config.num_attention_heads) == (32, 4)
    _comes_back(model, tmp_path)


def test_single_precision_stays_single_precision() -> None:
    model = build("LlamaForCausalLM", "LlamaConfig", GROUPED, torch.float32)
    receipt = _grown(model, WidenStream(1.5))
    assert 0 < receipt.largest_gap <= 2e-5
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
def test_no_architecture_of_the_table_becomes_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[str]] = {}
    for name, _, row in measured("model width", monkeypatch):
        found.setdefault(row["outcome"], []).append(name)
    assert "WRONG" not in found
    assert len(found["exact"]) >= 43, found


@pytest.mark.parametrize(
    ("kind", "config", "options", "reason"),
    [
        ("BertForMaskedLM", "BertConfig", TEXT, "post-norm"),
        ("BloomForCausalLM", "BloomConfig", {**TEXT, "n_layer": 1, "n_head": 2}, "a norm of embeddings"),
    ],
    ids=["bert", "bloom"],
)
def test_what_has_no_exact_form_is_refused_by_name(
    kind: str, config: str, options: dict[str, Any], reason: str
) -> None:
    model = build(kind, config, options)
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(SurgeryError, match=reason):
        grow(model, WidenStream(1.5), example_input={"input_ids": IDS})
    assert model.config.to_dict() == before


def test_what_grows_along_and_does_not_run_is_named() -> None:
    sizes = {**TEXT, "image_size": 8, "patch_size": 4, "encoder_stride": 4}
    model = build("ViTForMaskedImageModeling", "ViTConfig", sizes)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    notes = grow(model, WidenStream(1.5, check="fast"), example_input={"pixel_values": images}).notes
    assert model.vit.embeddings.mask_token.shape[-1] == 24
    assert any("not checked: 'vit.embeddings.mask_token'" in note for note in notes)
