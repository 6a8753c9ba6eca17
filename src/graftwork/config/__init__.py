"""TOML and flags → frozen, validated config → objects.

`SearchConfig` holds every option (`read_options` reads a file of them), `parse_budget` reads a `Budget`, `Problem` is
the data, and `prepare` makes a `Setup`: everything that `graftwork.search` takes, with the `Plan` that `make_plan`
fixes before the first step.
"""

from graftwork.config._budget import Budget, parse_budget
from graftwork.config._config import SearchConfig, read_options
from graftwork.config._growth import mutation_of
from graftwork.config._plan import make_plan, measure_speed, shared_part
from graftwork.config._setup import Problem, Setup, prepare

__all__ = [
    "Budget",
    "Problem",
    "SearchConfig",
    "Setup",
    "make_plan",
    "measure_speed",
    "mutation_of",
    "parse_budget",
    "prepare",
    "read_options",
    "shared_part",
]
