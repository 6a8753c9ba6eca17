"""The policy of transformation by reinforcement: one encoder of networks, and two actors that change them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.evolution.strategies._controller import picked
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, Transform, even
from graftwork.networks.genome import Genome, Layer
from graftwork.typing import KERNEL_SIZES

SIZES = (4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 576, 640)
"""Hidden channels that a layer is widened to, one after the other."""
MOST_TOKENS, NUM_STAGES, MOST_LAYERS = 50, 6, 10
POOL = len(SIZES) * len(KERNEL_SIZES)
HEAD, NUM_TOKENS = POOL + 1, POOL + 2

Kind = Literal["wider", "deeper"]
Sites = list[list[int]]


def hidden_of(layer: Layer) -> int:
    """Hidden channels of a layer's blocks together."""
    return sum(block.hidden_channels for block in layer.blocks)


def tokens_of(genome: Genome) -> list[int]:
    """A network as tokens: width (the nearest of `SIZES` above) and largest kernel of each layer, pools, the head."""
    tokens = []
    for item in genome.body[: MOST_TOKENS - 1]:
        if isinstance(item, Layer):
            size = next((row for row, size in enumerate(SIZES) if size >= hidden_of(item)), len(SIZES) - 1)
            kernel = max(block.kernel_size for block in item.blocks)
            tokens.append(size * len(KERNEL_SIZES) + KERNEL_SIZES.index(kernel))
        else:
            tokens.append(POOL)
    return [*tokens, HEAD]


def stages_of(tokens: Sequence[int]) -> Sites:
    """Positions of the layers between pools that the deeper actor can name."""
    stages: Sites = [[]]
    for position, token in enumerate(tokens):
        if token == POOL:
            stages.append([])
        elif token < POOL:
            stages[-1].append(position)
    return [stage[:MOST_LAYERS] for stage in stages[:NUM_STAGES]]


def transforms_of(genome: Genome, kind: Kind, choices: Sequence[int]) -> list[Transform]:
    """What an action does to a network: R2RWiden of the layers that are marked, or one R2RDeepen."""
    if kind == "deeper":
        stage, number, kernel = choices
        position = stages_of(tokens_of(genome))[stage][number]
        layer = genome.body[position]
        assert isinstance(layer, Layer)
        return [R2RDeepen(position + 1, (KERNEL_SIZES[kernel],), even(hidden_of(layer)))]
    found: list[Transform] = []
    for position, (item, chosen) in enumerate(zip(genome.body, choices, strict=False)):
        if chosen and isinstance(item, Layer):
            extra = next(size for size in SIZES if size > hidden_of(item)) - hidden_of(item)
            found.append(R2RWiden(position, item.blocks[0].kernel_size, even(extra)))
    return found


class Policy(nn.Module):
    """Encoder and actors of Cai et al. (2018).

    A bidirectional LSTM reads the tokens of a network. The *wider* actor says for each layer, by one shared sigmoid,
    whether it is widened. The *deeper* actor, an LSTM that begins with the encoder's last state, chooses a stage
    between pools, a layer in it, and the kernel size of the new layer behind it.
    """

    def __init__(self, embedding: int = 16, units: int = 50) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(NUM_TOKENS, embedding))
        self.encoder = nn.LSTM(embedding, units, bidirectional=True, batch_first=True)
        self.wider = nn.Linear(2 * units, 1)
        self.decoder = nn.LSTMCell(embedding, 2 * units)
        options = (NUM_STAGES, MOST_LAYERS, len(KERNEL_SIZES))
        self.told = nn.ParameterList(torch.zeros(count, embedding) for count in (1, *options[:2]))
        self.deeper = nn.ModuleList(nn.Linear(2 * units, count) for count in options)

    def _encoded(self, tokens: Sequence[int]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, (hidden, memory) = self.encoder(self.embedding[list(tokens)][None])
        return out[0], (hidden.reshape(1, -1), memory.reshape(1, -1))

    def act(
        self,
        tokens: Sequence[int],
        kind: Kind,
        *,
        rng: np.random.Generator | None = None,
        choices: Sequence[int] = (),
    ) -> tuple[list[int], Tensor, Tensor]:
        """Sample an action, or judge one.

        Args:
            tokens: The network.
            kind: Which actor.
            rng: What an action is sampled by; ``None``: ``choices`` are judged.
            choices: What was chosen: 0 or 1 for each token, or stage, layer and kernel.

        Returns:
            The choices, their log-probability and the mean entropy of what they were drawn from, both scalars.
        """
        out, state = self._encoded(tokens)
        if kind == "wider":
            return self._widened(tokens, out, rng, choices)
        return self._deepened(tokens, state, rng, choices)

    def _widened(
        self, tokens: Sequence[int], out: Tensor, rng: np.random.Generator | None, choices: Sequence[int]
    ) -> tuple[list[int], Tensor, Tensor]:
        logits = self.wider(out)[:, 0]
        free = torch.tensor([token < POOL - len(KERNEL_SIZES) for token in tokens])  # not the widest, which can't grow
        logits = torch.stack([torch.zeros_like(logits), logits.masked_fill(~free, float("-inf"))], dim=1)
        chosen = picked(logits, rng).tolist() if rng is not None else list(choices)
        logs = torch.log_softmax(logits, dim=1)
        taken = logs.gather(1, torch.tensor(chosen)[:, None])[:, 0]
        entropy = -(logs.exp() * logs.masked_fill(~free[:, None], 0)).sum(1)
        return chosen, taken.sum(), entropy.sum() / max(1, int(free.sum()))

    def _deepened(
        self, tokens: Sequence[int], state: Any, rng: np.random.Generator | None, choices: Sequence[int]
    ) -> tuple[list[int], Tensor, Tensor]:
        stages, chosen = stages_of(tokens), list[int]()
        x, total, entropy = self.told[0], torch.zeros(()), torch.zeros(())
        for step, head in enumerate(self.deeper):
            state = self.decoder(x, state)
            logits = head(state[0])
            if step == 0:
                there = [row < len(stages) and len(stages[row]) > 0 for row in range(NUM_STAGES)]
            elif step == 1:
                there = [row < len(stages[chosen[0]]) for row in range(MOST_LAYERS)]
            else:
                there = [True] * len(KERNEL_SIZES)
            missing = ~torch.tensor(there)[None]
            logits = logits.masked_fill(missing, float("-inf"))
            chosen.append(int(picked(logits, rng)[0]) if rng is not None else int(choices[step]))
            logs = torch.log_softmax(logits, dim=1)
            total = total + logs[0, chosen[-1]]
            entropy = entropy - (logs.exp() * logs.masked_fill(missing, 0)).sum() / len(self.deeper)
            if step < len(self.told) - 1:
                x = self.told[step + 1][chosen[-1]][None]
        return chosen, total, entropy
