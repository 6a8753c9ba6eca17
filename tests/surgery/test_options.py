"""The options of surgery: one list for readers and type checkers, and the same one for the code."""

import inspect
from collections.abc import Callable
from typing import Any, Unpack

import pytest
import torch
from torch import nn

from graftwork.surgery import (
    DeepenOptions,
    GrowthOptions,
    WidenOptions,
    _deepen,
    _widen,
    deepen,
    plan_deepen,
    plan_widen,
    plan_widen_all,
    widen,
    widen_all,
)


def test_the_options_that_are_written_down_are_those_that_the_functions_take() -> None:
    """Types for callers (``WidenOptions``, ``DeepenOptions``) and what is really taken must not part."""

    def taken(*functions: Callable[..., Any]) -> set[str]:
        parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    inner = {"call", "dtype", "optimizers"}
    assert taken(_widen.prepared, _widen.build_plan) - inner == set(WidenOptions.__annotations__)
    assert taken(_deepen._planned, _deepen._build) - inner == set(DeepenOptions.__annotations__)
    for function, options in (
        *((f, WidenOptions) for f in (plan_widen, widen, plan_widen_all, widen_all)),
        *((f, DeepenOptions) for f in (plan_deepen, deepen)),
    ):
        assert inspect.signature(function).parameters["options"].annotation == Unpack[options]
        assert all(f"``{key}``" in (function.__doc__ or "") for key in options.__annotations__)
        assert all(key in (options.__doc__ or "") + (GrowthOptions.__doc__ or "") for key in options.__annotations__)
    model, x = _model()
    with pytest.raises(TypeError, match="chekc"):
        widen(model, "0", extra=2, example_input=x, chekc=False)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="chekc"):
        deepen(model, "0", example_input=x, chekc=False)  # type: ignore[call-arg]


def _model() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), torch.randn(2, 4)


@pytest.mark.parametrize(
    "grow",
    [
        lambda model, x, **options: widen(model, "0", extra=2, example_input=x, **options),
        lambda model, x, **options: widen_all(model, 1.5, example_input=x, **options),
    ],
)
def test_the_method_is_r2r_by_default(grow: Callable[..., Any]) -> None:
    grown = []
    for options in ({}, {"method": "r2r"}, {"method": "net2net"}):
        model, x = _model()
        grow(model, x, **options)
        grown.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])
