"""All networks over a seed's layers whose blocks one bank can hold."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.evolution.transforms import even
from graftwork.networks.genome import Block, Genome, Layer, Pool
from graftwork.typing import KERNEL_SIZES, BlockId

# A worked example. The seed is a layer of 16 channels with 8 hidden ones, then a pool. The space has two slots: that
# layer, and one after it that may be left out; and the pool. At each slot the bank holds twelve blocks of 4 hidden
# channels, four of each kernel size. The choices (7, 0) make a layer of the first four 3×3 blocks, and no second one.


class Space:
    """Networks in which every layer of a seed has one kernel size and a width, and may be followed by another layer.

    A slot is a layer with one to ``num_parts`` parallel blocks of kernel size 1, 3 or 5, each half as wide as the
    seed's layer: from half to twice its width. Behind every layer of the seed is a second slot of the same width, which
    may be empty. Stem, pools and head are the seed's. Wider networks contain the blocks of narrower ones.

    Args:
        seed: The network that the space is built around.
    """

    num_parts: ClassVar[int] = 4
    num_options: ClassVar[int] = 1 + len(KERNEL_SIZES) * num_parts
    """Option 0 leaves a slot out; option ``1 + a · num_parts + n`` is kernel size number ``a`` in ``n + 1`` parts."""

    def __init__(self, seed: Genome) -> None:
        self.seed = seed
        self._slots: list[tuple[int, int, int, bool]] = []  # position in the seed, width, hidden channels, optional
        for at, item in enumerate(seed.body):
            if isinstance(item, Layer):
                hidden = even(sum(block.hidden_channels for block in item.blocks) / 2)
                self._slots += [(at, item.out_channels, hidden, optional) for optional in (False, True)]

    @cached_property
    def allowed(self) -> Tensor:
        """Which options a slot has, bool [slots, options]."""
        allowed = torch.ones(len(self._slots), self.num_options, dtype=torch.bool)
        allowed[:, 0] = torch.tensor([optional for *_, optional in self._slots])
        return allowed

    def genome(self, choices: Sequence[int] | NDArray[np.int64]) -> Genome:
        """The network that options [slots] make."""
        parts = [divmod(int(choice) - 1, self.num_parts) for choice in choices]
        return self._genome([[] if which < 0 else [(which, n) for n in range(last + 1)] for which, last in parts])

    @property
    def smallest(self) -> tuple[NDArray[np.int64], Genome]:
        """The network with the least parameters, and its options."""
        choices = np.array([0 if optional else 1 for *_, optional in self._slots], dtype=np.int64)
        return choices, self.genome(choices)

    @property
    def whole(self) -> Genome:
        """A network of every block of the space, to fill a bank with."""
        every = [(which, n) for which in range(len(KERNEL_SIZES)) for n in range(self.num_parts)]
        return self._genome([every] * len(self._slots))

    def _genome(self, parts: Sequence[Sequence[tuple[int, int]]]) -> Genome:
        layers: dict[int, list[Layer | Pool]] = {}
        for slot, (at, width, hidden, _) in enumerate(self._slots):
            blocks = tuple(
                Block(BlockId(f"space-{slot}-k{KERNEL_SIZES[which]}-{n}"), KERNEL_SIZES[which], hidden, 0, width)
                for which, n in parts[slot]
            )
            layers.setdefault(at, []).extend([Layer(width, blocks)] if blocks else [])
        body = [new for at, item in enumerate(self.seed.body) for new in layers.get(at, [item])]
        return self.seed.replace(body=tuple(body))
