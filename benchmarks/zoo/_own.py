"""The architectures written in this folder, and their written site lists."""

import torch

from zoo._architecture import Architecture, images, tokens
from zoo._compact import EfficientNet, Mixer, ShuffleNet, UNet
from zoo._convolutional import VGG, BasicBlock, Bottleneck, DenseNet, Inception, ResNet
from zoo._sequential import ConvGRUTagger, NanoGPT, Seq2Seq


def _sentences(n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(20, (n, 5), generator=g), torch.randint(20, (n, 4), generator=g)


OWN = (
    Architecture(
        name="resnet-18",
        package="own",
        build=lambda: ResNet(BasicBlock, (2, 2, 2, 2)),
        batch=images(64),
        rules=(("fc", "output"), ("**", "widen")),
        deepen=("layers.*", "layers.*.*", "layers.*.*.conv*", "conv1"),
    ),
    Architecture(
        name="resnet-50",
        package="own",
        build=lambda: ResNet(Bottleneck, (3, 4, 6, 3), width=4),
        batch=images(64),
        rules=(("fc", "output"), ("**", "widen")),
        deepen=("layers.*", "layers.*.*", "conv1"),
    ),
    Architecture(
        name="densenet-121",
        package="own",
        build=DenseNet,
        batch=images(64),
        rules=(("classifier", "output"), ("**", "widen")),
        deepen=("stem", "blocks.*", "blocks.*.layers.*", "transitions.*"),
    ),
    Architecture(
        name="vgg-16",
        package="own",
        build=VGG,
        batch=images(64),
        rules=(("classifier.6", "output"), ("**", "widen")),
        deepen=("features", "features.*", "classifier.0", "classifier.3"),
    ),
    Architecture(
        name="inception",
        package="own",
        build=Inception,
        batch=images(64),
        rules=(("fc", "output"), ("auxiliary.3", "output"), ("**", "widen")),
        deepen=("stem", "stem.*", "block*", "block*.*"),
    ),
    Architecture(
        name="u-net",
        package="own",
        build=UNet,
        batch=images(32),
        rules=(("out", "output"), ("**", "widen")),
        deepen=("downs.*", "middle", "ups.*", "joins.*"),
    ),
    Architecture(
        name="efficientnet-b0",
        package="own",
        build=EfficientNet,
        batch=images(64),
        rules=(("fc", "output"), ("**", "widen")),
        deepen=("stem", "blocks.*", "blocks.*.depthwise", "head"),
    ),
    Architecture(
        name="shufflenet-v2",
        package="own",
        build=ShuffleNet,
        batch=images(64),
        rules=(("fc", "output"), ("**", "widen")),
        deepen=("stem", "units.*", "head"),
    ),
    Architecture(
        name="mlp-mixer",
        package="own",
        build=Mixer,
        batch=images(16),
        # tokens.2 makes the patches again, which is no width that a person would change: the inputs have it.
        rules=(
            ("fc", "output"),
            ("embed", "norm"),
            ("blocks.*.tokens.0", "widen"),
            ("blocks.*.tokens.2", "fixed"),
            ("blocks.*.channels.0", "widen"),
            ("blocks.*.channels.2", "norm"),
        ),
        deepen=("blocks.*", "blocks.*.channels"),
    ),
    Architecture(
        name="nanogpt",
        package="own",
        build=NanoGPT,
        batch=tokens(32, 12),
        rules=(
            ("lm_head", "output"),
            ("wte", "norm"),
            ("wpe", "norm"),
            ("blocks.*.attn.c_attn", "widen"),
            ("blocks.*.attn.c_proj", "norm"),
            ("blocks.*.mlp.0", "widen"),
            ("blocks.*.mlp.2", "norm"),
        ),
        deepen=("wte", "blocks.*", "blocks.*.attn", "blocks.*.mlp"),
    ),
    Architecture(
        name="seq2seq",
        package="own",
        build=Seq2Seq,
        batch=_sentences,
        # The energy is one number for every word, not a channel.
        rules=(("out", "output"), ("energy", "fixed"), ("**", "widen")),
        deepen=("source", "target", "encoder", "bridge"),
    ),
    Architecture(
        name="conv-gru-tagger",
        package="own",
        build=ConvGRUTagger,
        batch=tokens(20, 7),
        rules=(("tags", "output"), ("**", "widen")),
        deepen=("words", "convs.*", "recurrent", "hidden"),
    ),
)
