"""Architectures with stacks of layers, for the table of growths that must come back to their ecosystem."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo._architecture import Architecture, images, tokens
from zoo._convolutional import BasicBlock, Bottleneck, ResNet
from zoo._others import OTHERS
from zoo._own import OWN
from zoo._pytorchcv import PYTORCHCV
from zoo._sequential import NanoGPT

_VOCABULARY, _LENGTH = 40, 9
_TEXT = {"vocab_size": _VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_TEXT |= {"intermediate_size": 48, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1}
_TEXT |= {"eos_token_id": 2}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
_IMAGE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
_IMAGE |= {"image_size": 16, "patch_size": 4}
_TWO = {"vision_config": _IMAGE, "text_config": {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 1}}
_TWO |= {"num_labels": 5}
_GPT = {"vocab_size": _VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """A model with a list of layers.

    Attributes:
        name: Name in the table.
        build: Makes the model with random weights; never downloads.
        batch: Makes the arguments of one call: (number of examples, generator) → tensor, tuple or mapping.
        stack: Path of the list.
        after: Where new layers go.
        refused: Words of the reason for which no layer can be inserted; empty where it can.
        generates: Whether it has ``generate``.
        axis: Which volume of the projection that makes queries counts heads, the outermost is 0.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int, torch.Generator], Any]
    stack: str
    after: tuple[int, ...] = (0,)
    refused: str = ""
    generates: bool = False
    axis: int = 0


