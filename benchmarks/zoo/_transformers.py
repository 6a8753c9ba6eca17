"""Models of `transformers` in small random configurations: nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo._architecture import Architecture, images, tokens

_VOCABULARY = 40
_IMAGE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
_IMAGE |= {"image_size": 16, "patch_size": 4}
_TEXT = {"vocab_size": _VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT |= {"intermediate_size": 40, "max_position_embeddings": 32}


def _make(model: str, config: str, *, part: str = "", **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        settings = getattr(transformers, config)(**options)
        settings.use_cache = False
        made = getattr(transformers, model)(settings)
        return made.get_submodule(part) if part else made

    return build


def _words(n: int, g: torch.Generator) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens(_VOCABULARY, 7)(n, g)}


def _pixels(size: int) -> Callable[[int, torch.Generator], dict[str, torch.Tensor]]:
    return lambda n, g: {"pixel_values": images(size)(n, g)}


def _encoder(
    name: str, model: str, config: str, *, rules: Any, deepen: Any, batch: Any = _words, part: str = "", **options: Any
) -> Architecture:
    return Architecture(
        name=f"transformers {name}",
        package="transformers",
        build=_make(model, config, part=part, **options),
        batch=batch,
        rules=rules,
        deepen=deepen,
    )


_BERT = (
    ("**.attention.self.*", "widen"),
    ("**.intermediate.dense", "widen"),
    ("**.output.dense", "norm"),
)
_LLAMA = (
    ("model.embed_tokens", "norm"),
    ("lm_head", "output"),
    ("model.layers.*.self_attn.o_proj", "norm"),
    ("model.layers.*.self_attn.*_proj", "widen"),
    ("model.layers.*.mlp.down_proj", "norm"),
    ("model.layers.*.mlp.*_proj", "widen"),
)
_VIT = (
    ("embeddings.**", "norm"),
    ("**.attention.o_proj", "norm"),
    ("**.attention.*_proj", "widen"),
    ("**.mlp.fc1", "widen"),
    ("**.mlp.fc2", "norm"),
)

TRANSFORMERS = (
    _encoder(
        "bert", "BertModel", "BertConfig", **_TEXT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        rules=(("embeddings.*", "norm"), ("pooler.dense", "output"), *_BERT),
        deepen=("embeddings", "encoder.layer.*", "encoder.layer.*.attention", "encoder.layer.*.intermediate"),
    ),
    _encoder(
        "roberta", "RobertaForMaskedLM", "RobertaConfig", **_TEXT,
        rules=(("roberta.embeddings.*", "norm"), ("lm_head.dense", "norm"), ("lm_head.decoder", "output"), *_BERT),
        deepen=("roberta.embeddings", "roberta.encoder.layer.*", "lm_head.dense"),
    ),
    _encoder(
        "electra", "ElectraModel", "ElectraConfig", **_TEXT, embedding_size=16,
        rules=(("embeddings.*", "norm"), ("embeddings_project", "norm"), *_BERT),
        deepen=("embeddings_project", "encoder.layer.*"),
    ),
    _encoder(
        "albert", "AlbertModel", "AlbertConfig", **_TEXT, embedding_size=16,
        rules=(
            ("embeddings.*", "norm"),
            ("encoder.embedding_hidden_mapping_in", "norm"),
            ("**.attention.dense", "norm"),
            ("**.attention.*", "widen"),
            ("**.ffn", "widen"),
            ("**.ffn_output", "norm"),
            ("pooler", "output"),
        ),
        deepen=("encoder.embedding_hidden_mapping_in", "**.albert_layers.*", "**.albert_layers.*.ffn"),
    ),
    _encoder(
        "distilbert", "DistilBertModel", "DistilBertConfig", vocab_size=_VOCABULARY, dim=24, n_layers=2, n_heads=4,
        hidden_dim=40, max_position_embeddings=32,
        rules=(
            ("embeddings.*", "norm"),
            ("**.attention.out_lin", "norm"),
            ("**.attention.*", "widen"),
            ("**.ffn.lin1", "widen"),
            ("**.ffn.lin2", "norm"),
        ),
        deepen=("embeddings", "transformer.layer.*", "transformer.layer.*.ffn"),
    ),
    _encoder(
        "gpt2", "GPT2LMHeadModel", "GPT2Config", vocab_size=_VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=32,
        rules=(
            ("transformer.wte", "norm"),
            ("transformer.wpe", "norm"),
            ("**.attn.c_attn", "widen"),
            ("**.attn.c_proj", "norm"),
            ("**.mlp.c_fc", "widen"),
            ("**.mlp.c_proj", "norm"),
            ("lm_head", "output"),
        ),
        deepen=("transformer.h.*", "transformer.h.*.attn", "transformer.h.*.mlp"),
    ),
    _encoder(
        "opt", "OPTForCausalLM", "OPTConfig", vocab_size=_VOCABULARY, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=4, ffn_dim=40, max_position_embeddings=32, word_embed_proj_dim=24,
        rules=(
            ("model.decoder.embed_*", "norm"),
            ("**.self_attn.out_proj", "norm"),
            ("**.self_attn.*_proj", "widen"),
            ("**.fc1", "widen"),
            ("**.fc2", "norm"),
            ("lm_head", "output"),
        ),
        deepen=("model.decoder.embed_tokens", "model.decoder.layers.*", "model.decoder.layers.*.fc1"),
    ),
    _encoder(
        "llama", "LlamaForCausalLM", "LlamaConfig", **_TEXT, num_key_value_heads=2, rules=_LLAMA,
        deepen=("model.embed_tokens", "model.layers.*", "model.layers.*.self_attn", "model.layers.*.mlp"),
    ),
    _encoder(
        "qwen2", "Qwen2ForCausalLM", "Qwen2Config", **_TEXT, num_key_value_heads=2, rules=_LLAMA,
        deepen=("model.embed_tokens", "model.layers.*", "model.layers.*.self_attn", "model.layers.*.mlp"),
    ),
    _encoder(
        "gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", **_TEXT,
        rules=(
            ("gpt_neox.embed_in", "norm"),
            ("**.query_key_value", "widen"),
            ("**.attention.dense", "norm"),
            ("**.dense_h_to_4h", "widen"),
            ("**.dense_4h_to_h", "norm"),
            ("lm_head", "output"),
        ),
        deepen=("gpt_neox.embed_in", "gpt_neox.layers.*", "gpt_neox.layers.*.mlp"),
    ),
    _encoder(
        # ALiBi's slopes depend on the number of heads; a person would call the heads widenable all the same.
        "bloom", "BloomForCausalLM", "BloomConfig", vocab_size=_VOCABULARY, hidden_size=24, n_layer=2, n_head=4,
        rules=(
            ("transformer.word_embeddings", "norm"),
            ("**.query_key_value", "widen"),
            ("**.self_attention.dense", "norm"),
            ("**.dense_h_to_4h", "widen"),
            ("**.dense_4h_to_h", "norm"),
            ("lm_head", "output"),
        ),
        deepen=("transformer.h.*", "transformer.h.*.mlp"),
    ),
    _encoder(
        # The states (B and C) of a selective scan are summed over like queries and keys; x_proj also makes dt's rank.
        "mamba", "MambaForCausalLM", "MambaConfig", vocab_size=_VOCABULARY, hidden_size=16, num_hidden_layers=2,
        state_size=4, time_step_rank=3,
        rules=(
            ("backbone.embeddings", "norm"),
            ("**.mixer.out_proj", "norm"),
            ("**.mixer.*", "widen"),
            ("lm_head", "output"),
        ),
        deepen=("backbone.embeddings", "backbone.layers.*", "backbone.layers.*.mixer"),
    ),
    _encoder(
        "t5-encoder", "T5EncoderModel", "T5Config", vocab_size=_VOCABULARY, d_model=24, d_kv=6, d_ff=40, num_layers=2,
        num_heads=4,
        rules=(
            ("shared", "norm"),
            ("encoder.embed_tokens", "norm"),
            ("**.relative_attention_bias", "fixed"),
            ("**.SelfAttention.o", "norm"),
            ("**.SelfAttention.*", "widen"),
            ("**.wi", "widen"),
            ("**.wo", "norm"),
        ),
        deepen=("shared", "encoder.block.*", "encoder.block.*.layer.1"),
    ),
    _encoder(
        "whisper-encoder", "WhisperModel", "WhisperConfig", part="encoder", vocab_size=_VOCABULARY, d_model=24,
        encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=40,
        decoder_ffn_dim=40, num_mel_bins=8, max_source_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
        batch=lambda n, g: {"input_features": torch.randn(n, 8, 32, generator=g, dtype=torch.float64)},
        rules=(
            ("conv1", "widen"),
            ("conv2", "norm"),
            ("embed_positions", "norm"),
            ("layers.*.self_attn.out_proj", "norm"),
            ("layers.*.self_attn.*_proj", "widen"),
            ("layers.*.fc1", "widen"),
            ("layers.*.fc2", "norm"),
        ),
        deepen=("conv1", "conv2", "layers.*", "layers.*.fc1"),
    ),
    _encoder(
        # The first convolution's group norm has one channel a group; the last one meets a LayerNorm. The positional
        # convolution's weight is normalized.
        "wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", vocab_size=20, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=40, conv_dim=[8, 8], conv_stride=[5, 2], conv_kernel=[10, 3],
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, apply_spec_augment=False,
        batch=lambda n, g: {"input_values": torch.randn(n, 200, generator=g, dtype=torch.float64)},
        rules=(
            ("feature_extractor.conv_layers.0.conv", "widen"),
            ("feature_extractor.conv_layers.1.conv", "norm"),
            ("feature_projection.projection", "norm"),
            ("encoder.pos_conv_embed.conv", "norm"),
            ("**.attention.out_proj", "norm"),
            ("**.attention.*_proj", "widen"),
            ("**.intermediate_dense", "widen"),
            ("**.output_dense", "norm"),
        ),
        deepen=("feature_extractor.conv_layers.*", "feature_projection.projection", "encoder.layers.*"),
    ),
    _encoder(
        "vit", "ViTModel", "ViTConfig", **_IMAGE, batch=_pixels(16), rules=(*_VIT, ("pooler.dense", "output")),
        deepen=("embeddings", "layers.*", "layers.*.attention", "layers.*.mlp"),
    ),
    _encoder(
        "deit", "DeiTModel", "DeiTConfig", **_IMAGE, batch=_pixels(16), rules=(*_VIT, ("pooler.dense", "output")),
        deepen=("embeddings", "layers.*", "layers.*.mlp"),
    ),
    _encoder(
        "dinov2", "Dinov2Model", "Dinov2Config", hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=4, batch=_pixels(16), rules=_VIT, deepen=("embeddings", "encoder.layer.*"),
    ),
    _encoder(
        "swin", "SwinModel", "SwinConfig", image_size=32, patch_size=2, embed_dim=12, depths=[2, 2], num_heads=[2, 4],
        window_size=4, drop_path_rate=0.0, batch=_pixels(32), rules=(*_VIT, ("**.reduction", "norm")),
        deepen=("encoder.layers.*.blocks.*", "encoder.layers.*.blocks.*.mlp"),
    ),
    _encoder(
        "convnext", "ConvNextModel", "ConvNextConfig", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], image_size=32,
        batch=_pixels(64), rules=(("**.pwconv1", "widen"), ("**", "norm")),
        deepen=("embeddings", "encoder.stages.*", "encoder.stages.*.layers.*"),
    ),
    _encoder(
        "segformer", "SegformerForSemanticSegmentation", "SegformerConfig", hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=12, drop_path_rate=0.0,
        batch=_pixels(64),
        rules=(
            ("**.patch_embeddings.proj", "norm"),
            ("**.sequence_reduction", "norm"),
            ("**.attention.o_proj", "norm"),
            ("**.attention.*_proj", "widen"),
            ("**.mlp.fc1", "widen"),
            ("**.dwconv", "widen"),
            ("**.mlp.fc2", "norm"),
            ("decode_head.classifier", "output"),
            ("decode_head.**", "widen"),
        ),
        deepen=("segformer.stages.*.blocks.*", "decode_head.linear_projections.*", "decode_head.linear_fuse"),
    ),
    _encoder(
        # Its group norm has one group: a LayerNorm over channels and pixels.
        "poolformer", "PoolFormerModel", "PoolFormerConfig", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1],
        drop_path_rate=0.0, batch=_pixels(64), rules=(("**.output.conv1", "widen"), ("**", "norm")),
        deepen=("encoder.patch_embeddings.*", "encoder.block.*.*"),
    ),
    _encoder(
        "resnet", "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[16, 24, 32],
        depths=[1, 2, 1], batch=_pixels(64), rules=(("classifier.1", "output"), ("**", "widen")),
        deepen=("resnet.embedder", "resnet.encoder.stages.*", "resnet.encoder.stages.*.layers.*"),
    ),
    _encoder(
        "regnet", "RegNetForImageClassification", "RegNetConfig", embedding_size=8, hidden_sizes=[16, 24, 32],
        depths=[1, 2, 1], groups_width=4, batch=_pixels(64), rules=(("classifier.1", "output"), ("**", "widen")),
        deepen=("regnet.embedder", "regnet.encoder.stages.*", "regnet.encoder.stages.*.layers.*"),
    ),
    _encoder(
        "mobilenetv2", "MobileNetV2ForImageClassification", "MobileNetV2Config", image_size=64, depth_multiplier=0.25,
        classifier_dropout_prob=0.0, batch=_pixels(64), rules=(("classifier", "output"), ("**", "widen")),
        deepen=("mobilenet_v2.conv_stem", "mobilenet_v2.layer.*", "mobilenet_v2.conv_1x1"),
    ),
    _encoder(
        "mobilevit", "MobileViTModel", "MobileViTConfig", image_size=64, hidden_sizes=[12, 16, 20],
        neck_hidden_sizes=[4, 8, 12, 12, 16, 20, 24], hidden_dropout_prob=0.0, batch=_pixels(64),
        rules=(
            ("conv_1x1_exp.convolution", "output"),
            ("**.conv_1x1.convolution", "norm"),
            ("**.convolution", "widen"),
            ("**.attention.attention.*", "widen"),
            ("**.intermediate.dense", "widen"),
            ("**.output.dense", "norm"),
        ),
        deepen=("conv_stem", "encoder.layer.*", "encoder.layer.*.transformer.layer.*"),
    ),
)  # fmt: skip
