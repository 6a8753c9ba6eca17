"""Weights that are computed from parameters: weight normalization, spectral normalization, parametrizations."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from graftwork.surgery._handlers import Registry, bind
from graftwork.surgery._space import Reason, freeze
from graftwork.surgery._trace import Info, Trace

__all__ = ["PARAMETRIZED", "REMOVE", "WEIGHT_NORM", "parametrization", "spectral_norms"]

PARAMETRIZED = ".parametrizations.weight"
"""End of the path under which ``torch.nn.utils.parametrize`` keeps what a weight is computed from."""
REMOVE = (
    "remove it (torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm or "
    "remove_spectral_norm), grow, and put it on again"
)
WEIGHT_NORM = Registry()


@WEIGHT_NORM.handles("_weight_norm_interface")
def _weight_norm(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``g v / ‖v‖``: new rows are free, new columns would change the norm of the old rows."""
    values = bind(func, args, kwargs)
    v, g, own = trace.info(values["v"]), trace.info(values["g"]), values["dim"]
    for dim, expr in enumerate(v.dims):
        if dim == own:
            trace.couple(expr, g.dims[dim], "weight normalization")
            trace.use(g, dim, consumed=False)
            trace.produces(v, dim)
        else:
            trace.use(v, dim, consumed=False)
            freeze(expr, Reason(f"weight normalization divides {v.parameter!r} by a norm over the dimension: {REMOVE}"))
    trace.put(result[0], Info(list(v.dims), computed=True))
    trace.put(result[1], Info(list(g.dims), computed=True))


def parametrization(trace: Trace) -> Reason | None:
    """Return why a sum with the weight of the module that runs can't grow, None if no parametrization makes it."""
    found = getattr(trace.model.get_submodule(trace.place), "parametrizations", {})
    names = [type(part).__name__.lstrip("_") for parts in found.values() for part in parts]
    if not names:
        return None
    return Reason(f"the weight of {trace.place!r} is computed by a parametrization ({', '.join(names)}): {REMOVE}")


def spectral_norms(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the path of every module with a spectral norm, and the name of the parameter that it divides."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parts in getattr(module, "parametrizations", {}).items():
            if any(isinstance(part, _SpectralNorm) for part in parts):
                yield path, f"{prefix}parametrizations.{name}.original"
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001 - where the older function hangs itself
            if isinstance(hook, SpectralNorm):
                yield path, f"{prefix}{hook.name}_orig"
