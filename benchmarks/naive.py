"""What a competent engineer writes in an afternoon: the yardstick of the other benchmarks.

Joint training and scoring of a population that shares blocks, in plain PyTorch: every block a module of its own that
members share, blocks of a layer one after the other, NCHW, float32, one Adam over all, a DataLoader of PIL transforms.
Nothing in it is slow on purpose. It is built from the same genomes and starts from the same weights as ours, so that
losses can be compared.

Its *good* form is as quick to write by someone who knows PyTorch well: channels-last, batches cut from tensors in
memory, a fused Adam, and the precision that ours runs in.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from graftwork.networks.bank import BlockBank
from graftwork.networks.genome import Genome, Layer, Pool
from graftwork.session import Problem

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}


def _copy(module: nn.Module, name: str, value: Tensor) -> None:
    getattr(module, name).data.copy_(value.detach())


class Block(nn.Module):
    """Convolution, batch norm, activation, 1×1 convolution."""

    def __init__(self, in_channels: int, block, activation: str, entry) -> None:
        super().__init__()
        size, hidden, out = block.kernel_size, block.hidden_channels, block.stop - block.start
        self.start, self.stop = block.start, block.stop
        self.convolution = nn.Conv2d(in_channels, hidden, size, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.activation = ACTIVATIONS[activation]()
        self.mixing = nn.Conv2d(hidden, out, 1)
        _copy(self.convolution, "weight", entry["filter"])
        _copy(self.norm, "weight", entry["norm_weight"])
        _copy(self.norm, "bias", entry["norm_bias"])
        _copy(self.mixing, "weight", entry["mixing"])
        _copy(self.mixing, "bias", entry["bias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.mixing(self.activation(self.norm(self.convolution(x))))


class Sum(nn.Module):
    """A residual, zero-padded where channels grow, plus blocks that each write a range of channels."""

    def __init__(self, out_channels: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        out = F.pad(x, (0, 0, 0, 0, 0, self.out_channels - x.shape[1]))
        for block in self.blocks:
            out = out + F.pad(block(x), (0, 0, 0, 0, block.start, self.out_channels - block.stop))
        return out


class Head(nn.Module):
    """Pooling or flattening, then one or two linear maps."""

    def __init__(self, genome: Genome, entry) -> None:
        super().__init__()
        head = genome.head
        self.pooling, self.scale = head.pooling, head.scale
        last = head.hidden_features or genome.head_features
        self.hidden = nn.Linear(genome.head_features, last) if head.kind == "mlp" else None
        self.activation = ACTIVATIONS[genome.activation]()
        self.linear = nn.Linear(last, genome.num_classes)
        _copy(self.linear, "weight", entry["weight"])
        _copy(self.linear, "bias", entry["bias"])
        if self.hidden is not None:
            _copy(self.hidden, "weight", entry["hidden"])
            _copy(self.hidden, "bias", entry["hidden_bias"])

    def forward(self, x: Tensor) -> Tensor:
        if self.pooling == "max":
            x = F.adaptive_max_pool2d(x, 1)
        elif self.pooling == "avg":
            x = F.adaptive_avg_pool2d(x, 1)
        x = x.flatten(1)
        if self.hidden is not None:
            x = self.activation(self.hidden(x))
        return self.linear(x) * self.scale


class Stem(nn.Module):
    """Fixed convolution with a learned bias, and an activation."""

    def __init__(self, genome: Genome, entry) -> None:
        super().__init__()
        stem = genome.stem
        self.convolution = nn.Conv2d(genome.input_shape[0], stem.out_channels, stem.kernel_size, padding=stem.padding)
        _copy(self.convolution, "weight", entry["filter"])
        _copy(self.convolution, "bias", entry["bias"])
        self.convolution.weight.requires_grad_(False)
        self.activation = ACTIVATIONS[genome.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolution(x))


def build(genomes: Sequence[Genome], bank: BlockBank) -> list[nn.Module]:
    """One `nn.Sequential` a member; blocks, stems and heads of the same name are the same module."""
    shared: dict[str, nn.Module] = {}

    def once(name: str, make) -> nn.Module:
        if name not in shared:
            shared[name] = make()
        return shared[name]

    members = []
    for genome in genomes:
        if genome.norm != "batch" or genome.head.kind == "r2r" or genome.stem.kind == "conv":
            raise SystemExit(f"naive.py builds batch norm, whitening stems, and linear and mlp heads; got {genome}")
        parts: list[nn.Module] = []
        if genome.stem.kind == "whiten":
            parts.append(once(genome.stem.id, lambda g=genome: Stem(g, bank[g.stem.id])))
        for step in genome.steps():
            item = step.item
            if isinstance(item, Pool):
                parts.append((nn.MaxPool2d if item.kind == "max" else nn.AvgPool2d)(item.size))
            elif isinstance(item, Layer):
                width, act = step.in_shape[0], genome.activation
                blocks = [once(b.id, lambda b=b, w=width, a=act: Block(w, b, a, bank[b.id])) for b in item.blocks]
                parts.append(Sum(item.out_channels, blocks))
        parts.append(once(genome.head.id, lambda g=genome: Head(g, bank[g.head.id])))
        members.append(nn.Sequential(*parts))
    return members


def channels_last(members: Sequence[nn.Module]) -> list[nn.Module]:
    """The same members, their filters in the order of memory that convolutions like."""
    return [member.to(memory_format=torch.channels_last) for member in members]


def optimizer(
    members: Sequence[nn.Module], *, lr: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.Adam:
    """One Adam over all shared weights."""
    parameters = {id(p): p for member in members for p in member.parameters() if p.requires_grad}
    return torch.optim.Adam(parameters.values(), lr=lr, weight_decay=weight_decay, fused=fused)


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def train_step(
    member: nn.Module, adam: torch.optim.Optimizer, x: Tensor, y: Tensor, precision: str = "float32"
) -> float:
    """One update of one member; zero_grad leaves None, so that Adam skips what the member does not use."""
    member.train()
    adam.zero_grad()
    with _autocast(precision):
        logits = member(x)
    loss = F.cross_entropy(logits.float() if precision == "bfloat16" else logits, y)
    loss.backward()
    adam.step()
    return loss.item()


@torch.no_grad()
def score(
    members: Sequence[nn.Module],
    calibration: Tensor,
    images: Tensor,
    *,
    batch_size: int = 500,
    precision: str = "float32",
) -> Tensor:
    """Classes [members, N]: statistics made anew from the calibration images, then every member by itself."""
    with _autocast(precision):
        return _score(members, calibration, images, batch_size)


def _score(members: Sequence[nn.Module], calibration: Tensor, images: Tensor, batch_size: int) -> Tensor:
    found = []
    for member in members:
        norms = [module for module in member.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        member.train()
        member(calibration)
        member.eval()
        found.append(torch.cat([member(part).argmax(1) for part in images.split(batch_size)]))
    return torch.stack(found)


class Pictures(Dataset):
    """PIL images, with the usual transforms: shift by padding and cropping, mirror, to tensor, normalise."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, mean, std, shift: int, flip: bool, seed: int) -> None:
        self.images = [Image.fromarray(image) for image in images]
        self.labels, self.shift, self.flip = labels, shift, flip
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.shift:
            width, height = image.size
            x, y = self.rng.integers(2 * self.shift + 1, size=2)
            image = ImageOps.expand(image, self.shift).crop((x, y, x + width, y + height))
        if self.flip and self.rng.random() < 0.5:
            image = ImageOps.mirror(image)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (tensor - self.mean) / self.std, int(self.labels[index])


