"""The shared strategies reach every feature of a genome, and `scramble` leaves nothing at its start."""

from itertools import pairwise

import torch
from hypothesis import HealthCheck, given, settings

from graftwork.networks.genome import Genome, Pool
from graftwork.typing import ACTIVATIONS, KERNEL_SIZES, NORMS
from tests.strategies import double, genomes, grown, random_images, scramble, seeds


def _features(genome: Genome) -> set[str]:
    found = {f"stem {genome.stem.kind}", f"head {genome.head.kind}", f"pooling {genome.head.pooling}"}
    found |= {f"norm {genome.norm}", f"activation {genome.activation}", f"depth {len(genome.layers)}"}
    found |= {f"pool {item.kind}" for item in genome.body if isinstance(item, Pool)}
    found |= {f"kernel {block.kernel_size}" for block in genome.blocks()}
    for layer in genome.layers:
        ranges = [(block.start, block.stop) for block in layer.blocks]
        found |= {"sum"} if len(ranges) > len(set(ranges)) else set()
        found |= {"concat"} if len(ranges) > 1 and all(a[1] == b[0] for a, b in pairwise(ranges)) else set()
    return found | ({"scaled"} if genome.head.scale != 1 else set())


def test_random_genomes_cover_every_feature() -> None:
    seen: set[str] = set()

    @settings(max_examples=200, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(genomes())
    def collect(genome: Genome) -> None:
        seen.update(_features(genome))

    collect()
    wanted = {f"stem {kind}" for kind in ("none", "conv", "whiten")}
    wanted |= {f"head {kind}" for kind in ("mlp", "linear", "r2r")}
    wanted |= {f"pooling {kind}" for kind in ("none", "avg", "max")}
    wanted |= {f"norm {kind}" for kind in NORMS} | {f"activation {kind}" for kind in ACTIVATIONS}
    wanted |= {f"kernel {size}" for size in KERNEL_SIZES} | {f"depth {depth}" for depth in (1, 2, 3, 4)}
    assert wanted | {"pool max", "pool avg", "sum", "concat", "scaled"} <= seen


@settings(max_examples=25, deadline=None)
@given(genomes(), seeds)
def test_scrambled_networks_run_in_both_precisions_and_no_tensor_is_left_at_its_start(
    genome: Genome, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank, member = grown(genome, generator)
    before = {key: value.clone() for key, value in bank.state().items()}
    scramble(bank, [member], generator)
    assert before
    assert all(not torch.equal(value, before[key]) for key, value in bank.state().items())
    assert all((variance > 0).all() and (mean != 0).all() for mean, variance in member.statistics.values())
    images = random_images(genome, 3, generator)
    member.eval()
    with torch.no_grad():
        single = member(images)
        double(bank, [member])
        exact = member(images.double())
    assert exact.dtype == torch.float64
    assert torch.isfinite(exact).all()
    scale = float(exact.abs().max())
    # instance and layer norms of nearly constant channels magnify rounding up to 1/sqrt(EPSILON) times
    assert float((single.double() - exact).abs().max()) <= 1e-2 * max(scale, 1.0)
