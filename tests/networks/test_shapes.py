"""The shapes that a genome is known to need are those that a new bank has."""

import pytest
import torch
from torch import nn

from graftwork.errors import BankError
from graftwork.networks.bank import BlockBank, check_entries, entry_shapes, grow_bank
from graftwork.networks.genome import SEEDS, Genome, Head, Stem, seed_genome
from graftwork.typing import NORMS

GENOMES = [
    *(seed_genome(name, (3, 32, 32), 10) for name in SEEDS),
    *(seed_genome("poster", (3, 32, 32), 10).replace(norm=norm) for norm in NORMS),
    *(
        seed_genome("poster", (3, 16, 16), 7).replace(stem=Stem("conv", out_channels=4), norm=norm, head=head)
        for norm in ("batch", "none")
        for head in (Head("linear", hidden_features=0), Head("r2r", hidden_features=6), Head("mlp", hidden_features=5))
        if seed_genome("poster", (3, 16, 16), 7).layers[0].out_channels >= 4
    ),
]


def grown(genome: Genome) -> BlockBank:
    bank, images = BlockBank(), torch.rand(64, *genome.input_shape)
    grow_bank(bank, genome, generator=torch.Generator().manual_seed(0), images=images)
    return bank


@pytest.mark.parametrize("genome", GENOMES, ids=repr)
def test_shapes_are_those_of_a_new_bank(genome: Genome) -> None:
    bank = grown(genome)
    assert entry_shapes(genome) == {i: {name: tuple(t.shape) for name, t in bank[i].items()} for i in bank}
    check_entries(genome, bank)


def test_a_bank_of_other_tensors_is_refused() -> None:
    genome = GENOMES[0]
    state, layout = grown(genome).state(), grown(genome).layout()
    for change in (lambda t: t.reshape(-1), lambda t: t[:0], lambda t: t.half() if t.dim() == 1 else t):
        changed = BlockBank.from_state({key: change(tensor) for key, tensor in state.items()}, layout)
        with pytest.raises(BankError, match="expected tensors of shapes"):
            check_entries(genome, changed)
    assert all(isinstance(one, nn.Parameter) for one in changed[genome.head.id].values())
