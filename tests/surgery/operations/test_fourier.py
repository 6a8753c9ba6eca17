"""Fourier transforms over space or time treat every channel alone; over channels they are refused."""

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import widen

METHODS = ("r2r", "net2net", "netmorph")


class Spectral(nn.Module):
    """The layer of a Fourier neural operator as its authors write it: real pairs of weights, a buffer of zeros."""

    def __init__(self, channels: int, modes: int, *, pairs: bool) -> None:
        super().__init__()
        self.channels, self.modes, self.pairs = channels, modes, pairs
        shape = (channels, channels, modes)
        kind = {"dtype": torch.float64} if pairs else {"dtype": torch.complex128}
        self.weights = nn.Parameter(0.1 * torch.randn(*shape, *((2,) if pairs else ()), **kind))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.view_as_complex(self.weights) if self.pairs else self.weights
        low = torch.fft.rfft(x)
        out = torch.zeros(len(x), self.channels, low.shape[-1], dtype=torch.complex128)
        out[:, :, : self.modes] = torch.einsum("bix,iox->box", low[:, :, : self.modes], weights)
        return torch.fft.irfft(out, n=x.shape[-1])


class Operator(nn.Module):
    def __init__(self, *, pairs: bool = False) -> None:
        super().__init__()
        self.lift, self.spectral = nn.Conv1d(1, 8, 1), Spectral(8, 3, pairs=pairs)
        self.skip, self.out = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.lift(x))
        return self.out(torch.tanh(self.spectral(x) + self.skip(x)))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_fourier_neural_operator_is_widened_exactly_or_refused(method: str, pairs: bool) -> None:
    torch.manual_seed(0)
    model, x = Operator(pairs=pairs).double(), torch.randn(3, 1, 16).double()
    model.spectral.weights.data = model.spectral.weights.data.to(torch.float64 if pairs else torch.complex128)
    before = model(x)
    widen(model, "lift", extra=4, example_input=x, method=method)
    assert model.lift.out_channels == 12
    assert model.spectral.weights.shape[0] == 12
    assert output_gap(before, model(x)) <= 1e-10


class Mixer(nn.Module):
    """Mixes tokens and channels by the real part of a transform, as FNet does."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.up, self.down, self.dims = nn.Linear(4, 8), nn.Linear(8, 3), dims

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.fft.fftn(torch.tanh(self.up(x)), dim=self.dims).real)


def test_a_transform_over_tokens_lets_channels_grow_and_one_over_channels_is_refused_by_name() -> None:
    x = torch.randn(2, 5, 4).double()
    model = Mixer((1,)).double()
    before = model(x)
    widen(model, "up", extra=4, example_input=x)
    assert output_gap(before, model(x)) <= 1e-10
    with pytest.raises(SurgeryError, match="a dimension that a Fourier transform runs over"):
        widen(Mixer((1, 2)).double(), "up", extra=4, example_input=x)
