"""Which tensors a genome needs, and of what shapes."""

from graftwork.errors import BankError
from graftwork.networks.bank._bank import BlockBank
from graftwork.networks.genome import Genome, Layer
from graftwork.typing import BlockId

Shapes = dict[str, tuple[int, ...]]


def entry_shapes(genome: Genome) -> dict[BlockId, Shapes]:
    """Shape of every tensor of every entry that a genome names, as `grow_bank` makes them."""
    normed, found = genome.norm != "none", dict[BlockId, Shapes]()
    stem, size = genome.stem, genome.stem.kernel_size
    if stem.kind != "none":
        rest = _norm(stem.out_channels) if stem.kind == "conv" and normed else {"bias": (stem.out_channels,)}
        found[stem.id] = {"filter": (stem.out_channels, genome.input_shape[0], size, size), **rest}
    for step in genome.steps():
        for block in step.item.blocks if isinstance(step.item, Layer) else ():
            hidden, size = block.hidden_channels, block.kernel_size
            found[block.id] = {
                "filter": (hidden, step.in_shape[0], size, size),
                "mixing": (block.out_channels, hidden, 1, 1),
                "bias": (block.out_channels,),
                **(_norm(hidden) if normed else {"filter_bias": (hidden,)}),
            }
    found[genome.head.id] = _head(genome)
    return found


def _norm(width: int) -> Shapes:
    return {"norm_weight": (width,), "norm_bias": (width,)}


def _head(genome: Genome) -> Shapes:
    head, classes, hidden = genome.head, genome.num_classes, genome.head.hidden_features
    if head.kind == "linear":
        return {"weight": (classes, genome.head_features), "bias": (classes,)}
    inner = _norm(hidden) if head.kind == "r2r" and genome.norm != "none" else {"hidden_bias": (hidden,)}
    return {"weight": (classes, hidden), "bias": (classes,), "hidden": (hidden, genome.head_features), **inner}


def check_entries(genome: Genome, bank: BlockBank) -> None:
    """Raise `BankError` unless a bank holds exactly the tensors that a genome needs, of one floating type."""
    for block_id, shapes in entry_shapes(genome).items():
        entry = bank[block_id]
        held = {name: tuple(tensor.shape) for name, tensor in entry.items()}
        if held != shapes or len({tensor.dtype for tensor in entry.values()}) > 1:
            raise BankError(f"bank: block {block_id!r}: expected tensors of shapes {shapes}, got {ascii(held)[:300]}")