def _make(model: str, config: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        settings = getattr(transformers, config)(**options)
        settings._experts_implementation = "eager"  # noqa: SLF001 - the grouped product takes no float64
        torch.set_default_dtype(torch.float64)  # as from_pretrained does: constants of the model are rounded alike
        try:
            return getattr(transformers, model)(settings)  # type: ignore[no-any-return]
        finally:
            torch.set_default_dtype(torch.float32)

    return build


def _words(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": 3 + tokens(_VOCABULARY - 3, _LENGTH)(n, g)}


def _pairs(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": _words(n, g)["input_ids"], "decoder_input_ids": _words(n, g)["input_ids"]}


def _sounds(n: int, g: torch.Generator) -> dict[str, Tensor]:
    sound = torch.randn(n, 8, 32, generator=g, dtype=torch.float64)
    return {"input_features": sound, "decoder_input_ids": _words(n, g)["input_ids"]}


def _pixels(size: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda n, g: {"pixel_values": images(size)(n, g)}


def _vectors(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 6, 16, generator=g, dtype=torch.float64)


def _causal(name: str, kind: str, options: dict[str, Any], *, stack: str = "model.layers", head: str = "ForCausalLM",
            config: str = "", **more: Any) -> Stacked:  # fmt: skip
    build = _make(kind + head, config or f"{kind}Config", options)
    return Stacked(name=name, build=build, batch=_words, stack=stack, generates=True, **more)


def _other(name: str, model: str, config: str, stack: str, options: dict[str, Any], *, batch: Any = _words,
           **more: Any) -> Stacked:  # fmt: skip
    return Stacked(name=name, build=_make(model, config, options), batch=batch, stack=stack, **more)


_MAMBA = {"vocab_size": _VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, "pad_token_id": 0}
_MAMBA |= {"bos_token_id": 1, "eos_token_id": 2}
_T5 = {"vocab_size": _VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2}
_T5 |= {"num_heads": 4, "decoder_start_token_id": 0}
_BART = {"vocab_size": _VOCABULARY, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 48}
_BART |= {"decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0}
_BART |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_WHISPER = {key: value for key, value in _BART.items() if key != "max_position_embeddings"}
_WHISPER |= {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32}

DECODERS = (
    _causal("llama", "Llama", _GROUPED),
    _causal("mistral", "Mistral", {**_GROUPED, "sliding_window": 4}),
    _causal("qwen2", "Qwen2", _GROUPED),
    _causal("qwen3", "Qwen3", _HEADS),
    _causal("gemma", "Gemma", _HEADS),
    _causal("gemma2", "Gemma2", {**_HEADS, "sliding_window": 4}),
    _causal("gemma3 (text)", "Gemma3", {**_HEADS, "sliding_window": 4}, config="Gemma3TextConfig"),
    _causal("phi", "Phi", _GROUPED),
    _causal("phi3", "Phi3", _GROUPED),
    _causal("gpt2", "GPT2", _GPT, stack="transformer.h", head="LMHeadModel"),
    _causal("gpt-neox", "GPTNeoX", _TEXT, stack="gpt_neox.layers"),
    _causal("gpt-j", "GPTJ", {**_GPT, "rotary_dim": 4}, stack="transformer.h"),
    _causal("gpt-bigcode", "GPTBigCode", _GPT, stack="transformer.h"),
    _causal("codegen", "CodeGen", {**_GPT, "rotary_dim": 4}, stack="transformer.h"),
    _causal("opt", "OPT", {**_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}, stack="model.decoder.layers"),
    _causal("bloom", "Bloom", {**_TEXT, "n_layer": 3, "n_head": 4}, stack="transformer.h"),
    _causal("falcon", "Falcon", _TEXT, stack="transformer.h"),
    _causal("olmo", "Olmo", _GROUPED),
    _causal("olmo2", "Olmo2", _GROUPED),
    _causal("stablelm", "StableLm", _GROUPED),
    _causal("starcoder2", "Starcoder2", _GROUPED),
    _causal("granite", "Granite", _GROUPED),
    _causal("cohere", "Cohere", _GROUPED),
    _causal("nemotron", "Nemotron", _HEADS),
    _causal("persimmon", "Persimmon", _TEXT),
    _causal("smollm3", "SmolLM3", _GROUPED),
    _causal("glm", "Glm", _HEADS),
    _causal("helium", "Helium", _HEADS),
    _causal("mixtral", "Mixtral", {**_GROUPED, "num_local_experts": 4}),
    _causal("qwen3-moe", "Qwen3Moe", {**_HEADS, **_EXPERTS, "num_experts": 4}),
    _causal("olmoe", "Olmoe", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    _causal("mamba", "Mamba", _MAMBA, stack="backbone.layers"),
    _causal("mamba2", "Mamba2", {**_MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
            stack="backbone.layers"),
    _causal("biogpt", "BioGpt", _TEXT, stack="biogpt.layers"),
)  # fmt: skip
ENCODERS = (
    _other("bert", "BertForMaskedLM", "BertConfig", "bert.encoder.layer", _TEXT, refused="post-norm"),
    _other("distilbert", "DistilBertForMaskedLM", "DistilBertConfig", "distilbert.transformer.layer",
           {"vocab_size": _VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}, refused="post-norm"),
    _other("modernbert", "ModernBertForMaskedLM", "ModernBertConfig", "model.layers",
           {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}, after=(1,), axis=1),
    _other("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", "RobertaPreLayerNormConfig",
           "roberta_prelayernorm.encoder.layer", _TEXT),
    _other("esm", "EsmForMaskedLM", "EsmConfig", "esm.encoder.layer", {**_TEXT, "mask_token_id": 3},
           refused="contact_head"),
    _other("t5 encoder", "T5ForConditionalGeneration", "T5Config", "encoder.block", _T5, batch=_pairs, generates=True),
    _other("t5 decoder", "T5ForConditionalGeneration", "T5Config", "decoder.block", _T5, batch=_pairs, generates=True),
    _other("bart encoder", "BartForConditionalGeneration", "BartConfig", "model.encoder.layers", _BART, batch=_pairs,
           refused="post-norm", generates=True),
    _other("pegasus encoder", "PegasusForConditionalGeneration", "PegasusConfig", "model.encoder.layers", _BART,
           batch=_pairs, generates=True),
    _other("mbart decoder", "MBartForConditionalGeneration", "MBartConfig", "model.decoder.layers", _BART,
           batch=_pairs, generates=True),
    _other("whisper encoder", "WhisperForConditionalGeneration", "WhisperConfig", "model.encoder.layers", _WHISPER,
           batch=_sounds),
    _other("whisper decoder", "WhisperForConditionalGeneration", "WhisperConfig", "model.decoder.layers", _WHISPER,
           batch=_sounds),
)  # fmt: skip
VISION = (
    _other("vit", "ViTForImageClassification", "ViTConfig", "vit.layers", _IMAGE, batch=_pixels(16)),
    _other("deit", "DeiTForImageClassification", "DeiTConfig", "deit.layers", _IMAGE, batch=_pixels(16)),
    _other("dinov2", "Dinov2ForImageClassification", "Dinov2Config", "dinov2.encoder.layer", _IMAGE,
           batch=_pixels(16)),
    _other("beit", "BeitForImageClassification", "BeitConfig", "beit.layers", _IMAGE, batch=_pixels(16)),
    _other("siglip", "SiglipForImageClassification", "SiglipConfig", "vision_model.encoder.layers", _TWO,
           batch=_pixels(16)),
    _other("clip", "CLIPForImageClassification", "CLIPConfig", "vision_model.encoder.layers", _TWO,
           batch=_pixels(16)),
    _other("swin (pairs)", "SwinForImageClassification", "SwinConfig", "swin.encoder.layers.0.blocks",
           {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
            "window_size": 4}, batch=_pixels(32), after=(1, 1)),
    _other("swinv2 (pairs)", "Swinv2ForImageClassification", "Swinv2Config", "swinv2.encoder.layers.0.blocks",
           {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
            "window_size": 4}, batch=_pixels(32), after=(1, 1)),
    _other("convnext", "ConvNextForImageClassification", "ConvNextConfig", "convnext.encoder.stages.1.layers",
           {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2, "image_size": 16, "patch_size": 2},
           batch=_pixels(16)),
    _other("resnet (transformers)", "ResNetForImageClassification", "ResNetConfig", "resnet.encoder.stages.1.layers",
           {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}, batch=_pixels(32)),
    _other("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig", "poolformer.encoder.block.1",
           {"hidden_sizes": [8, 16], "depths": [2, 3], "num_encoder_blocks": 2, "patch_sizes": [3, 3],
            "strides": [2, 2], "padding": [1, 1]}, batch=_pixels(32)),
)  # fmt: skip


def _stock(*, norm_first: bool) -> nn.Module:
    """PyTorch's encoder in a model, which makes and reads the channels of its stream."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(16) if norm_first else None, enable_nested_tensor=False)
    return nn.Sequential(OrderedDict(embed=nn.Linear(16, 16), encoder=encoder, head=nn.Linear(16, 5)))


def _known(name: str, architecture: str, stack: str, **more: Any) -> Stacked:
    known: dict[str, Architecture] = {a.name: a for a in (*OWN, *PYTORCHCV, *OTHERS)}
    found = known[architecture]
    return Stacked(name=name, build=found.build, batch=found.batch, stack=stack, **more)


PLAIN = (
    Stacked(name="nanoGPT", build=NanoGPT, batch=tokens(32, 8), stack="blocks"),
    Stacked(name="resnet-18", build=lambda: ResNet(BasicBlock, (2, 2, 2, 2)), batch=images(32), stack="layers.1"),
    Stacked(name="resnet-50", build=lambda: ResNet(Bottleneck, (3, 4, 6, 3), width=4), batch=images(32),
            stack="layers.2", after=(0, 3)),
    Stacked(name="nn.TransformerEncoder, norm_first", build=lambda: _stock(norm_first=True), batch=_vectors,
            stack="encoder.layers"),
    Stacked(name="nn.TransformerEncoder", build=lambda: _stock(norm_first=False), batch=_vectors,
            stack="encoder.layers", refused="post-norm"),
    _known("mlp-mixer", "mlp-mixer", "blocks"),
    _known("vit-pytorch vit", "vit-pytorch vit", "transformer.layers"),
    _known("pytorchcv resnet", "pytorchcv resnet", "features.stage2"),
    _known("pytorchcv preresnet-20", "pytorchcv preresnet-20", "features.stage2"),
    _known("pytorchcv seresnet-10", "pytorchcv seresnet-10", "features.stage2"),
)  # fmt: skip

STACKED: dict[str, Stacked] = {one.name: one for one in (*DECODERS, *ENCODERS, *VISION, *PLAIN)}
