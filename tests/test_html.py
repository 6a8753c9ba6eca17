"""What notebooks show of searches and growths: tables, with every text of others escaped."""

import re

import torch
from torch import nn

import graftwork as gw
from graftwork.evolution import Plan


class Odd(nn.Module):
    """A module whose part has a name that would be markup."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<b>", nn.Linear(4, 4))
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.get_submodule("<b>")(x)))


def _cells(page: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", page)


def test_a_search_shows_its_rounds_and_members() -> None:
    plan = Plan(1, initial_steps=2, steps_per_generation=2)
    setup = gw.prepare(data="digits", recipe="paper", population_size=3, num_survivors=2, precision="float32",
                       passes="torch", threads=1, num_calibration=20, plan=plan)  # fmt: skip
    *_, last = gw.search(setup.state, **setup.parts)
    assert _cells(plan._repr_html_()) == ["0", "2", "1", "4"]
    assert "TFLOP" in Plan(0, flops=10**12)._repr_html_()
    shown = _cells(last._repr_html_())
    assert set(last.members) <= set(shown)
    assert shown.count("survives") == 2
    assert sum(cell.endswith(" of m0") for cell in shown) == len(last.births)
    assert set(setup.population.members) <= set(_cells(setup.population._repr_html_()))
    assert "&lt;Population" in setup.population._repr_html_()


def test_growths_show_their_changes_escaped() -> None:
    model, x = Odd(), torch.randn(3, 4)
    planned = gw.plan(model, gw.Widen("<b>", extra=2), example_input=x)
    receipt = planned.apply()
    for shown in (planned._repr_html_(), receipt._repr_html_()):
        assert "&lt;b&gt;.weight" in shown
        assert "<b>" not in shown
