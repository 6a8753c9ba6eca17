"""Weights that are computed from parameters: weight normalization, parametrizations."""

from typing import Any

from graftwork.surgery._parametrized import REMOVE, computed_by
from graftwork.surgery._space import Reason, freeze
from graftwork.surgery._trace import Info, Trace
from graftwork.surgery.operations._registry import OPERATIONS, bind


@OPERATIONS.handles("_weight_norm_interface")
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
    """Return why a sum with the weight of the module that runs can't grow, None if nothing known computes it."""
    how = computed_by(trace.model.get_submodule(trace.place))
    return Reason(f"the weight of {trace.place!r} is computed {how}") if how else None
