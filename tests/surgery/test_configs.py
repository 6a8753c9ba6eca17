"""Hugging Face configs: changed where they then build the grown model, else left alone and told."""

import copy
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import SurgeryError
from graftwork.surgery import WidenAll, deepen, load_model, plan, remove, save_model, widen, widen_all
from graftwork.surgery._transaction import Transaction

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(0))
SHAPE = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
INSIDE = "h.0.mlp.c_fc", "h.1.mlp.c_fc"


def _bert() -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return transformers.BertConfig(**SHAPE, **sizes)


def _gpt() -> Any:
    return transformers.GPT2Config(**SHAPE, n_positions=8, n_embd=8, n_layer=2, n_head=2)


def _build(config: Any) -> nn.Module:
    torch.manual_seed(0)
    kind = transformers.BertModel if config.model_type == "bert" else transformers.GPT2Model
    return kind(config).eval()  # type: ignore[no-any-return]


FEED_FORWARD = ("*intermediate.dense", "*c_fc")


def _hidden(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize(("make", "name", "width"), [(_bert, "intermediate_size", 24), (_gpt, "n_inner", 64)])
def test_a_growth_that_is_the_same_in_every_layer_changes_the_config(
    make: Any, name: str, width: int, tmp_path: Path
) -> None:
    config = make()
    model, before = _build(config), copy.deepcopy(config).to_dict()
    output = _hidden(model)
    planned = plan(model, WidenAll(2.0, only=FEED_FORWARD), example_input=IDS)
    assert f"sets  config.{name}: " in str(planned)
    assert getattr(model.config, name) != width
    receipt = planned.apply()
    assert getattr(model.config, name) == width
    assert ("config", name, width) in [(a.path, a.name, a.new) for a in receipt.attributes]
    assert config.to_dict() == before, "the user's own config builds what it built before"
    assert all(m.config is model.config for m in model.modules() if hasattr(m, "config"))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.allclose(_hidden(again), output, atol=1e-5)


@pytest.mark.parametrize(("check", "most"), [(True, 6), ("fast", 2)])
def test_widening_a_layer_of_gpt_2_takes_six_forward_passes_or_two(check: Any, most: int) -> None:
    """Its attention is random in training, and its linear maps hold their widths as numbers."""
    model, seen = _build(_gpt()), []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    receipt = widen(model, "h.0.mlp.c_fc", extra=4, example_input=IDS, check=check)
    assert 0 < len(seen) <= most
    assert "h.0.mlp.c_fc.nf: 32 → 36" in str(receipt)


@pytest.mark.parametrize(("heads", "kv", "new"), [(4, 4, (6, 6)), (4, 2, (8, 4)), (8, 4, (12, 6))])
def test_more_heads_are_followed_by_their_number_and_not_by_their_width(
    heads: int, kv: int, new: tuple[int, int], tmp_path: Path
) -> None:
    """The first has as many heads as a head is wide: wider heads would give the same shapes and another function.

    Other numbers equal the width of all its heads.
    """
    sizes = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 4}
    sizes["max_position_embeddings"] = 16
    config = transformers.LlamaConfig(**SHAPE, **sizes, num_attention_heads=heads, num_key_value_heads=kv)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    before = model(IDS).logits
    receipt = widen_all(model, 1.5, only="*.self_attn.*", example_input=IDS)
    assert not receipt.notes
    assert (model.config.num_attention_heads, model.config.num_key_value_heads, model.config.head_dim) == (*new, 4)
    model.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, before)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2"])
