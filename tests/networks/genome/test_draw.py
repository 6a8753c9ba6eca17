"""A drawing names everything, and a difference names exactly what differs."""

from hypothesis import given, settings

from graftwork.networks.genome import (
    Block,
    Genome,
    Head,
    Layer,
    Pool,
    diff,
    draw,
    forward_flops,
    num_parameters,
    receptive_field,
    seed_genome,
    summary,
)
from graftwork.typing import BlockId
from tests.strategies import genomes


@given(genomes())
def test_drawing_has_a_line_for_every_item_and_names_every_entry(genome: Genome) -> None:
    lines = draw(genome).splitlines()
    stem = genome.stem.kind != "none"
    assert len(lines) == 1 + stem + len(genome.body) + 1 + 1  # input, stem, body, head, totals
    assert all(f"({block_id})" in draw(genome) for block_id in genome.ids)
    body = lines[1 + stem : -2]
    for step, line in zip(genome.steps(), body, strict=True):
        assert "×".join(map(str, step.out_shape)) in line
        if isinstance(step.item, Pool):
            assert f"{step.item.kind}-pool {step.item.size}×{step.item.size}" in line
        else:
            assert all(
                f"{block.kernel_size}×{block.kernel_size}·{block.hidden_channels}" in line for block in step.item.blocks
            )
    assert len({len(line.rsplit("MFLOPs")[0]) for line in lines[:-1]}) == 1, "columns are aligned"
    assert f"{num_parameters(genome):,} parameters" in lines[-1]
    assert f"sees {receptive_field(genome)} pixels" in lines[-1]


@given(genomes())
def test_summary_tells_size_and_cost_and_repr_size_alone(genome: Genome) -> None:
    text = summary(genome)
    assert "\n" not in text
    assert f"{len(genome.layers)} layers" in text
    assert f"{forward_flops(genome) / 1e6:.2f} MFLOPs" in text
    for told in (genome.id[:8], f"{len(genome.layers)} layers", "×".join(map(str, genome.input_shape))):
        assert told in repr(genome)


@given(genomes())
def test_nothing_differs_from_itself(genome: Genome) -> None:
    assert diff(genome, genome) == ""
    assert diff(genome, Genome.from_json(genome.to_json())) == ""


@settings(max_examples=50, deadline=None)
@given(genomes(), genomes())
def test_difference_is_empty_only_for_equal_networks_and_turns_round(one: Genome, other: Genome) -> None:
    lines, turned = diff(one, other).splitlines(), diff(other, one).splitlines()
    assert bool(lines) == (one != other)
    swap = {"+": "-", "-": "+"}
    assert sorted(lines) == sorted(swap[line[0]] + line[1:] for line in turned)


def test_moved_pools_and_changed_blocks_differ() -> None:
    def layer(name: str, width: int, start: int = 0) -> Layer:
        return Layer(width, (Block(BlockId(name), 3, 4, start, 4),))

    one = Genome((3, 8, 8), 2, (layer("a", 4), Pool(), layer("b", 4)))
    bodies = [
        (layer("a", 4), layer("b", 4), Pool()),
        (layer("b", 4), Pool(), layer("a", 4)),
        (layer("a", 4), Pool(), layer("b", 5)),
        (layer("a", 4), Pool(), layer("b", 4, 1)),
    ]
    texts = [diff(one, one.replace(body=body)) for body in bodies]
    assert all("- " in text and "+ " in text for text in texts)
    assert len(set(texts)) == len(texts)
    assert texts[3].splitlines() == ["- layer 2: 3×3·4 (b)", "+ layer 2: 3×3·4 → [1:4] (b)"]


def test_growth_shows_as_the_new_blocks() -> None:
    parent = seed_genome("poster", (3, 32, 32), 10)
    first = parent.body[0]
    assert isinstance(first, Layer)
    wide = Layer(first.out_channels, (*first.blocks, Block(BlockId("new"), 5, 8, 0, first.out_channels)))
    deep = Layer(first.out_channels, (Block(BlockId("deeper"), 3, 8, 0, first.out_channels),))
    child = parent.replace(body=(wide, deep, *parent.body[1:]))
    assert diff(parent, child).splitlines() == [
        "+ in layer 0: 5×5·8 (new)",
        "+ layer 1: 3×3·8 (deeper)",
    ]
    assert diff(child, parent).splitlines() == [
        "- in layer 0: 5×5·8 (new)",
        "- layer 1: 3×3·8 (deeper)",
    ]


def test_difference_shows_pools_and_attributes() -> None:
    parent = seed_genome("poster", (3, 32, 32), 10)
    child = parent.replace(body=parent.body[:-1], activation="gelu", head=Head("linear", hidden_features=0))
    text = diff(parent, child)
    assert "- activation: relu\n+ activation: gelu" in text
    assert "- order: " in text
    assert " layer " not in text
    assert f"- head: {parent.head}\n+ head: {child.head}" in text
