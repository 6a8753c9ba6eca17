"""Stored images become network input channel by channel."""

import pytest
import torch

from graftwork.networks.execution import InputTransform


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_channel_has_its_own_mean_and_deviation(channels: int) -> None:
    mean, std = (0.1, 0.3, 0.5, 0.9)[:channels], (0.2, 0.25, 0.5, 1.5)[:channels]
    images = torch.randint(0, 256, (3, 5, 7, channels), dtype=torch.uint8)
    found = InputTransform(mean, std)(images)
    expected = (images.double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(found.double(), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
    assert found.permute(0, 2, 3, 1).is_contiguous()
