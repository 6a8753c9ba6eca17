"""`vit-pytorch`, `efficientnet-pytorch`, `monai` and `torch-geometric`, in small configurations."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo._architecture import Architecture, images


def _make(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module(module), name)(**options)


def _vit_make(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """Build without torchvision: the package's front page imports its transforms, these models don't use them."""

    def build() -> nn.Module:
        if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
            stub = types.ModuleType("torchvision")
            stub.transforms = types.ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
            sys.modules |= {"torchvision": stub, "torchvision.transforms": stub.transforms}
        return _make(f"vit_pytorch.{module}", name, **options)()

    return build


_ViT = {"image_size": 16, "patch_size": 4, "num_classes": 5, "dim": 24, "depth": 2, "heads": 4, "dim_head": 6}
_ViT |= {"mlp_dim": 32}


def _vit(name: str, module: str, kind: str, *, rules: Any, deepen: Any, size: int = 16, **options: Any) -> Architecture:
    return Architecture(
        name=f"vit-pytorch {name}",
        package="vit-pytorch",
        build=_vit_make(module, kind, **options),
        batch=images(size),
        rules=rules,
        deepen=deepen,
    )


def _layers(qkv: str = "widen", *, last: str = "4", out: str = ".0", prefix: str = "**") -> tuple[tuple[str, str], ...]:
    """Pre-norm layers: (attention, feed-forward) pairs."""
    return (
        (f"{prefix}.to_qkv", qkv),
        (f"{prefix}.to_out{out}", "norm"),
        (f"{prefix}.net.1", "widen"),
        (f"{prefix}.net.{last}", "norm"),
    )


VIT_PYTORCH = (
    _vit(
        "vit",
        "vit",
        "ViT",
        **_ViT,
        rules=(("mlp_head", "output"), ("to_patch_embedding.*", "norm"), *_layers()),
        deepen=("to_patch_embedding", "transformer.layers.*.*"),
    ),
    _vit(
        "simple-vit",
        "simple_vit",
        "SimpleViT",
        **_ViT,
        rules=(("linear_head", "output"), ("to_patch_embedding.*", "norm"), *_layers(last="3", out="")),
        deepen=("to_patch_embedding", "transformer.layers.*.*"),
    ),
    _vit(
        "parallel-vit",
        "parallel_vit",
        "ViT",
        **_ViT,
        rules=(("mlp_head.*", "output"), ("to_patch_embedding.*", "norm"), *_layers()),
        deepen=("to_patch_embedding", "transformer.layers.*.*"),
    ),
    # Its re-attention norms over heads.
    _vit(
        "deepvit",
        "deepvit",
        "DeepViT",
        **_ViT,
        rules=(("mlp_head.*", "output"), ("to_patch_embedding.*", "norm"), *_layers("norm")),
        deepen=("to_patch_embedding", "transformer.layers.*.*"),
    ),
    # Talking heads: two linear maps across heads.
    _vit(
        "cait",
        "cait",
        "CaiT",
        **_ViT,
        cls_depth=1,
        rules=(
            ("mlp_head.*", "output"),
            ("to_patch_embedding.*", "norm"),
            ("**.to_q", "widen"),
            ("**.to_kv", "widen"),
            ("**.to_out.0", "norm"),
            ("**.net.1", "widen"),
            ("**.net.4", "norm"),
        ),
        deepen=("to_patch_embedding", "*_transformer.layers.*.*"),
    ),
    _vit(
        "cct",
        "cct",
        "CCT",
        size=32,
        img_size=(32, 32),
        embedding_dim=24,
        n_conv_layers=2,
        kernel_size=3,
        stride=1,
        padding=1,
        pooling_kernel_size=3,
        pooling_stride=2,
        pooling_padding=1,
        num_layers=2,
        num_heads=4,
        mlp_ratio=2.0,
        num_classes=5,
        positional_embedding="learnable",
        stochastic_depth_rate=0.0,
        rules=(
            ("classifier.fc", "output"),
            ("tokenizer.conv_layers.0.0", "widen"),
            ("tokenizer.conv_layers.1.0", "norm"),
            ("classifier.attention_pool", "fixed"),
            ("**.qkv", "widen"),
            ("**.proj", "norm"),
            ("**.linear1", "widen"),
            ("**.linear2", "norm"),
        ),
        deepen=("tokenizer.conv_layers.*", "classifier.blocks.*", "classifier.blocks.*.self_attn"),
    ),
    # Convolutions and batch norms throughout: everything is widenable but the table of attention biases.
    _vit(
        "levit",
        "levit",
        "LeViT",
        size=64,
        image_size=64,
        num_classes=5,
        stages=2,
        dim=(24, 32),
        depth=2,
        heads=(2, 4),
        mlp_mult=2,
        dim_key=6,
        dim_value=8,
        rules=(("mlp_head", "output"), ("**.pos_bias", "fixed"), ("**", "widen")),
        deepen=("conv_embedding", "conv_embedding.*", "backbone.*", "backbone.*.layers.*.*"),
    ),
    # A LayerNorm over channels before every block; the depthwise half of a projection carries that volume.
    _vit(
        "cvt",
        "cvt",
        "CvT",
        size=32,
        num_classes=5,
        s1_emb_dim=12,
        s1_heads=2,
        s2_emb_dim=16,
        s2_heads=2,
        s2_depth=1,
        s3_emb_dim=20,
        s3_heads=2,
        s3_depth=1,
        rules=(
            ("to_logits.*", "output"),
            ("layers.*.0", "norm"),
            ("**.to_q.net.0", "norm"),
            ("**.to_kv.net.0", "norm"),
            ("**.to_q.net.2", "widen"),
            ("**.to_kv.net.2", "widen"),
            ("**.to_out.0", "norm"),
            ("**.net.1", "widen"),
            ("**.net.4", "norm"),
        ),
        deepen=("layers.*.0", "layers.*", "layers.*.2.layers.*.*"),
    ),
    _vit(
        "mobile-vit",
        "mobile_vit",
        "MobileViT",
        size=32,
        image_size=(32, 32),
        dims=[12, 16, 20],
        channels=[4, 8, 8, 8, 12, 12, 16, 16, 20, 20, 24],
        num_classes=5,
        patch_size=(1, 1),
        depths=(1, 1, 1),
        rules=(
            ("to_logits.2", "output"),
            ("trunk.*.1.conv2.0", "norm"),
            *_layers(prefix="trunk.*.1.transformer.**"),
            ("**", "widen"),
        ),
        deepen=("conv1", "stem.*", "trunk.*.*"),
    ),
    _vit(
        "pit",
        "pit",
        "PiT",
        size=32,
        image_size=32,
        patch_size=4,
        dim=24,
        num_classes=5,
        depth=(1, 1),
        heads=4,
        mlp_dim=32,
        dim_head=6,
        rules=(
            ("mlp_head.*", "output"),
            ("to_patch_embedding.*", "norm"),
            *_layers(),
            ("**.downsample.net.*", "norm"),
            ("**.cls_ff", "norm"),
        ),
        deepen=("to_patch_embedding", "layers.*", "layers.*.layers.*.*"),
    ),
)


def _efficientnet() -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name(
        "efficientnet-b0", image_size=64, num_classes=5, width_coefficient=0.25, drop_connect_rate=0.0, dropout_rate=0.0
    )


EFFICIENTNET = (
    Architecture(
        name="efficientnet-pytorch b0",
        package="efficientnet-pytorch",
        build=_efficientnet,
        batch=images(64),
        rules=(("_fc", "output"), ("**", "widen")),
        deepen=("_conv_stem", "_blocks.*", "_conv_head"),
    ),
)


def _monai(
    name: str, kind: str, *, rules: Any, deepen: Any, size: int = 32, spatial: int = 2, **options: Any
) -> Architecture:
    return Architecture(
        name=f"monai {name}",
        package="monai",
        build=_make("monai.networks.nets", kind, in_channels=1, out_channels=2, **options),
        batch=images(size, 1, spatial=spatial),
        rules=rules,
        deepen=deepen,
    )


MONAI = (
    _monai(
        "unet",
        "UNet",
        spatial_dims=2,
        channels=(4, 8, 16),
        strides=(2, 2),
        num_res_units=2,
        rules=(("model.2.1.conv.unit0.conv", "output"), ("model.2.0.conv", "output"), ("**", "widen")),
        deepen=("model.0", "model.1", "model.1.submodule.*"),
    ),
    _monai(
        "basic-unet",
        "BasicUNet",
        spatial_dims=2,
        features=(4, 4, 8, 8, 16, 4),
        rules=(("final_conv", "output"), ("**", "widen")),
        deepen=("conv_0", "down_*", "upcat_*"),
    ),
    # Its group norms have eight groups: one channel each at first, then two and four.
    _monai(
        "segresnet",
        "SegResNet",
        size=16,
        spatial=3,
        spatial_dims=3,
        init_filters=8,
        blocks_down=(1, 1, 1),
        blocks_up=(1, 1),
        rules=(("conv_final.2.conv", "output"), ("**", "widen")),
        deepen=("convInit", "down_layers.*", "up_layers.*"),
    ),
    # The attention gate is one number for every pixel.
    _monai(
        "attention-unet",
        "AttentionUnet",
        spatial_dims=2,
        channels=(4, 8, 16),
        strides=(2, 2),
        rules=(("model.2.conv", "output"), ("**.psi.0.conv", "fixed"), ("**", "widen")),
        deepen=("model.0", "model.1", "model.1.upconv"),
    ),
    _monai(
        "dynunet",
        "DynUNet",
        spatial_dims=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 16],
        rules=(("output_block.conv.conv", "output"), ("**", "widen")),
        deepen=("input_block", "downsamples.*", "bottleneck", "upsamples.*"),
    ),
    _monai(
        "unetr",
        "UNETR",
        size=16,
        spatial=3,
        img_size=16,
        feature_size=4,
        hidden_size=24,
        mlp_dim=32,
        num_heads=4,
        rules=(
            ("out.conv.conv", "output"),
            ("vit.patch_embedding.*", "norm"),
            ("**.linear1", "widen"),
            ("**.linear2", "norm"),
            ("**.attn.out_proj", "norm"),
            ("**.attn.qkv", "widen"),
            ("**", "widen"),
        ),
        deepen=("vit.blocks.*", "encoder*", "decoder*"),
    ),
)


def _graph(n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Node features [nodes, 6] and edges [2, edges]; every node has one edge at least."""
    nodes = 5 * n
    ring = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
    edges = torch.randint(nodes, (2, 4 * n), generator=g)
    return torch.randn(nodes, 6, generator=g, dtype=torch.float64), torch.cat([ring, edges], 1)


