"""Member: a genome bound to a bank."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import InputError
from graftwork.networks.bank import BlockBank
from graftwork.networks.execution import Form, Mode, Settings, Statistics, Weights, run_head, run_item, run_stem, walk
from graftwork.networks.genome import Genome
from graftwork.typing import BlockId


class _Buffers(MutableMapping[BlockId, tuple[Tensor, Tensor]]):
    """A member's statistics, kept among its buffers so that ``to``, ``state_dict`` and ``deepcopy`` see them.

    It holds the buffers and not the member: nothing here refers to itself, so that a member that has died gives its
    memory back at once.
    """

    def __init__(self, buffers: dict[str, Tensor | None]) -> None:
        self._buffers = buffers
        self._ids: dict[BlockId, None] = {}

    def __getitem__(self, block_id: BlockId) -> tuple[Tensor, Tensor]:
        if block_id not in self._ids:
            raise KeyError(block_id)
        return self._buffers[f"{block_id}_mean"], self._buffers[f"{block_id}_var"]  # type: ignore[return-value]

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._ids

    def __setitem__(self, block_id: BlockId, value: tuple[Tensor, Tensor]) -> None:
        self._ids[block_id] = None
        self._buffers[f"{block_id}_mean"], self._buffers[f"{block_id}_var"] = value

    def __delitem__(self, block_id: BlockId) -> None:
        del self._ids[block_id], self._buffers[f"{block_id}_mean"], self._buffers[f"{block_id}_var"]

    def __iter__(self) -> Iterator[BlockId]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class Member(nn.Module):
    """One network of a population: reads its weights from the bank, owns only its running statistics.

    In training mode batch statistics are used and *nothing is written*; `recalibrate` alone makes the running
    statistics that evaluation mode reads. Made by `bind`.
    """

    def __init__(self, genome: Genome, weights: Weights, *, form: Form = "fused") -> None:
        super().__init__()
        self.genome = genome
        self.form: Form = form
        self.weights: Weights = weights
        self.statistics: Statistics = _Buffers(self._buffers)

    def settings(self, mode: Mode) -> Settings:
        """The settings by which this member runs in a mode."""
        return Settings(mode, self.form, self.genome.activation, self.genome.norm, self.statistics)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W].

        Raises:
            InputError: If the images are not of the genome's shape.
        """
        if tuple(x.shape[1:]) != self.genome.input_shape:
            raise InputError(
                f"member: expected images [B, {', '.join(map(str, self.genome.input_shape))}], got {list(x.shape)}"
            )
        settings = self.settings("train" if self.training else "evaluate")
        x = run_stem(self.genome.stem, x, self.weights, settings)
        for item in self.genome.body:
            x = run_item(item, x, self.weights, settings)
        return run_head(self.genome, x, self.weights, settings)

    def parameters_by_key(self) -> dict[str, nn.Parameter]:
        """The bank's tensors that this member uses: ``"<block id>/<tensor name>"`` → parameter."""
        return {
            f"{block_id}/{name}": tensor  # type: ignore[misc]
            for block_id, entry in self.weights.items()
            for name, tensor in entry.items()
        }

    def share_statistics(self, parent: "Member") -> None:
        """Start with the parent's statistics where both have the entry.

        The tensors themselves are shared, as nothing writes a statistics tensor in place: a large population holds one
        pair for each block until it is scored.
        """
        self.statistics.update({i: parent.statistics[i] for i in self.statistics if i in parent.statistics})

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        # loading copies into the buffers in place, so none of them may be shared with another member
        self.statistics.update({i: (mean.clone(), var.clone()) for i, (mean, var) in self.statistics.items()})
        super()._load_from_state_dict(*arguments, **options)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.genome!r}, form={self.form!r}"


def _normed_entries(
    genome: Genome, weights: Mapping[BlockId, Mapping[str, Tensor]]
) -> Iterator[tuple[BlockId, Tensor]]:
    if genome.norm == "batch":
        for block_id in genome.ids:
            if "norm_weight" in weights[block_id]:
                yield block_id, weights[block_id]["norm_weight"]


def bind(genome: Genome, bank: BlockBank, *, form: Form = "fused") -> Member:
    """Give a genome its weights.

    Args:
        genome: What the network is.
        bank: Owner of the weights; shared with every other member bound to it.
        form: ``"fused"`` runs all blocks of a layer together; ``"reference"`` every half of every block apart, where
            a zero-initialised block gives exactly zero.

    Returns:
        A member in training mode whose running statistics are mean 0 and variance 1.

    Raises:
        BankError: If the bank lacks one of the genome's entries.
    """
    member = Member(genome, {block_id: bank[block_id] for block_id in genome.ids}, form=form)
    for block_id, weight in _normed_entries(genome, member.weights):
        member.statistics[block_id] = (torch.zeros_like(weight).detach(), torch.ones_like(weight).detach())
    return member


@torch.no_grad()
def recalibrate(members: list[Member], images: Tensor) -> None:
    """Rewrite the running statistics of members from one fixed set of training images.

    One pass over the trie of genomes in evaluation order: each batch norm takes mean and variance of the whole set, as
    the layers before it (already normalised) hand it on. Statistics then depend on genome, weights and images alone.

    Args:
        members: Members over one bank; their mode is left alone.
        images: Normalised images [N, C, H, W], a thousand or so, run as one batch.
    """
    for _ in walk(members, images, "calibrate"):
        pass
