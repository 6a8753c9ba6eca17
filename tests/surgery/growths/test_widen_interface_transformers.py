"""More classes, tokens and channels in Hugging Face models: configs follow, files build the same model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import WidenInputs, WidenOutputs, grow, load_model, save_model
from tests.surgery.growths.hugging import IDS, TEXT, again, build, logits, measured

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BART = {"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24}
BART |= {"decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0}
BART |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT |= {"image_size": 16, "patch_size": 4}


@pytest.mark.parametrize(
    ("kind", "config", "options", "grown"),
    [
        ("LlamaForCausalLM", "LlamaConfig", TEXT, {"lm_head.weight", "model.embed_tokens.weight"}),
        ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": True}, {"model.embed_tokens.weight"}),
        ("BartForConditionalGeneration", "BartConfig", BART, {"model.shared.weight", "final_logits_bias"}),
    ],
    ids=["llama", "llama tied", "bart"],
)
def test_a_vocabulary_grows_whole_and_its_files_build_the_same_model(
    kind: str, config: str, options: dict[str, Any], grown: set[str], tmp_path: Path
) -> None:
    model = build(kind, config, options)
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if kind.startswith("Bart") else {})
    before = logits(model, **inputs)
    words = model.generate(IDS, max_new_tokens=4, do_sample=False)
    receipt = grow(model, WidenOutputs("lm_head", 5, init="mean"), example_input=inputs)
    assert {change.name for change in receipt.tensors} == grown
    assert {"prefill and steps with the cache", "left padding"} <= set(receipt.gaps)
    assert model.config.vocab_size == 45
    assert torch.equal(logits(model, **inputs)[..., :40], before)
    assert torch.equal(model.generate(IDS, max_new_tokens=4, do_sample=False), words)
    new = {name: ids % 5 + 40 for name, ids in inputs.items()}
    assert logits(model, **new).isfinite().all()
    assert torch.equal(logits(again(model, tmp_path), **new), logits(model, **new))


def test_classes_keep_their_names_and_get_new_ones(tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "LABEL_3"}
    options = {**VIT, "id2label": names, "label2id": {value: key for key, value in names.items()}}
    model: Any = build("ViTForImageClassification", "ViTConfig", options)
    before, config = logits(model, pixel_values=IMAGES), model.config
    grow(model, WidenOutputs(None, 1), example_input={"pixel_values": IMAGES})
    assert model.config.id2label == {**names, 3: "NEW_LABEL_3"}
    assert (model.config.num_labels, model.num_labels, config.num_labels) == (4, 4, 3)
    torch.testing.assert_close(logits(model, pixel_values=IMAGES)[:, :3], before)
    built = again(model, tmp_path)
    assert built.config.label2id["NEW_LABEL_3"] == 3
    assert torch.equal(logits(built, pixel_values=IMAGES), logits(model, pixel_values=IMAGES))
    assert model(pixel_values=IMAGES, labels=torch.tensor([3, 0])).loss.isfinite()
    save_model(model, tmp_path / "own")
    rebuilt: Any = load_model(lambda: build("ViTForImageClassification", "ViTConfig", options), tmp_path / "own")
    assert rebuilt.config.id2label == model.config.id2label
    assert torch.equal(logits(rebuilt.eval(), pixel_values=IMAGES), logits(model, pixel_values=IMAGES))


class _Task(nn.Module):
    """What wraps a model in training keeps the number too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_classes = model, 4

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits  # type: ignore[no-any-return]


def test_numbers_and_weights_of_a_wrapper_are_seen() -> None:
    model: Any = _Task(build("ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 4}))
    grow(model, WidenOutputs(None, 1), example_input=IMAGES)
    assert (model.num_classes, model.model.num_labels, model.model.config.num_labels) == (5, 5, 5)
    model.register_buffer("weights", torch.ones(5))
    with pytest.raises(SurgeryError, match="'weights' would be left behind"):
        grow(model, WidenOutputs(None, 1), example_input=IMAGES)
    assert (model.num_classes, model.model.num_labels, model.model.config.num_labels) == (5, 5, 5)


def test_one_output_of_a_regression_is_refused() -> None:
    model = build("ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 1})
    with pytest.raises(SurgeryError, match="regression"):
        grow(model, WidenOutputs("classifier", 1), example_input={"pixel_values": IMAGES})


def test_a_table_that_is_no_vocabulary_grows_too() -> None:
    model: Any = build("BertForMaskedLM", "BertConfig", TEXT)
    before = logits(model, input_ids=IDS)
    grow(model, WidenOutputs("bert.embeddings.token_type_embeddings", 2), example_input={"input_ids": IDS})
    assert model.config.type_vocab_size == 4
    assert torch.equal(logits(model, input_ids=IDS), before)
    assert logits(model, input_ids=IDS, token_type_ids=torch.full_like(IDS, 3)).isfinite().all()


def test_a_buffer_that_no_file_holds_is_not_left_behind() -> None:
    model: Any = build("BertForMaskedLM", "BertConfig", TEXT)
    with pytest.raises(SurgeryError, match=r"position_ids' would have to be"):
        grow(model, WidenOutputs("bert.embeddings.position_embeddings", 2), example_input={"input_ids": IDS})
    assert model.config.max_position_embeddings == 32


def test_two_heads_of_one_number_grow_together() -> None:
    model: Any = build("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**VIT, "num_labels": 4})
    before = logits(model, pixel_values=IMAGES)
    receipt = grow(model, WidenOutputs("cls_classifier", 2), example_input={"pixel_values": IMAGES})
    assert {c.name.partition(".")[0] for c in receipt.tensors} == {"cls_classifier", "distillation_classifier"}
    torch.testing.assert_close(logits(model, pixel_values=IMAGES)[:, :4], before)


def test_a_patch_embedding_takes_a_fourth_channel(tmp_path: Path) -> None:
    model: Any = build("ViTForImageClassification", "ViTConfig", VIT)
    before = logits(model, pixel_values=IMAGES)
    grow(model, WidenInputs(None, 1), example_input={"pixel_values": IMAGES})
    more = torch.cat([IMAGES, torch.randn_like(IMAGES[:, :1])], 1)
    torch.testing.assert_close(logits(model, pixel_values=more), before)
    assert model.config.num_channels == 4
    assert torch.equal(logits(again(model, tmp_path), pixel_values=more), logits(model, pixel_values=more))


@pytest.mark.slow
def test_outputs_of_every_architecture_of_the_table_grow_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    for name, _, row in measured("outputs", monkeypatch):
        assert row["outcome"] == "exact", (name, row)
        seen += 1
    assert seen >= 60


def test_a_loss_in_the_example_is_named_as_the_reason() -> None:
    model = build("ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 4})
    batch = {"pixel_values": IMAGES, "labels": torch.tensor([0, 1])}
    with pytest.raises(SurgeryError, match="leave the labels out"):
        grow(model, WidenOutputs("classifier", 1), example_input=batch)


def test_a_config_that_does_not_build_the_model_is_left_alone_and_named() -> None:
    model: Any = build("ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 4})
    model.classifier = nn.Linear(16, 7).double()
    receipt = grow(model, WidenOutputs("classifier", 1), example_input={"pixel_values": IMAGES})
    assert any("does not build this model" in note for note in receipt.notes)
    assert model.config.num_labels == 4
