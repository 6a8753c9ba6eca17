"""One architecture of the coverage table: how it is built, and the sites that a person would grow."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("widen", "norm", "output", "fixed")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a model, and the written list of its sites.

    Attributes:
        name: Name in the table.
        package: Distribution on the index that holds its code, ``"own"`` for the files of this folder.
        build: Makes the model with random weights; never downloads.
        batch: Makes the arguments of one call: (number of examples, generator) → tensor, tuple or mapping.
        rules: (pattern, kind) pairs for every module that makes channels; the first that matches counts.
            Kinds: ``widen``, what a person would call widenable; ``norm``, a volume that reaches a LayerNorm or
            RMSNorm over channels; ``output``, a dimension of the model's output; ``fixed``, a dimension that is no
            channel of anything (a table of attention biases).
        deepen: Patterns of the modules after which a person would insert a block.
    """

    name: str
    package: str
    build: Callable[[], nn.Module]
    batch: Callable[[int, torch.Generator], Any]
    rules: tuple[tuple[str, str], ...]
    deepen: tuple[str, ...]

    def listed(self, model: nn.Module) -> dict[str, str]:
        """Return path → kind of every module that makes channels.

        Raises:
            ValueError: A module matches no rule, or a rule matches none.
        """
        found, used = {}, set()
        for path, module in model.named_modules():
            if not makes_channels(module):
                continue
            rule = next((rule for rule in self.rules if matches(rule[0], path)), None)
            if rule is None:
                raise ValueError(f"{self.name}: no rule for {path!r}")
            used.add(rule)
            found[path] = rule[1]
        if unused := [rule for rule in self.rules if rule not in used]:
            raise ValueError(f"{self.name}: rules without a module: {unused}")
        return found

    def deepenable(self, model: nn.Module) -> list[str]:
        """Return the paths after which a person would insert a block.

        Raises:
            ValueError: A pattern matches no module.
        """
        paths = [path for path, _ in model.named_modules()]
        for pattern in self.deepen:
            if not any(matches(pattern, path) for path in paths):
                raise ValueError(f"{self.name}: {pattern!r} matches no module")
        return [path for path in paths if any(matches(pattern, path) for pattern in self.deepen)]


def makes_channels(module: nn.Module) -> bool:
    """Whether a module has a weight that makes channels: convolutions, linear maps, embeddings, recurrent layers."""
    stock = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.RNNBase, nn.RNNCellBase)  # noqa: SLF001
    names = {base.__name__ for base in type(module).__mro__}
    return isinstance(module, stock) or bool(names & {"Conv1D", "Linear"})


def matches(pattern: str, path: str) -> bool:
    """Whether a dotted path matches; ``*`` stays inside one part of the path, ``**`` does not."""
    parts = [re.escape(part).replace(r"\*", "[^.]*") for part in pattern.split("**")]
    return re.fullmatch(".*".join(parts), path) is not None


def images(size: int, channels: int = 3, *, spatial: int = 2) -> Callable[[int, torch.Generator], Tensor]:
    """Return a maker of images [N, channels, size, …]."""
    return lambda n, g: torch.randn(n, channels, *([size] * spatial), generator=g, dtype=torch.float64)


def tokens(vocabulary: int, length: int) -> Callable[[int, torch.Generator], Tensor]:
    """Return a maker of token sequences [N, length]."""
    return lambda n, g: torch.randint(vocabulary, (n, length), generator=g)
