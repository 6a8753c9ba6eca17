"""Modules whose weight is computed: where its parameters stand, and which of them a spectral norm divides."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

PARAMETRIZED = ".parametrizations.weight"
"""End of the path under which ``torch.nn.utils.parametrize`` keeps what a weight is computed from."""
REMOVE = (
    "remove it (torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm or "
    "remove_spectral_norm), grow, and put it on again"
)


def spectral_norms(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the path of every module with a spectral norm, and the name of the parameter that it divides."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, chain in getattr(module, "parametrizations", {}).items():
            if any(isinstance(one, _SpectralNorm) for one in chain):
                yield path, f"{prefix}parametrizations.{name}.original"
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001 - where the older function hangs itself
            if isinstance(hook, SpectralNorm):
                yield path, f"{prefix}{hook.name}_orig"
