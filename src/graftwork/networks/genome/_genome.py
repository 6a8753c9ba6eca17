"""Genome: what a network *is*."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from graftwork import _files
from graftwork.errors import GenomeError
from graftwork.networks.genome._parts import Block, Head, Layer, Pool, Stem, check_choice, check_even, check_positive
from graftwork.typing import ACTIVATIONS, NORMS, Activation, BlockId, Norm, Shape

FORMAT_VERSION = 1
"""Version of the JSON form; it goes up when old readers would misread new files."""


_MOST_ITEMS, _MOST_BLOCKS = 1000, 10_000
"""A genome may come from anybody."""


class Step(NamedTuple):
    """One item of a genome with the shapes around it."""

    position: int  # in `Genome.body`
    item: Layer | Pool
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True)
class Genome:
    """The architecture of one network, without its weights: hashable, comparable, printable.

    Args:
        input_shape: Channels, height and width of the images.
        num_classes: Number of classes, at least 2.
        body: Layers and pools in order.
        stem: What comes before the body.
        head: The classifier after the body.
        activation: Activation everywhere in the network.
        norm: Norm inside every block; ``"layer"`` is taken inside each twin half.

    Raises:
        GenomeError: If no such network exists; the message names the layer and block.
    """

    input_shape: Shape
    num_classes: int
    body: tuple[Layer | Pool, ...]
    stem: Stem = field(default_factory=Stem)
    head: Head = field(default_factory=Head)
    activation: Activation = "relu"
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "body", tuple(self.body))
        if len(self.input_shape) != 3:
            raise GenomeError(f"genome: input_shape: expected (channels, height, width), got {self.input_shape!r}")
        for name, size in zip(("channels", "height", "width"), self.input_shape, strict=True):
            check_positive(f"input {name}", size, "genome")
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise GenomeError(f"genome: num_classes: expected an integer >= 2, got {self.num_classes!r}")
        check_choice("activation", self.activation, ACTIVATIONS, "genome")
        check_choice("norm", self.norm, NORMS, "genome")
        if not self.layers:
            raise GenomeError("genome: body: expected at least one layer, got none")
        if len(self.body) > _MOST_ITEMS or sum(len(layer.blocks) for layer in self.layers) > _MOST_BLOCKS:
            raise GenomeError(
                f"genome: body: expected at most {_MOST_ITEMS} items and {_MOST_BLOCKS} blocks, got {len(self.body)} "
                "items or more blocks"
            )
        self._check_ids()
        self._check_shapes()

    def _check_ids(self) -> None:
        seen: dict[BlockId, str] = {}
        named: list[tuple[BlockId, str]] = [(self.head.id, "head")]
        if self.stem.kind != "none":
            named.append((self.stem.id, "stem"))
        for index, item in enumerate(self.body):
            if isinstance(item, Layer):
                named += [(block.id, f"layer {index}") for block in item.blocks]
        for block_id, where in named:
            if block_id in seen:
                raise GenomeError(
                    f"genome: expected ids that differ, got {block_id!r} twice, in {seen[block_id]} and in {where}"
                )
            seen[block_id] = where

    def _check_shapes(self) -> None:
        channels, height, width = self.input_shape
        limit = 2 * channels * self.stem.kernel_size**2
        if self.stem.kind == "whiten" and self.stem.out_channels > limit:
            raise GenomeError(
                f"stem: out_channels: expected at most {limit}, as patches of "
                f"{channels}x{self.stem.kernel_size}x{self.stem.kernel_size} have {limit // 2} whitening filters, "
                f"got {self.stem.out_channels}"
            )
        if self.stem.kind == "whiten" and self.stem.kernel_size > min(height, width):
            raise GenomeError(
                f"stem: kernel_size: expected whitening patches that fit into {height}x{width} images, got "
                f"{self.stem.kernel_size}x{self.stem.kernel_size}; take a smaller kernel_size"
            )
        if self.norm == "layer" and self.stem.kind == "conv":
            check_even("out_channels", self.stem.out_channels, "stem under layer norm")
        if self.norm == "instance" and self.head.kind == "r2r":
            raise GenomeError(
                "head: kind: expected 'linear' or 'mlp' under norm 'instance', got 'r2r', whose features would be "
                "normalised one by one to a constant; take another norm or kind"
            )
        if min(self.stem_shape[1:]) < 1:
            raise GenomeError(
                f"stem: kernel_size: expected one that leaves something of {height}x{width} images, "
                f"got {self.stem.kernel_size}"
            )
        for step in self.steps():
            if min(step.out_shape[1:]) < 1:
                raise GenomeError(
                    f"pool {step.position}: expected one that leaves something of its "
                    f"{step.in_shape[1]}x{step.in_shape[2]} input, got {step.item!r}; take out a pool"
                )
            if isinstance(step.item, Layer) and step.item.out_channels < step.in_shape[0]:
                raise GenomeError(
                    f"layer {step.position}: out_channels: expected at least the {step.in_shape[0]} channels of its "
                    f"input (the residual is padded, never cut), got {step.item.out_channels}"
                )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of `body`, without its pools."""
        return tuple(item for item in self.body if isinstance(item, Layer))

    @property
    def stem_shape(self) -> Shape:
        """Shape of the stem's output."""
        if self.stem.kind == "none":
            return self.input_shape
        stem = self.stem
        height, width = (
            (side + 2 * stem.padding - stem.kernel_size) // stem.stride + 1 for side in self.input_shape[1:]
        )
        return stem.out_channels, height, width

    def steps(self) -> Iterator[Step]:
        """Walk `body` with the shape before and after each item."""
        shape = self.stem_shape
        for index, item in enumerate(self.body):
            if isinstance(item, Layer):
                out = (item.out_channels, shape[1], shape[2])
            else:
                out = (shape[0], shape[1] // item.size, shape[2] // item.size)
            yield Step(index, item, shape, out)
            shape = out

    @property
    def features_shape(self) -> Shape:
        """Shape of what the head receives."""
        return list(self.steps())[-1].out_shape

    @property
    def head_features(self) -> int:
        """Number of features after the head's pooling or flattening."""
        channels, height, width = self.features_shape
        return channels * height * width if self.head.pooling == "none" else channels

    @property
    def penultimate_features(self) -> int:
        """Number of features that the last linear layer receives."""
        return self.head_features if self.head.kind == "linear" else self.head.hidden_features

    def blocks(self) -> Iterator[Block]:
        """All blocks in order."""
        for layer in self.layers:
            yield from layer.blocks

    @property
    def ids(self) -> tuple[BlockId, ...]:
        """Every bank entry that the network uses, in forward order."""
        stem = () if self.stem.kind == "none" else (self.stem.id,)
        return (*stem, *(block.id for block in self.blocks()), self.head.id)

    def replace(self, **changes: Any) -> "Genome":
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def at_size(self, height: int, width: int) -> "Genome":
        """The same network, with the same parameters, for images of another size.

        Raises:
            GenomeError: If the head has a weight for every position, or too little is left of the images.
        """
        if self.head.pooling == "none":
            raise GenomeError(
                f"genome: expected a head that pools globally (avg or max) for images of {height}x{width}, got one "
                f"with a weight for every position of {self.input_shape[1]}x{self.input_shape[2]} images"
            )
        return self.replace(input_shape=(self.input_shape[0], height, width))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        body = [
            {"type": "layer", **asdict(item)} if isinstance(item, Layer) else {"type": "pool", **asdict(item)}
            for item in self.body
        ]
        return {
            "format": FORMAT_VERSION,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "activation": self.activation,
            "norm": self.norm,
            "stem": {name: value for name, value in asdict(self.stem).items() if (name, value) != ("stride", 1)},
            "body": body,
            "head": asdict(self.head),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """The genome as JSON; `from_json` gives an equal genome back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Genome":
        """Read what `to_dict` wrote.

        Raises:
            GenomeError: If the format version is unknown, a field is missing or unknown, or the network can't exist.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT_VERSION:
            found = data.get("format") if isinstance(data, dict) else data
            raise GenomeError(f"genome: expected format {FORMAT_VERSION}, got {found!r}")
        with _files.damaged("genome", error=GenomeError):
            return cls(
                tuple(data["input_shape"]),
                data["num_classes"],
                tuple(_item(entry) for entry in data["body"]),
                stem=Stem(**data["stem"]),
                head=Head(**data["head"]),
                activation=data["activation"],
                norm=data["norm"],
            )

    @classmethod
    def from_json(cls, text: str) -> "Genome":
        """Read what `to_json` wrote.

        Raises:
            GenomeError: If the text is not JSON, or not that of a genome.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise GenomeError(f"genome: expected JSON, got something else: {error}") from error
        return cls.from_dict(data)

    @property
    def id(self) -> str:
        """Stable hash of the architecture and the ids of its blocks: the same in every process, 16 hex digits."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        shape, blocks = "×".join(map(str, self.input_shape)), sum(1 for _ in self.blocks())
        return f"<Genome {self.id[:8]}: {shape} → {len(self.layers)} layers, {blocks} blocks → {self.num_classes}>"


def _item(entry: dict[str, Any]) -> Layer | Pool:
    fields = dict(entry)
    kind = fields.pop("type")
    if kind == "pool":
        return Pool(**fields)
    if kind != "layer":
        raise GenomeError(f"genome: body: expected a layer or a pool, got {kind!r}")
    return Layer(fields.pop("out_channels"), tuple(Block(**block) for block in fields.pop("blocks")), **fields)