def test_heads_and_inner_widths_are_followed_together_and_the_width_of_heads_is_held(kind: str, tmp_path: Path) -> None:
    """The width of the model equals that of all its heads, which divide it where the config says nothing else."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **sizes, num_key_value_heads=2)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    entries, before = model.config.to_dict(), model(IDS).logits
    receipt = widen_all(model, 1.5, example_input=IDS, check="fast")
    found = model.config.num_attention_heads, model.config.num_key_value_heads, model.config.intermediate_size
    assert (*found, model.config.head_dim) == (8, 4, 36, 4)
    copy.deepcopy(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, before)
    remove(model, receipt, example_input=IDS)
    assert model.config.to_dict() == entries


_VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
_VISION |= {"image_size": 8, "patch_size": 4}
_TEXT = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1}
_SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_SPARSE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_SPARSE |= {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "max_position_embeddings": 16}
FOLLOWED: dict[str, tuple[str, str, dict[str, Any], Any, dict[str, Any]]] = {
    "in a config inside of the config": (
        "CLIPConfig", "CLIPForImageClassification", {"vision_config": _VISION, "text_config": _TEXT},
        WidenAll(1.5, only="*.fc1", check="fast"), {"vision_config.intermediate_size": 18},
    ),
    "as a ratio of widths that differ": (
        "SwinConfig", "SwinForImageClassification", _SWIN, WidenAll(1.5, only="*.fc1"), {"mlp_ratio": 6.0},
    ),
    "where heads and hidden units that were as many differ": (
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**SHAPE, **_SPARSE}, WidenAll(1.5, check="fast"),
        {"num_key_value_heads": 4, "moe_intermediate_size": 24, "num_experts": 16, "max_position_embeddings": 16},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLLOWED)
def test_a_number_is_followed(case: str, tmp_path: Path) -> None:
    name, kind, entries, growth, wanted = FOLLOWED[case]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, name)(**entries)).eval()
    size = entries.get("image_size") or 8
    batch = {"input_ids": IDS} if "vocab_size" in entries else {"pixel_values": torch.randn(2, 3, size, size)}
    before = model(**batch).logits
    receipt = gw.grow(model, growth, example_input=batch)
    assert {entry: attrgetter(entry)(model.config) for entry in wanted} == wanted
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, before, atol=1e-5, rtol=1e-4)
    assert not [note for note in receipt.notes if "config" in note]


def test_a_growth_of_one_layer_leaves_the_config_and_says_so() -> None:
    model = _build(_bert())
    config, before = model.config, model.config.to_dict()
    receipt = widen(model, "encoder.layer.0.intermediate.dense", extra=4, example_input=IDS)
    assert model.config is config
    assert config.to_dict() == before
    assert "config is left as it was: it no longer builds this model" in str(receipt)


def test_a_deepened_model_says_that_its_config_does_not_know() -> None:
    assert "config knows nothing of the new block" in str(deepen(_build(_gpt()), "h.0.mlp", example_input=IDS))


def test_a_failed_growth_puts_the_config_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build(_gpt())
    holders = [(m, m.config) for m in model.modules() if hasattr(m, "config")]

    def fail(_self: Transaction, name: str) -> None:
        if name == "log":
            raise RuntimeError

    monkeypatch.setattr(Transaction, "before_step", fail)
    with pytest.raises(RuntimeError):
        widen_all(model, 2.0, only=INSIDE, example_input=IDS)
    assert len(holders) > 2
    assert all(module.config is config for module, config in holders)


def test_a_model_inside_another_one_is_saved_and_loaded_with_its_config(tmp_path: Path) -> None:
    config = _bert()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = _build(config), nn.Linear(8, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(ids).last_hidden_state)  # type: ignore[no-any-return]

    model = Tagger().eval()
    widen_all(model, 2.0, only=FEED_FORWARD, example_input=IDS)
    save_model(model, tmp_path)
    again = load_model(Tagger, tmp_path).eval()
    assert again.body.config.intermediate_size == model.body.config.intermediate_size == 24
    assert torch.equal(model(IDS), again(IDS))


@pytest.mark.parametrize(("kind", "method"), [("Llama", "r2r"), ("Qwen2", "netmorph")])
def test_queries_grow_under_fixed_keys(kind: str, method: str, tmp_path: Path) -> None:
    """Also where only masks meet the number of queries that share a key, and where the config had no width of heads."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 12}
    torch.manual_seed(0)
    build, config = getattr(transformers, f"{kind}ForCausalLM"), getattr(transformers, f"{kind}Config")
    model = build(config(**SHAPE, **sizes, num_key_value_heads=2)).eval()
    mask = torch.ones_like(IDS)
    mask[0, :2] = 0
    before, padded = model(IDS).logits, model(IDS, attention_mask=mask).logits
    receipt = widen_all(model, 2, only="*.q_proj", axis=1, method=method, example_input={"input_ids": IDS})
    torch.testing.assert_close(model(IDS).logits, before, rtol=0, atol=2e-6)
    torch.testing.assert_close(model(IDS, attention_mask=mask).logits, padded, rtol=0, atol=2e-6)
    assert {change.name.split(".")[-2] for change in receipt.tensors} == {"q_proj", "o_proj"}
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (8, 2)
    assert {block.self_attn.num_key_value_groups for block in model.model.layers} == {4}
    model.save_pretrained(tmp_path)
    again = build.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    with pytest.raises(SurgeryError, match="expected an axis below 3, got 3; its width is 2 × 4 × "):
        widen(model, "model.layers.0.self_attn.q_proj", factor=2, axis=3, example_input={"input_ids": IDS})
    save_model(model, tmp_path / "own")
    own = load_model(lambda: build(config(**SHAPE, **sizes, num_key_value_heads=2)), tmp_path / "own").eval()
    torch.testing.assert_close(own(IDS, attention_mask=mask).logits, padded, rtol=0, atol=2e-6)


