"""Optimizers without torch's compiler make the same steps; what is slow to import, a search imports late or never."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork._eager import eager
from graftwork.datasets import cache_folder, load_dataset
from graftwork.training._muon import Muon
from tests.cases.commands import tiny_search

SEARCH = """
import pathlib, sys
from graftwork.cli import _progress, main
from graftwork.networks.kernels import build
from graftwork.session import SilentListener

def refuse(*names):
    found = [name for name in names if name in sys.modules]
    assert not found, found

class First(SilentListener):
    def on_step(self, *_):
        refuse("torch._dynamo", "sympy", "sklearn", "scipy", "pandas", "pyarrow")

_progress.make_listener = lambda **_: First()
build(pathlib.Path(sys.argv[1]))
try:
    main(sys.argv[2:])
finally:
    refuse("torch._dynamo")
"""


def moved(kind: type[torch.optim.Optimizer], **options: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator).requires_grad_()
    optimizer = kind([weight], lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        (weight * torch.randn(6, 4, generator=generator)).square().sum().backward()
        optimizer.step()
    return [weight.detach(), *(value for value in optimizer.state[weight].values())]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "fused": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
        (Muon, {"variant": "norm-reset"}),
    ],
)
def test_the_steps_are_the_same_to_the_bit(kind: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    expected = moved(kind, **options)
    found = moved(eager(kind), **options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert isinstance(eager(kind)([torch.zeros(2, 2, requires_grad=True)], lr=1.0), kind)


def test_a_search_imports_no_compiler_and_no_large_library_before_its_first_update(tmp_path: Path) -> None:
    """Importing the compiler takes longer than all else that a resume does."""
    load_dataset("digits")  # reading them, once, takes scikit-learn
    words = [sys.executable, "-c", SEARCH, cache_folder(), *tiny_search(tmp_path)]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