def pictures(problem: Problem, rows: np.ndarray, *, shift: int = 0, flip: bool = False, seed: int = 0) -> Pictures:
    """Of some rows, normalised as the problem is."""
    return Pictures(
        np.asarray(problem.dataset.images[rows]), np.asarray(problem.dataset.labels[rows]),
        mean=problem.transform.mean, std=problem.transform.std, shift=shift, flip=flip, seed=seed,
    )  # fmt: skip


def loader(pictures: Pictures, *, batch_size: int, seed: int) -> DataLoader:
    """Shuffled full batches."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(pictures, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator)


class TensorBatches:
    """Endless batches cut from one tensor in memory: shuffled, shifted, mirrored, normalised, channels-last."""

    def __init__(self, pictures: Pictures, *, batch_size: int, seed: int) -> None:
        images = torch.from_numpy(np.stack([np.asarray(image) for image in pictures.images])).permute(0, 3, 1, 2)
        self.size, self.shift, self.flip = images.shape[-2:], pictures.shift, pictures.flip
        self.images = F.pad(images, (self.shift,) * 4).contiguous(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(pictures.labels).long()
        self.mean, self.std = pictures.mean, pictures.std
        self.batch_size, self.generator = batch_size, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for rows in torch.randperm(len(self.images), generator=self.generator).split(self.batch_size):
                if len(rows) == self.batch_size:
                    yield self._changed(rows), self.labels[rows]

    def _changed(self, rows: Tensor) -> Tensor:
        height, width = self.size
        places = torch.randint(2 * self.shift + 1, (len(rows), 2), generator=self.generator).tolist()
        cut = [self.images[row, :, y : y + height, x : x + width] for row, (y, x) in zip(rows, places, strict=True)]
        x = torch.stack(cut).float().div_(255).sub_(self.mean).div_(self.std)
        if self.flip:
            chosen = torch.rand(len(rows), 1, 1, 1, generator=self.generator) < 0.5
            x = torch.where(chosen, x.flip(-1), x)
        return x.contiguous(memory_format=torch.channels_last)