def test_a_number_of_heads_that_only_a_mask_meets_is_found_without_a_config() -> None:
    torch.manual_seed(0)
    config = transformers.GPTBigCodeConfig(**SHAPE, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPTBigCodeModel(config).eval()
    mask = torch.ones_like(IDS)
    mask[0, :2] = 0
    before = model(IDS, attention_mask=mask).last_hidden_state
    widen(model, "h.0.attn.c_attn", extra=8, axis=0, method="netmorph", example_input={"input_ids": IDS})
    torch.testing.assert_close(model(IDS, attention_mask=mask).last_hidden_state, before)


def _deepened() -> tuple[Any, Any]:
    model = _build(_gpt())
    return model, deepen(model, "h.0.mlp", example_input=IDS)


def test_what_no_config_describes_is_not_saved_as_if_it_did(tmp_path: Path) -> None:
    model, receipt = _deepened()
    with pytest.raises(SurgeryError, match="save_pretrained: expected a model that its config builds"):
        model.save_pretrained(tmp_path)
    with pytest.raises(SurgeryError, match="save_pretrained"):
        copy.deepcopy(model).save_pretrained(tmp_path)
    save_model(model, tmp_path / "own")
    with pytest.raises(SurgeryError, match="save_pretrained"):
        load_model(lambda: _build(_gpt()), tmp_path / "own").save_pretrained(tmp_path)  # type: ignore[operator]
    assert not list(tmp_path.glob("*.safetensors"))
    remove(model, receipt, example_input=IDS)
    assert "save_pretrained" not in vars(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(_hidden(type(model).from_pretrained(tmp_path).eval()), _hidden(model))


def test_a_refusal_to_save_outlives_growths_that_a_config_describes(tmp_path: Path) -> None:
    model = _build(_bert())
    first = widen(model, "encoder.layer.0.intermediate.dense", extra=4, example_input=IDS)
    second = gw.grow(
        model, gw.InsertLayers("encoder.layer", after=[-1], init="copy", approximate=True), example_input=IDS
    )
    with pytest.raises(SurgeryError, match="save_pretrained"):
        model.save_pretrained(tmp_path)
    for receipt in (second, first):
        remove(model, receipt, example_input=IDS)
    model.save_pretrained(tmp_path)


def test_a_failed_growth_leaves_saving_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_self: Transaction, name: str) -> None:
        if name.startswith("save_pretrained"):
            raise RuntimeError

    model = _build(_gpt())
    monkeypatch.setattr(Transaction, "before_step", fail)
    with pytest.raises(RuntimeError):
        deepen(model, "h.0.mlp", example_input=IDS)
    monkeypatch.undo()
    model.save_pretrained(tmp_path)
