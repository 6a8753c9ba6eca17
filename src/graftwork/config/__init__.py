"""TOML and flags → frozen, validated config → objects.

`SearchConfig` holds every option (`read_options` reads a file of them), `parse_budget` reads a `Budget`, `Problem` is
the data, `seed_of` its first network, and `prepare` makes a `Setup`: everything that `graftwork.search` takes, with the
`Plan` that `make_plan` fixes before the first step. `choose_workers` decides between one process and several workers,
by `measure_workers`; each `Way` is how fast the machine trains so.
"""

from graftwork.config._budget import Budget, parse_budget
from graftwork.config._config import SearchConfig, read_options
from graftwork.config._setup import Problem, Setup, make_plan, prepare, seed_of
from graftwork.config._ways import Way, WorkersChoice, choose_workers, measure_way, measure_workers

__all__ = [
    "Budget",
    "Problem",
    "SearchConfig",
    "Setup",
    "Way",
    "WorkersChoice",
    "choose_workers",
    "make_plan",
    "measure_way",
    "measure_workers",
    "parse_budget",
    "prepare",
    "read_options",
    "seed_of",
]
