"""Compiled passes do what PyTorch's operations do, in every shape."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.networks import Member, bind, recalibrate
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.networks.kernels import EPSILON, Kernels
from graftwork.typing import ACTIVATIONS, BlockId, PoolKind


def _layer(name: str, out_channels: int, *blocks: tuple[int, int, int, int]) -> Layer:
    made = (Block(BlockId(f"{name}{n}"), size, hidden, a, b) for n, (size, hidden, a, b) in enumerate(blocks))
    return Layer(out_channels, tuple(made))


def _genome(activation: str = "gelu", norm: str = "batch", stem: str = "whiten", pool: PoolKind = "max") -> Genome:
    """Several kernel sizes, ranges that overlap, widths that fill no vector, an odd side before a pool."""
    body = (
        _layer("a", 32, (3, 32, 0, 32), (5, 8, 0, 32), (1, 6, 16, 32)),
        Pool(pool, 2),
        _layer("b", 34, (3, 12, 0, 34), (3, 10, 0, 17)),
        Pool(pool, 2),
        _layer("c", 34, (3, 8, 0, 34)),
    )
    stems = {
        "whiten": Stem("whiten", out_channels=24, kernel_size=2),
        "conv": Stem("conv", out_channels=10),
        "reducing": Stem("whiten", out_channels=12, kernel_size=3, stride=2),
        "none": Stem(),
    }
    head = Head("linear", hidden_features=0, pooling=pool)
    return Genome((3, 12, 12), 5, body, stem=stems[stem], head=head, activation=activation, norm=norm)  # type: ignore[arg-type]


def _member(genome: Genome) -> tuple[Member, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 12, 12, 3, generator=generator).permute(0, 3, 1, 2)
    bank = BlockBank()
    grow_bank(bank, genome, generator=generator, initialisation="random", images=images)
    for _, parameter, _ in bank.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return bind(genome, bank), images


def _everything(member: Member, x: Tensor, *, half: bool) -> dict[str, Tensor]:
    """Outputs and gradients of training, then statistics and outputs of scoring."""
    wanted = {key: p for key, p in member.parameters_by_key().items() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        member.train()
        logits = member(x)
        weight = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
        gradients = torch.autograd.grad((logits.float() * weight).sum(), list(wanted.values()))
        with torch.no_grad():
            recalibrate([member], x)
            scored = member.eval()(x)
    found = {"logits": logits.detach(), "scored": scored, **dict(zip(wanted, gradients, strict=True))}
    return {**{key: value.float() for key, value in found.items()}, **member.state_dict()}


def _gaps(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    assert one.keys() == other.keys()
    return {
        key: float((one[key] - other[key]).norm() / other[key].norm().clamp(min=1e-6))
        for key in one
        if float(other[key].norm()) > 1e-5
    }


CASES = [(activation, "batch", "whiten") for activation in ACTIVATIONS]
CASES += [("relu", "batch", "conv"), ("silu", "none", "none"), ("gelu", "none", "conv"), ("gelu", "batch", "reducing")]


@pytest.mark.parametrize(("activation", "norm", "stem"), CASES)
def test_outputs_gradients_and_statistics_equal_those_of_torch_within_rounding(
    kernels: Kernels, activation: str, norm: str, stem: str
) -> None:
    member, x = _member(_genome(activation, norm, stem))
    plain = _everything(member, x, half=False)
    set_kernels(kernels)
    gaps = _gaps(_everything(member, x, half=False), plain)
    assert len(gaps) > 20
    assert max(gaps.values()) < 2e-5, gaps


@pytest.mark.parametrize("stem", ["whiten", "conv", "none"])
@pytest.mark.parametrize("frozen", ["stem a", "stem a b c", "a0 b1 c", "a1 a2 b0", "b c"])
def test_gradients_equal_those_of_torch_where_some_blocks_are_frozen(kernels: Kernels, stem: str, frozen: str) -> None:
    member, x = _member(_genome("relu", stem=stem))
    for key, parameter in member.parameters_by_key().items():
        if key.startswith(tuple(frozen.split())):
            parameter.requires_grad_(False)
    plain = _everything(member, x, half=False)
    set_kernels(kernels)
    gaps = _gaps(_everything(member, x, half=False), plain)
    assert len(gaps) > 10
    assert max(gaps.values()) < 2e-5, gaps


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_is_as_near_to_float32_as_it_is_by_torch(kernels: Kernels, activation: str) -> None:
    member, x = _member(_genome(activation, pool="avg"))  # where two are nearly equal, rounding chooses the larger
    exact = _everything(member, x, half=False)
    plain = _gaps(_everything(member, x, half=True), exact)
    set_kernels(kernels)
    compiled = _gaps(_everything(member, x, half=True), exact)
    assert sum(compiled.values()) < 1.2 * sum(plain.values())


def test_hidden_channels_are_not_kept_for_the_way_back(kernels: Kernels) -> None:
    member, x = _member(_genome(stem="none"))
    set_kernels(kernels)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        member(x)
    shapes = [tuple(tensor.shape[1:]) for tensor in kept]
    assert {(32, 12, 12), (8, 12, 12), (6, 12, 12)} <= set(shapes)  # the volumes of the first layer
    assert (46, 12, 12) not in shapes
    assert shapes.count((22, 6, 6)) == 1  # all hidden channels of the second: as a volume, not once more


def test_gradients_have_the_layout_of_their_parameters(kernels: Kernels) -> None:
    member, x = _member(_genome())
    set_kernels(kernels)
    member(x).sum().backward()
    trained = [p for p in member.parameters_by_key().values() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in trained)


def test_several_threads_give_the_same_values_and_the_same_bits_each_time(kernels: Kernels) -> None:
    shape = (8, 33, 24, 24)
    volume, gradient = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight, bias, mixing = torch.rand(33) + 0.5, torch.randn(33), torch.randn(33, 66) / 8

    def run() -> list[Tensor]:
        table = kernels.normaliser(volume, weight, bias)
        out = kernels.forward(volume, table, "gelu")
        d, sums = kernels.backward(volume, gradient, table, "gelu")
        whole_way, by_norm = kernels.backward(volume, gradient, table, "gelu", weight)
        wide, whole = d.clone(memory_format=torch.preserve_format), torch.cat([d, d], 1)
        whole = whole.contiguous(memory_format=torch.channels_last)
        kernels.add(wide, gradient)
        kernels.add(whole, gradient)
        pooled, which = kernels.pool(volume)
        back = kernels.unpool(pooled, which, volume.shape)
        mixed = kernels.mix([volume, out], [table, table], "gelu", mixing, bias, gradient)
        ds, *others = kernels.mix_backward([volume, out], [table, table], "gelu", mixing, gradient, weight.repeat(2))
        return [table, out, d, sums, wide, whole, whole_way, by_norm, pooled, back, mixed, *ds, *others]

    single = run()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = run(), run()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for one, other in zip(single, first, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)


def _noise(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 8, 16, 24, 48, 64, 80])
def test_sums_and_ways_back_hold_for_rows_of_any_width(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    volume, gradient = _noise(dtype, 3, width, 13, 7) + 2, _noise(dtype, 3, width, 13, 7)  # 273 rows: no whole flushes
    table = kernels.normaliser(volume, torch.rand(width) + 0.5, torch.randn(width))
    mean, variance, scale, shift = table
    exact = volume.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(variance.double(), exact.var((0, 2, 3), correction=0), atol=1e-5, rtol=1e-5)
    d, sums = kernels.backward(volume, gradient, table, "tanh")
    z = (exact * scale.double().view(-1, 1, 1) + shift.double().view(-1, 1, 1)).requires_grad_()
    (expected,) = torch.autograd.grad(z.tanh(), z, gradient.double())
    products = expected * (exact - mean.double().view(-1, 1, 1))
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(d.double(), expected, **close)
    for found, terms in zip(sums, (products, expected), strict=True):
        gaps = (found - terms.sum((0, 2, 3))).abs() / terms.abs().sum((0, 2, 3))
        assert gaps.max() < close["rtol"]


MIXTURES = {  # widths of the volumes, channels of the output and of the source
    "one": ((16,), 16, 16),
    "narrow": ((8,), 16, 3),
    "odd": ((7, 9, 1), 11, 5),
    "wide": ((33, 40), 35, 35),
    "one channel": ((1,), 1, 1),
    "a source with more": ((24,), 8, 12),
}


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MIXTURES)
def test_a_layer_mixed_at_once_and_its_way_back_equal_float64(
    kernels: Kernels, name: str, dtype: torch.dtype, *, normed: bool
) -> None:
    widths, out, channels = MIXTURES[name]
    volumes = [_noise(dtype, 3, width, 13, 5) + 1 for width in widths]  # 195 rows: three tiles, and half a pair
    source, gradient = _noise(dtype, 3, channels, 13, 5), _noise(dtype, 3, out, 13, 5)
    hidden = sum(widths)
    mixing = (torch.randn(out, hidden) / hidden**0.5).to(dtype).float()
    bias, weight, shift = torch.randn(out), torch.rand(hidden) + 0.5, torch.randn(hidden)
    parts = list(zip(volumes, weight.split(widths), shift.split(widths), strict=True))
    tables = [kernels.normaliser(volume, a.clone(), b.clone()) for volume, a, b in parts]

    exact = [one.double().requires_grad_() for one in (*volumes, weight, shift, mixing, bias)]
    xs, (a, b, m, c) = exact[: len(widths)], exact[len(widths) :]
    if normed:
        z = F.batch_norm(torch.cat(xs, 1), None, None, a, b, training=True, eps=EPSILON)
    else:  # the table is taken as given: the way back ends there
        _, _, scale, offset = torch.cat(tables, 1).double().view(4, -1, 1, 1)
        z = (torch.cat(xs, 1) * scale + offset).detach().requires_grad_()
    y = F.conv2d(z.tanh(), m[..., None, None], c)
    both = min(out, channels)
    residual = F.pad(source.double()[:, :both], (0, 0, 0, 0, 0, out - both))
    leaves = [*xs, m, c, a, b] if normed else [z, m, c]
    expected = torch.autograd.grad(y, leaves, gradient.double())

    mixed = kernels.mix(volumes, tables, "tanh", mixing, bias, source)
    ds, by_norm, by_mixing, by_bias = kernels.mix_backward(
        volumes, tables, "tanh", mixing, gradient, weight if normed else None
    )
    assert mixed.dtype == dtype
    assert by_mixing.shape == (out, hidden, 1, 1)
    first = ds if normed else [torch.cat(ds, 1)]
    found = [mixed, *first, by_mixing.flatten(1), by_bias, *(by_norm if normed else ())]
    for one, other in zip(found, [y + residual, *expected], strict=True):
        gap = (one.double() - other).norm() / other.norm()
        assert gap < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 7, 8, 16, 20])
def test_adding_fewer_channels_equals_torch_to_the_bit(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    out, x = _noise(dtype, 2, 16, 5, 5), _noise(dtype, 2, width, 5, 5)
    expected, common = out.clone(), min(16, width)
    expected[:, :common] += x[:, :common]
    kernels.add(out, x)
    assert torch.equal(out, expected)


def test_members_whose_weights_are_bfloat16_run_as_by_torch(kernels: Kernels) -> None:
    member, x = _member(_genome())
    member.weights = {  # type: ignore[assignment]
        block_id: {name: nn.Parameter(tensor.detach().bfloat16()) for name, tensor in entry.items()}
        for block_id, entry in member.weights.items()
    }
    member.bfloat16()
    filters = [entry["filter"] for entry in member.weights.values() if "mixing" in entry]
    found = []
    for way in (None, kernels):
        set_kernels(way)
        logits = member.train()(x.bfloat16())
        found.append([logits, *torch.autograd.grad(logits.sum(), filters), member.eval()(x.bfloat16())])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() < 0.5 * one.abs().max()  # gradients err by 0.2 either way; garbage by 1e27


def test_nan_is_handed_on(kernels: Kernels) -> None:
    member, x = _member(_genome())
    set_kernels(kernels)
    x = x.clone()
    x[0, 0, 3, 3] = float("nan")
    assert member(x).isnan().any()
