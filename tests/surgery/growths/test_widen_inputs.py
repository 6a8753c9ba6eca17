"""More channels in a model's input: not heard at first, wherever the input is read, and then they learn."""

import pytest
import torch
from torch import Tensor, nn

from graftwork.surgery import WidenInputs, remove

from .test_widen_interface import Classifier, X, _built, _grown, _run, _trained


@pytest.mark.parametrize("channels", [3, 1])
def test_new_channels_of_the_input_are_not_heard_and_then_learn(channels: int) -> None:
    model, x = _built(lambda: Classifier(channels=channels)), X[:, :channels]
    optimizer = _trained(model, x)
    weight, before = model.conv.weight.detach().clone(), _run(model, x)
    _grown(model, WidenInputs("conv", 1), x, optimizer=optimizer)
    more = torch.cat([x, torch.randn_like(x[:, :1])], 1)
    torch.testing.assert_close(_run(model, more), before, rtol=1e-13, atol=1e-13)
    assert torch.equal(model.conv.weight[:, :channels], weight)
    assert model.conv.in_channels == channels + 1
    model.train()(more).square().sum().backward()
    optimizer.step()
    assert model.conv.weight[:, channels:].all()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("std", torch.rand(3, 1, 1) + 0.5)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv((x - self.mean) / self.std)  # type: ignore[no-any-return]


def test_statistics_of_the_input_continue_at_their_mean() -> None:
    model = _built(Scaled)
    before, mean = _run(model, X), model.mean.clone()
    _grown(model, WidenInputs(None, 2), X)
    torch.testing.assert_close(_run(model, torch.cat([X, X[:, :2]], 1)), before)
    assert model.std.shape == (5, 1, 1)
    torch.testing.assert_close(model.mean[3:], mean.mean().expand(2, 1, 1))


class _Skip(nn.Module):
    """Its second convolution reads the input beside other channels, in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(11), nn.Conv2d(11, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(self.norm(torch.cat([h, x, h.tanh()], 1)))  # type: ignore[no-any-return]


def test_an_input_that_is_read_again_beside_other_channels_grows_there_too() -> None:
    model = _built(_Skip)
    optimizer = _trained(model, X)
    weight, slots = model.second.weight.detach().clone(), optimizer.state[model.second.weight]["exp_avg"].clone()
    before = _run(model, X)
    receipt = _grown(model, WidenInputs("first", 1), X, optimizer=optimizer)
    more = torch.cat([X, torch.randn_like(X[:, :1])], 1)
    torch.testing.assert_close(_run(model, more), before)
    old = [*range(7), *range(8, 12)]
    assert torch.equal(model.second.weight[:, old], weight)
    assert torch.equal(optimizer.state[model.second.weight]["exp_avg"][:, old], slots)
    assert (model.norm.num_features, model.second.in_channels) == (12, 12)
    model.train()(more).square().sum().backward()
    assert model.second.weight.grad[:, 7].all()
    assert remove(model, receipt, example_input=more, optimizer=optimizer).gap < 1e-12
    assert torch.equal(model.second.weight, weight)
    assert torch.equal(optimizer.state[model.second.weight]["exp_avg"], slots)