def _geometric(name: str, kind: str, *, rules: Any, deepen: Any, **options: Any) -> Architecture:
    return Architecture(
        name=f"torch-geometric {name}",
        package="torch-geometric",
        build=_make(
            "torch_geometric.nn", kind, in_channels=6, hidden_channels=8, out_channels=3, num_layers=3, **options
        ),
        batch=_graph,
        rules=rules,
        deepen=deepen,
    )


GEOMETRIC = (
    _geometric(
        "gcn",
        "GCN",
        norm="batch_norm",
        rules=(("convs.2.lin", "output"), ("**", "widen")),
        deepen=("convs.0", "convs.1"),
    ),
    _geometric(
        "graph-sage", "GraphSAGE", rules=(("convs.2.lin_*", "output"), ("**", "widen")), deepen=("convs.0", "convs.1")
    ),
    _geometric("gin", "GIN", rules=(("convs.2.nn.lins.1", "output"), ("**", "widen")), deepen=("convs.0", "convs.1")),
    _geometric(
        "gat", "GAT", heads=2, rules=(("convs.2.lin", "output"), ("**", "widen")), deepen=("convs.0", "convs.1")
    ),
)

OTHERS = (*VIT_PYTORCH, *EFFICIENTNET, *MONAI, *GEOMETRIC)
