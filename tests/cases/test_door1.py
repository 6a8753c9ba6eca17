"""Growing any module: what people train with is followed, or refused with the true reason."""

import re
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import graftwork as gw
from graftwork.errors import SurgeryError


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [nn.InstanceNorm2d, nn.BatchNorm2d])
def test_the_number_of_features_of_a_norm_without_tensors_follows(kind: Callable[..., nn.Module]) -> None:
    """`num_features` stays 8 where there are 12 channels."""
    norm = kind(8, affine=False, track_running_stats=False)
    gw.widen(_normed(norm), "0", extra=4, example_input=torch.randn(2, 3, 6, 6))
    assert norm.num_features == 12


def test_an_instance_norm_is_widened_where_warnings_are_errors() -> None:
    """PyTorch warns of the wrong number at every forward; as an error, the warning stops the growth."""
    x = torch.randn(2, 3, 6, 6)
    model = _normed(nn.InstanceNorm2d(8))
    gw.widen(model, "0", extra=4, example_input=x)
    model(x)


def _normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))


class _Twice(nn.Module):
    """Takes one input as both."""

    def __init__(self, inner: nn.Bilinear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x)


def _pruned() -> nn.Module:
    layer = nn.Linear(4, 8)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.parametrize(
    ("make", "site", "x", "reason"),
    [
        pytest.param(_pruned, "0", torch.ones(2, 4), "prun", id="pruned"),
        pytest.param(
            lambda: nn.EmbeddingBag(20, 8), "0", torch.arange(15).view(3, 5), "embedding_?bag", id="embedding bag"
        ),
        pytest.param(lambda: _Twice(nn.Bilinear(4, 4, 8)), "0.inner", torch.ones(2, 4), "bilinear", id="bilinear"),
    ],
)
def test_a_layer_that_makes_channels_is_widened_or_refused_with_the_reason(
    make: Callable[[], nn.Module], site: str, x: Tensor, reason: str
) -> None:
    """The refusal says that there is no linear map, convolution or embedding, which is false."""
    said = None
    try:
        gw.widen(nn.Sequential(make(), nn.ReLU(), nn.Linear(8, 3)), site, extra=2, example_input=x)
    except SurgeryError as error:
        said = str(error)
    assert said is None or re.search(reason, said, re.IGNORECASE)


class _Collecting(nn.Module):
    """Its forward leaves a loss in a list, counts its calls, and remembers the last three."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.losses: list[Tensor] = []
        self.calls, self.last = {"n": 0}, deque([0, 0], maxlen=3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        self.losses.append(y.pow(2).mean())
        self.calls["n"] += 1
        self.last.append(1)
        return y


def test_lists_that_a_forward_fills_are_as_before_a_growth() -> None:
    """The trace and the check leave their losses in the model, and the next step counts them all."""
    model, x = _Collecting(), torch.randn(5, 4)

    def loss() -> float:
        y = model(x)
        total = y.mean() + 0.1 * sum(model.losses)
        model.losses.clear()
        return total.item()

    before, calls, last = loss(), dict(model.calls), list(model.last)
    gw.widen(model, "a", extra=4, example_input=x)
    left = (list(model.losses), dict(model.calls), list(model.last))
    assert loss() == pytest.approx(before, abs=1e-4)
    assert left == ([], calls, last)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("after", ["layers.0", "layers.1"])
def test_an_encoder_that_was_deepened_still_takes_a_padding_mask(after: str) -> None:
    """Deepening is accepted; then evaluation fails, because stock encoders pack padded rows into nested tensors."""
    x, mask = torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    with torch.no_grad():
        model(x, src_key_padding_mask=mask)
        with pytest.raises(SurgeryError, match="padding"):
            gw.deepen(model, after=after, example_input=x)
        assert model.eval()(x, src_key_padding_mask=mask).shape == x.shape


def test_one_more_stock_encoder_layer_is_stacked_or_the_branch_in_the_way_is_named() -> None:
    """The copy of a pre-norm layer changes the outputs, and the refusal tells a number but no reason."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    said = "no refusal"
    try:
        gw.deepen(model, after="layers.1", like="layers.1", example_input=torch.randn(2, 5, 16))
    except SurgeryError as error:
        said = str(error)
    assert re.search("no refusal|MultiheadAttention|branch", said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scriptable_model_can_be_scripted_after_it_was_deepened() -> None:
    """torch.jit.script stops in graftwork's own source."""
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), torch.randn(2, 3, 8, 8)
    torch.jit.script(model)
    gw.deepen(model, after="0", kernel_size=3, example_input=x)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


class _Spectral(nn.Module):
    """Mixes the lowest frequencies of all channels, as a Fourier neural operator does."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.cfloat) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        low = torch.fft.rfft2(x)[..., : self.modes, : self.modes]
        return torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", low, self.weight), s=x.shape[-2:])


class _Operator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.spectral, self.skip = nn.Conv2d(1, 8, 1), _Spectral(8, 3), nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        return self.out(F.gelu(self.spectral(x) + self.skip(x)))


def test_channels_are_widened_through_an_fft_over_space() -> None:
    """It acts on each channel alone, but is refused as not understood."""
    model, x = _Operator(), torch.randn(2, 1, 8, 8)
    before = model(x)
    gw.widen(model, "lift", extra=4, example_input=x)
    assert model.lift.out_channels == 12
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_optimizers_that_step_during_the_backward_pass_are_carried_along() -> None:
    """One optimizer a parameter, stepped by hooks: everything moves after both growths, and no gradient is left."""
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    optimizers = {parameter: torch.optim.AdamW([parameter], 1e-2) for parameter in model.parameters()}

    def step(parameter: Any) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    _train(model, x)
    gw.widen(model, "0", extra=4, example_input=x, optimizer=list(optimizers.values()))
    gw.deepen(model, after="1", example_input=x, optimizer=list(optimizers.values()))
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _train(model, x)
    assert any("graft" in name for name in old)
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, old[name])] == []
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []


def _train(model: nn.Module, x: Tensor) -> None:
    for _ in range(3):
        model(x).pow(2).sum().backward()
