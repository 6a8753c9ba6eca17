"""Tiny checkpoints of Hugging Face, made when a test runs."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graftwork.surgery.checkpoints import CheckpointReceipt, Sizes, grow_checkpoint, plan_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
IDS = torch.randint(60, (2, 8), generator=torch.Generator().manual_seed(0))
TOKENS = {"input_ids": IDS}


def llama(**sizes: Any) -> Any:
    """A Llama of three layers."""
    torch.manual_seed(0)
    common = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**common, **heads, **_ENDS, **sizes})).eval()


def gpt2(**sizes: Any) -> Any:
    """A GPT-2 of two layers, whose embedding is its head."""
    torch.manual_seed(0)
    common = {"n_layer": 2, "n_head": 4, "n_embd": 16, "vocab_size": 64, "n_positions": 32}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**common, **_ENDS, **sizes})).eval()


def sparse() -> Any:
    """A Qwen2-MoE of one layer, whose shared expert has no width."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    experts |= {"shared_expert_intermediate_size": 0, "vocab_size": 64, "max_position_embeddings": 32}
    return transformers.Qwen2MoeForCausalLM(transformers.Qwen2MoeConfig(**sizes, **experts, **_ENDS)).eval()


def vit() -> Any:
    """A ViT of two layers."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config).eval()


def saved(model: Any, folder: Path, **options: Any) -> Path:
    """Save a model, with a file of a tokenizer beside it; returns the folder."""
    model.save_pretrained(folder, **options)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    return folder


def optimizer_of(model: Any, inputs: dict[str, Tensor]) -> torch.optim.AdamW:
    """AdamW in Trainer's groups, after two steps."""
    decaying = set(transformers.Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups = [[p for n, p in named if n in decaying], [p for n, p in named if n not in decaying]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-3
    )
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


def outputs(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of a model in evaluation mode."""
    with torch.no_grad():
        return model.eval()(**inputs).logits


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def grown(source: Path, out: Path, sizes: Sizes, dtype: str | None = None, **options: Any) -> CheckpointReceipt:
    """Plan and grow a checkpoint."""
    return grow_checkpoint(plan_checkpoint(source, sizes, dtype=dtype), out, **options)
