"""Analytic costs agree with what is counted and measured on the network itself."""

import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from graftwork.networks import bind
from graftwork.networks.execution import run_item, run_stem
from graftwork.networks.genome import (
    TRAINING_FACTOR,
    Block,
    Genome,
    Head,
    Layer,
    Pool,
    flops_per_item,
    forward_flops,
    num_parameters,
    parameters_per_entry,
    parameters_per_item,
    receptive_field,
    seed_genome,
    training_flops,
)
from graftwork.typing import BlockId
from tests.strategies import genomes, grown, random_images, scramble, seeds


def _counted(genome: Genome, count: int) -> int:
    generator = torch.Generator().manual_seed(0)
    bank, _ = grown(genome, generator)
    member = bind(genome, bank, form="reference").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        member(random_images(genome, count, generator))
    return int(counter.get_total_flops())


@settings(max_examples=30, deadline=None)
@given(genomes())
def test_flops_are_what_pytorch_counts_in_the_reference_form(genome: Genome) -> None:
    assert 3 * forward_flops(genome) == _counted(genome, 3)
    assert training_flops(genome, 5) == 5 * TRAINING_FACTOR * forward_flops(genome)


def test_flops_of_the_posters_network_are_known() -> None:
    genome = seed_genome("poster", (3, 32, 32), 10)
    assert forward_flops(genome) == _counted(genome, 1) > 10**6


@settings(max_examples=30, deadline=None)
@given(genomes())
def test_parameters_are_what_the_bank_owns(genome: Genome) -> None:
    bank, member = grown(genome, torch.Generator().manual_seed(0))
    assert num_parameters(genome) == bank.num_parameters
    assert num_parameters(genome) == sum(tensor.numel() for tensor in member.parameters_by_key().values())
    assert len(parameters_per_item(genome)) == len(flops_per_item(genome)) == len(genome.body) + 2
    for item, parameters, flops in zip(
        genome.body, parameters_per_item(genome)[1:-1], flops_per_item(genome)[1:-1], strict=True
    ):
        assert (parameters == 0) == (flops == 0) == isinstance(item, Pool)


@settings(max_examples=30, deadline=None)
@given(genomes())
def test_parameters_of_each_entry_are_those_of_its_tensors_in_the_bank(genome: Genome) -> None:
    bank, _ = grown(genome, torch.Generator().manual_seed(0))
    owned = {block_id: sum(tensor.numel() for tensor in bank[block_id].values()) for block_id in bank}
    assert parameters_per_entry(genome) == owned


def _seen(genome: Genome, seed: int) -> tuple[int, int]:
    """Height and width of the input that the middle position before the head depends on, by gradient."""
    generator = torch.Generator().manual_seed(seed)
    bank, member = grown(genome, generator)
    scramble(bank, [member], generator)
    run = member.settings("evaluate")
    images = random_images(genome, 1, generator).requires_grad_()
    out = run_stem(genome.stem, images, member.weights, run)
    for item in genome.body:
        out = run_item(item, out, member.weights, run)
    out[0, :, out.shape[2] // 2, out.shape[3] // 2].square().sum().backward()
    assert images.grad is not None
    touched = images.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = touched.any(1).nonzero(), touched.any(0).nonzero()
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def _enlarged(genome: Genome) -> Genome:
    """The same network for images so large that the middle sees no edge, smooth and without norms over positions."""
    side = 2 * receptive_field(genome) + 20
    pools = tuple(Pool("avg", item.size) if isinstance(item, Pool) else item for item in genome.body)
    head = Head("linear", hidden_features=0, pooling="avg")
    return genome.replace(input_shape=(genome.input_shape[0], side, side), body=pools, head=head)


@settings(max_examples=25, deadline=None)
@given(genomes(max_layers=3, norms=("batch", "none"), activations=("gelu", "silu")), seeds)
def test_receptive_field_is_what_gradients_reach(genome: Genome, seed: int) -> None:
    large = _enlarged(genome)
    assert _seen(large, seed) == (receptive_field(large), receptive_field(large))


def test_receptive_field_of_known_networks() -> None:
    def layer(name: str, size: int) -> Layer:
        return Layer(3, (Block(BlockId(name), size, 2, 0, 3),))

    shape = (3, 32, 32)
    assert receptive_field(Genome(shape, 2, (layer("a", 1),))) == 1
    assert receptive_field(Genome(shape, 2, (layer("a", 3), layer("b", 5)))) == 7
    assert receptive_field(Genome(shape, 2, (layer("a", 3), Pool(), layer("b", 3)))) == 3 + 1 + 4
