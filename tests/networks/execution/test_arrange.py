"""Putting blocks side by side is linear; taking gradients apart is its adjoint."""

import pytest
import torch
from torch import Tensor

from graftwork.networks.execution._arrange import Convolutions, arrange
from graftwork.networks.genome import Block, Layer
from graftwork.typing import BlockId, Norm

IN_CHANNELS = 3


def _layer(*blocks: tuple[int, int, int, int], out_channels: int = 8) -> Layer:
    made = (Block(BlockId(f"b{n}"), *block) for n, block in enumerate(blocks))
    return Layer(out_channels, tuple(made))


LAYERS = {
    "lone": _layer((3, 4, 0, 8)),
    "lone, of a part": _layer((3, 4, 2, 6)),
    "one size": _layer((3, 4, 0, 8), (3, 2, 0, 4), (3, 6, 4, 8)),
    "several sizes, out of order": _layer((5, 4, 0, 8), (1, 2, 0, 4), (3, 6, 4, 8), (1, 8, 2, 3)),
}


def _weights(layer: Layer) -> dict[BlockId, dict[str, Tensor]]:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).float()

    return {
        block.id: {
            "filter": drawn(block.hidden_channels, IN_CHANNELS, block.kernel_size, block.kernel_size),
            "norm_weight": drawn(block.hidden_channels),
            "norm_bias": drawn(block.hidden_channels),
            "filter_bias": drawn(block.hidden_channels),
            "mixing": drawn(block.stop - block.start, block.hidden_channels, 1, 1),
            "bias": drawn(block.stop - block.start),
        }
        for block in layer.blocks
    }


def _all(parts: Convolutions) -> list[Tensor]:
    found = [*parts.filters, parts.weight, parts.bias, parts.mixing, parts.mixing_bias]
    return [tensor for tensor in found if tensor is not None]


def _product(ones: list[Tensor], others: list[Tensor]) -> float:
    return float(sum((one.double() * other.double()).sum() for one, other in zip(ones, others, strict=True)))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", LAYERS)
def test_taking_apart_is_the_adjoint_of_assembling(name: str, norm: Norm) -> None:
    plan = arrange(LAYERS[name], norm)
    tensors = plan.tensors(_weights(LAYERS[name]))
    parts = plan.assemble(tensors)
    assert (parts.weight is None) == (norm == "none")
    like = [torch.randn_like(tensor) for tensor in _all(parts)]
    count = len(parts.filters)
    weight = None if parts.weight is None else like[count]
    apart = plan.take_apart(like[:count], weight, *like[-3:])
    assert [found.shape for found in apart if found is not None] == [tensor.shape for tensor in tensors]
    found = [tensor for tensor in apart if tensor is not None]
    assert _product(found, tensors) == pytest.approx(_product(like, _all(parts)), rel=1e-5, abs=1e-5)


def test_blocks_of_one_kernel_size_make_one_filter_in_order_of_size() -> None:
    plan = arrange(LAYERS["several sizes, out of order"], "batch")
    parts = plan.assemble(plan.tensors(_weights(LAYERS["several sizes, out of order"])))
    assert [tuple(one.shape) for one in parts.filters if one is not None] == [(10, 3, 1, 1), (6, 3, 3, 3), (4, 3, 5, 5)]
    assert plan.paddings == (0, 1, 2)


def test_filters_without_a_gradient_have_none() -> None:
    layer = LAYERS["one size"]
    plan = arrange(layer, "none")
    apart = plan.take_apart([None], None, torch.ones(12), None, None)
    assert apart[:3] == [None] * 3
    assert all(found is not None for found in apart[3:])
