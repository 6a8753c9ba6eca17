"""Modules whose weight is computed: where its parameters stand, and which of them a spectral norm divides."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm

PARAMETRIZED = ".parametrizations.weight"
"""End of the path under which ``torch.nn.utils.parametrize`` keeps what a weight is computed from."""
REMOVE = (
    "remove it (torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm or "
    "remove_spectral_norm), grow, and put it on again"
)


def computed_by(module: nn.Module) -> str | None:
    """Return what computes the weight of a module, and what to do about it; None where nothing known does."""
    chains = getattr(module, "parametrizations", {}).values()
    names = [type(one).__name__.lstrip("_") for chain in chains for one in chain]
    if names:
        return f"by a parametrization ({', '.join(names)}): {REMOVE}"
    if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):  # noqa: SLF001
        return (
            "by pruning (torch.nn.utils.prune): make the zeros permanent (prune.remove), grow, and prune again, or "
            "load the mask with prune.custom_from_mask"
        )
    return None


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
