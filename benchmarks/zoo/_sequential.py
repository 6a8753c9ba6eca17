"""Own implementations of sequence models: nanoGPT, and sequence-to-sequence with attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalAttention(nn.Module):
    """Packed projections, split in three, heads by ``view``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.heads, self.width = heads, width

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.c_attn(x).split(self.width, dim=2)
        q, k, v = (part.view(b, t, self.heads, self.width // self.heads).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, self.width))


class GPTBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """A small GPT-2: learned positions, the output layer tied to the embedding."""

    def __init__(
        self, vocabulary: int = 32, width: int = 24, heads: int = 4, depth: int = 4, context: int = 16
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Seq2Seq(nn.Module):
    """Bidirectional LSTM encoder, GRU decoder with additive attention (Bahdanau et al. 2015), teacher forcing."""

    def __init__(self, vocabulary: int = 20, width: int = 10, hidden: int = 12) -> None:
        super().__init__()
        self.source = nn.Embedding(vocabulary, width)
        self.target = nn.Embedding(vocabulary, width)
        self.encoder = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(2 * hidden, hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(2 * hidden, hidden, bias=False)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.GRUCell(width + 2 * hidden, hidden)
        self.out = nn.Linear(hidden + 2 * hidden, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, _ = self.encoder(self.source(source))
        state = torch.tanh(self.bridge(memory[:, -1]))
        keys, steps = self.key(memory), []
        for token in self.target(target).unbind(1):
            scores = self.energy(torch.tanh(keys + self.query(state)[:, None])).softmax(1)
            context = (scores * memory).sum(1)
            state = self.decoder(torch.cat([token, context], -1), state)
            steps.append(self.out(torch.cat([state, context], -1)))
        return torch.stack(steps, 1)


class ConvGRUTagger(nn.Module):
    """Character convolutions beside word embeddings, a bidirectional GRU, a tag for every word."""

    def __init__(self, vocabulary: int = 20, tags: int = 5) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, 8)
        self.convs = nn.ModuleList(nn.Conv1d(8, 6, size, padding=size // 2) for size in (3, 5))
        self.recurrent = nn.GRU(20, 10, bidirectional=True, batch_first=True)
        self.hidden = nn.Linear(20, 16)
        self.tags = nn.Linear(16, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        local = [F.relu(conv(x.transpose(1, 2))).transpose(1, 2) for conv in self.convs]
        y, _ = self.recurrent(torch.cat([x, *local], -1))
        return self.tags(torch.relu(self.hidden(y)))
