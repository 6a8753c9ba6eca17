"""Laws of outputs, inputs and removals on random networks: what is there stays, and what goes leaves no trace."""

from collections import Counter
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import (
    ModelGrowth,
    Widen,
    WidenInputs,
    WidenOutputs,
    grow,
    growth_sites,
    remove,
)

from .test_random_networks import _scrambled, examples, plans

seen: Counter[str] = Counter()


def _growth(kind: int, model: torch.nn.Module, x: torch.Tensor) -> ModelGrowth:
    sites = growth_sites(model, x).widenable if kind == 3 else []
    if kind == 1:
        return WidenInputs(None, 1)
    if sites:
        return Widen(sites[-1], factor=1.5)
    return WidenOutputs(None, 1 + kind, init="mean" if kind else "zero")


@settings(max_examples=20, **examples)
@given(plan=plans, seed=st.integers(0, 99))
def test_random_networks_keep_what_is_there_and_lose_what_is_removed(plan: Any, seed: int) -> None:
    model = _scrambled(plan, seed).eval()
    x, fresh = (torch.randn(n, 2, 4, 4, dtype=torch.float64) for n in (3, 4))
    for kind in (seed % 4, (seed + 2) % 4):
        growth = _growth(kind, model, x)
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            before = model(fresh)
        try:
            receipt = grow(model, growth, example_input=x)
        except SurgeryError:
            seen["refused"] += 1
            continue
        seen[receipt.kind] += 1
        more = [torch.cat([t, torch.randn_like(t[:, :1])], 1) if kind == 1 else t for t in (x, fresh)]
        with torch.no_grad():
            after = model(more[1])
        assert output_gap(before, after[:, : before.shape[1]]) <= 1e-9
        removal = remove(model, receipt, example_input=more[0])
        assert removal.gap <= 1e-9
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
        if kind == 2:
            grow(model, growth, example_input=x)


def test_the_law_above_has_seen_every_kind() -> None:
    assert min(seen[kind] for kind in ("widen", "widen-outputs", "widen-inputs")) >= 3, seen
