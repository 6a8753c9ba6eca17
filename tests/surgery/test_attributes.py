"""Numbers that PyTorch's own modules hold about their width follow it, also where no tensor says it."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from graftwork.surgery import growth_log, replay, widen


def _convolutional(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "instance": lambda: nn.InstanceNorm2d(8),
    "instance with statistics": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
    "batch": lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False),
    "synchronized": lambda: nn.SyncBatchNorm(8, affine=False, track_running_stats=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_number_of_features_of_a_norm_follows(name: str) -> None:
    model = _convolutional(NORMS[name]())
    receipt = widen(model, "0", extra=4, example_input=torch.randn(2, 3, 6, 6))
    assert model[1].num_features == 12
    assert "1.num_features: 8 → 12" in str(receipt)


def test_an_instance_norm_over_one_image_without_a_batch_counts_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Conv2d(8, 2, 1))
    widen(model, "0", extra=4, example_input=torch.randn(3, 7, 7))
    assert model[1].num_features == 12


def test_the_sizes_of_an_unflatten_follow_and_are_rebuilt_from_the_log() -> None:
    def build(size: tuple[int, ...]) -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 8 * 4), nn.Unflatten(1, size), nn.Conv2d(8, 3, 1))

    x = torch.randn(3, 5)
    for size, grown in (((8, 2, 2), (12, 2, 2)), ((-1, 2, 2), (-1, 2, 2))):
        model = build(size)
        widen(model, "0", extra=16, example_input=x)
        assert model[1].unflattened_size == grown
        again = build(size)
        replay(again, json.loads(json.dumps(growth_log(model))))
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x), model(x))
