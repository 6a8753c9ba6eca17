"""What growth by surgery is worth: experiments on ordinary modules, over a grid of cells.

`GRIDS` holds every `GridExperiment` by name: ``growth`` (the poster's: a small network grown in mid-training),
``deep-growth`` (a transformer and a ResNet deepened late, once, against the envelope of networks from scratch) and
``carry`` (the loss through a growth, with and without the optimizer's state). `run_grid` runs one.
"""

from collections.abc import Mapping

from experiments.growing._carry import CARRY
from experiments.growing._deep_growth import DEEP_GROWTH
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, run_grid
from experiments.growing._growth import GROWTH

__all__ = ["CARRY", "DEEP_GROWTH", "GRIDS", "GROWTH", "Cell", "GridExperiment", "Setting", "Table", "run_grid"]

GRIDS: Mapping[str, GridExperiment] = {e.name: e for e in (GROWTH, DEEP_GROWTH, CARRY)}
"""Experiments by the name that ``python -m experiments`` takes."""
